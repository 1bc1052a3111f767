"""The model card: the README.md of a model folder, in the form that Hugging Face's hub reads.

A card is made from the folder's configuration and facts alone, so the same model always has the same card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from umt_pipeline.core.errors import ConfigError

JsonDict = Mapping[str, Any]

_PAPER = "[Unmasked Teacher](https://arxiv.org/abs/2303.16058) (Li et al., ICCV 2023)"
_FACTS = {
    "steps": "Optimiser steps",
    "seed": "Seed",
    "teacher": "Teacher",
    "store_manifest_sha256": "Manifest of the feature store, SHA-256",
    "stage1_sha256": "Weights of the stage-1 student, SHA-256",
    "text_tower_sha256": "Weights of the text tower, SHA-256",
    "task": "Label task",
    "start_sha256": "Weights that training started from, SHA-256",
    "imported_from": "Imported from the file",
    "imported_sha256": "That file, SHA-256",
    "left_at_initial_values": "Left at initial values",
}


@dataclass(frozen=True)
class _Kind:
    """What cards of one kind of model say: ``use`` gives lines of Python, ``limits`` two sentences."""

    title: str
    task: str
    what: str
    use: Callable[[JsonDict], list[str]]
    limits: str


def model_card(kind: str, config: JsonDict, parameters: int, extra: JsonDict) -> str:
    """Write a model card.

    Args:
        kind: of the model folder.
        config: the model's configuration as JSON, with the video encoder's under ``vision``.
        parameters: their number.
        extra: facts of the training or the import.

    Returns:
        Markdown behind YAML front matter.

    Raises:
        ConfigError: no card is known for this kind of model.
    """
    if kind not in _KINDS:
        raise ConfigError(f"no model card is known for kind {kind!r}, only for {', '.join(_KINDS)}")
    text, vision = _KINDS[kind], config["vision"]
    side, patch = vision["image_size"], vision["patch_size"]
    lines = [
        "---",
        yaml.safe_dump(_front_matter(text, extra), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {text.title}: {vision['frames']} frames of {side} x {side} pixels, patches of {patch}",
        "",
        f"{text.what} The method is {_PAPER}; the files were written by umt_pipeline.",
        "",
        "## Sizes",
        "",
        *_table({"Parameters": f"{parameters:,}", **dict(_sizes(config))}),
        "",
        "## Training",
        "",
        *_training(extra),
        "",
        "## Use",
        "",
        "In this folder, with umt_pipeline installed:",
        "",
        "```python",
        *text.use(config),
        "```",
        "",
        "## Intended use and limits",
        "",
        text.limits,
    ]
    return "\n".join(lines) + "\n"


def _front_matter(text: _Kind, extra: JsonDict) -> dict[str, Any]:
    # Weights made elsewhere keep the licence that their authors gave them.
    imported = {"license": "other", "license_name": "that-of-the-imported-file"}
    return {
        **(imported if "imported_from" in extra else {"license": "apache-2.0"}),
        "library_name": "umt_pipeline",
        "pipeline_tag": text.task,
        "tags": ["video", "unmasked-teacher", "vision-transformer", "arxiv:2303.16058"],
        **({"teacher": extra["teacher"]} if "teacher" in extra else {}),
    }


def _sizes(config: JsonDict) -> Iterator[tuple[str, object]]:
    vision = config["vision"]
    yield "Video encoder", f"width {vision['dim']}, {vision['depth']} blocks, {vision['heads']} heads"
    yield "Tokens of a clip", _tokens(vision)
    if vision["position_frames"] or vision["position_image_size"]:
        frames, side = vision["position_frames"] or vision["frames"], vision["position_image_size"] or vision["image_size"]
        yield "Positions interpolated from", f"{frames} frames of {side} x {side} pixels"
    if config.get("align_layers"):
        interval = config.get("align_interval", 1.0)
        apart = "" if interval == 1 else f", {interval:g} apart"
        yield "Layers aligned with the teacher", f"the last {config['align_layers']}{apart}"
        yield "Width of the teacher's output", config["target_dim"]
    if "classes" in config:
        yield "Classes", config["classes"]
    if "text" in config:
        text = config["text"]
        yield "Text and fusion encoder", (
            f"width {text['dim']}, {text['fusion_layer']} text and {text['layers'] - text['fusion_layer']} fusion layers, "
            f"{text['heads']} heads, {text['vocab_size']} word pieces"
        )
    if "embed_dim" in config:
        yield "Common space", config["embed_dim"]


def _training(extra: JsonDict) -> list[str]:
    known = {title: extra[name] for name, title in _FACTS.items() if extra.get(name) not in (None, "")}
    others = {name: value for name, value in sorted(extra.items()) if name not in _FACTS}
    facts = {**known, **others}
    return _table(facts) if facts else ["No facts of the training were recorded with these weights."]


def _table(rows: Mapping[str, object]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows.items()]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)]


def _tokens(vision: JsonDict) -> int:
    return int(vision["frames"] * (vision["image_size"] // vision["patch_size"]) ** 2)


def _patches(vision: JsonDict) -> str:
    clip = f"torch.zeros(1, {vision['frames']}, {vision['image_size']}, {vision['image_size']}, 3, dtype=torch.uint8)"
    return f"patches = normalise_patches(patchify({clip}, {vision['patch_size']}))  # RGB frames"


def _loading(module: str, name: str, *others: str) -> list[str]:
    imports = [
        f"from umt_pipeline.{module} import {name}",
        "from umt_pipeline.video.pixels import normalise_patches, patchify",
        *others,
    ]
    return ["from pathlib import Path", "", "import torch", "", *sorted(imports), ""]


def _encoding(vision: JsonDict) -> list[str]:
    tokens = _tokens(vision)
    return [
        _patches(vision),
        f"tokens = encoder(patches, torch.arange({tokens}).unsqueeze(0))  # [1, {tokens}, {vision['dim']}]",
    ]


def _use_student(config: JsonDict) -> list[str]:
    load = 'encoder = load_student(Path(".")).encoder'
    return [*_loading("models.student", "load_student"), load, *_encoding(config["vision"])]


def _use_encoder(config: JsonDict) -> list[str]:
    return [*_loading("models.encoder", "load_encoder"), 'encoder = load_encoder(Path("."))', *_encoding(config["vision"])]


def _use_classifier(config: JsonDict) -> list[str]:
    return [
        *_loading("tasks.classification.model", "load_classifier"),
        'model = load_classifier(Path("."))',
        _patches(config["vision"]),
        f"probabilities = model(patches).softmax(dim=-1)  # [1, {config['classes']}]",
    ]


def _use_detector(config: JsonDict) -> list[str]:
    return [
        *_loading("tasks.detection.model", "load_detector"),
        'model = load_detector(Path("."))',
        _patches(config["vision"]),
        "people = torch.tensor([[[0.1, 0.2, 0.5, 0.9]]])  # left, upper, right, lower edge as shares of the frame",
        f"probabilities = model(patches, people).sigmoid()  # [1, 1, {config['classes']}]",
    ]


def _use_video_text(config: JsonDict) -> list[str]:
    tokens, length = _tokens(config["vision"]), config["text"]["max_positions"]
    tokenizer = "from umt_pipeline.models.tokenizer import encode_batch"
    clean = "" if config["clean_captions"] else ", clean=False"
    return [
        *_loading("models.video_text", "load_video_text", tokenizer),
        'model, tokenizer = load_video_text(Path("."))',
        _patches(config["vision"]),
        f"_, video = model.encode_video(patches, torch.arange({tokens}).unsqueeze(0))",
        f'_, text = model.encode_text(*encode_batch(tokenizer, ["a caption", "another"], {length}{clean}))',
        "similarity = video @ text.T  # cosines [1, 2]",
    ]


def _use_question_answering(config: JsonDict) -> list[str]:
    tokens, length = _tokens(config["vision"]), min(25, config["text"]["max_positions"])
    words = f'*encode_batch(tokenizer, ["what is moving?"], {length})'
    return [
        *_loading(
            "tasks.question_answering.model",
            "encode_answers, load_question_answering",
            "from umt_pipeline.models.tokenizer import encode_batch",
        ),
        'model, tokenizer = load_question_answering(Path("."))',
        _patches(config["vision"]),
        f"question = model.encode(patches, torch.arange({tokens}).unsqueeze(0), {words})",
        'scores = model.log_likelihoods(question, encode_answers(tokenizer, ["a dog", "a car"]))  # [1, 2]',
    ]


_KINDS = {
    "umt_student": _Kind(
        title="Video encoder of stage 1, with its alignment heads",
        task="feature-extraction",
        what="A video transformer with joint space-time attention, trained from scratch to give a frozen image model's tokens "
        "at the patches that it sees.",
        use=_use_student,
        limits="It is meant to be fine-tuned, or to become the video encoder of a video-text model. "
        "Its targets come from single frames, so it knows appearance rather than motion, with the biases of its teacher "
        "and of its videos.",
    ),
    "umt_encoder": _Kind(
        title="Video encoder",
        task="feature-extraction",
        what="A video transformer with joint space-time attention, without heads.",
        use=_use_encoder,
        limits="It is meant to be fine-tuned, or to give features that something else pools. "
        "What it knows, and whose biases it has, depends on the training that it was taken from.",
    ),
    "umt_classifier": _Kind(
        title="Video classifier",
        task="video-classification",
        what="A video transformer with joint space-time attention; its tokens, pooled to one vector and normed, go to one "
        "linear layer. `classes.json`, where there is one, names its classes in order.",
        use=_use_classifier,
        limits="It is meant for clips like those that it was fine-tuned on, sampled and scaled in the same way. "
        "It answers with one of its classes whatever it is shown, and its probabilities are not calibrated.",
    ),
    "umt_detector": _Kind(
        title="Action detector",
        task="video-classification",
        what="A video transformer with joint space-time attention; its normed tokens, averaged over time, are pooled within "
        "each person's box and go to one linear layer; with `pool: attention` so does what the box asks of all tokens of the "
        "clip. `classes.json`, where there is one, names its actions in order.",
        use=_use_detector,
        limits="It is meant to tell what people do whose boxes in the middle frame something else has found; it finds nobody "
        "itself. Each action has a probability of its own, which is not calibrated and repeats the biases of its videos.",
    ),
    "umt_video_text": _Kind(
        title="Video-text model",
        task="feature-extraction",
        what="A video transformer and a BERT: both project into a common space for retrieval, and the BERT's last layers "
        "attend to video tokens for matching.",
        use=_use_video_text,
        limits="It is meant to rank clips by texts and texts by clips, in the language and the domain of its captions. "
        "Its scores compare candidates but are no probabilities that a text is true, and it repeats its captions' biases.",
    ),
    "umt_question_answering": _Kind(
        title="Model that answers questions about clips",
        task="visual-question-answering",
        what="A video transformer, a BERT that reads the question and attends to video tokens in its last layers, and a small "
        "causal BERT that reads what the first one made of the question and gives an answer's probability.",
        use=_use_question_answering,
        limits="It is meant to rank the answers of a given list, for questions like those that it was fine-tuned on. "
        "It ranks them whatever is asked, right answer among them or not, and repeats its answers' biases.",
    ),
}
