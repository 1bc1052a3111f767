"""Model cards: what the hub reads, what people read, and code that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from torch import nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models import encoder, student, video_text
from umt_pipeline.models.card import model_card
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.models.vit import VideoViT, ViTConfig
from umt_pipeline.tasks.classification import model as classifier
from umt_pipeline.tasks.detection import model as detector
from umt_pipeline.tasks.question_answering import model as question_answering

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
TEXT = TextConfig(vocab_size=40, dim=16, layers=3, fusion_layer=2, heads=2, mlp_dim=32, max_positions=12, vision_dim=24)
FACTS = {"steps": 12, "seed": 3, "store_manifest_sha256": "ab" * 32, "teacher": "open_clip:ViT-B-16/openai@0123456789ab"}
# Kind, configuration, model, and the last name that the card's code gives with its shape.
MODELS: dict[str, tuple[Config, Callable[[Any], nn.Module], str, tuple[int, ...]]] = {
    student.KIND: (
        student.StudentConfig(vision=VISION, align_layers=2, target_dim=6), student.Student, "tokens", (1, 32, 24),
    ),
    encoder.KIND: (
        encoder.EncoderConfig(vision=VISION), lambda config: VideoViT(config.vision), "tokens", (1, 32, 24),
    ),
    classifier.KIND: (
        classifier.ClassifierConfig(vision=VISION, classes=5), classifier.Classifier, "probabilities", (1, 5),
    ),
    detector.KIND: (
        detector.DetectorConfig(vision=VISION, classes=5), detector.Detector, "probabilities", (1, 1, 5),
    ),
    video_text.KIND: (
        video_text.VideoTextConfig(vision=VISION, text=TEXT, embed_dim=8), video_text.VideoTextModel, "similarity", (1, 2),
    ),
    question_answering.KIND: (
        question_answering.QuestionAnsweringConfig(vision=VISION, text=TEXT), question_answering.QuestionAnsweringModel,
        "scores", (1, 2),
    ),
}  # fmt: skip


def write_folder(folder: Path, kind: str, facts: dict[str, Any] | None = None) -> str:
    config, build, _, _ = MODELS[kind]
    folder.mkdir(exist_ok=True)
    if kind in (video_text.KIND, question_answering.KIND):
        save: Any = video_text.save_video_text if kind == video_text.KIND else question_answering.save_question_answering
        save(folder, build(config), train_wordpiece(["a disc goes left"], 40), facts)
    else:
        save_model(folder, build(config), config, kind, facts)
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", MODELS)
def test_the_code_of_a_card_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_folder(tmp_path / "model", kind, FACTS)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    statements = [line for line in code[1].splitlines() if line and not line.startswith(("import", "from"))]
    assert len(statements) <= 5
    monkeypatch.chdir(tmp_path / "model")
    names: dict[str, Any] = {}
    exec(code[1], names)
    _, _, name, shape = MODELS[kind]
    assert tuple(names[name].shape) == shape


@pytest.mark.parametrize("kind", MODELS)
def test_a_card_says_what_the_hub_and_people_ask(kind: str, tmp_path: Path) -> None:
    text = write_folder(tmp_path / "first", kind, FACTS)
    data = ModelCard(text).data
    assert (data.license, data.library_name) == ("apache-2.0", "umt_pipeline")
    assert "unmasked-teacher" in data.tags
    assert data.to_dict()["teacher"] == FACTS["teacher"]
    for expected in (
        "2 frames of 32 x 32 pixels, patches of 8", "width 24, 2 blocks, 2 heads", "| Optimiser steps | 12 |",
        "| Seed | 3 |", FACTS["store_manifest_sha256"], "## Intended use and limits",
    ):  # fmt: skip
        assert str(expected) in text
    assert write_folder(tmp_path / "second", kind, FACTS) == text, "the same model always has the same card"


def test_the_number_of_parameters_is_the_model_s(tmp_path: Path) -> None:
    config, build, _, _ = MODELS[classifier.KIND]
    parameters = sum(parameter.numel() for parameter in build(config).parameters())
    assert f"| Parameters | {parameters:,} |" in write_folder(tmp_path, classifier.KIND)


def test_imported_weights_keep_their_own_licence() -> None:
    config = MODELS[student.KIND][0].model_dump(mode="json")
    card = model_card(student.KIND, config, 1, {"imported_from": "b16|x.pth", "other": 1})
    assert ModelCard(card).data.license == "other"
    assert "| Imported from the file | b16\\|x.pth |" in card
    assert "| other | 1 |" in card
    assert "No facts of the training were recorded" in model_card(student.KIND, config, 1, {})
    with pytest.raises(ConfigError, match="no model card is known for kind 'x'"):
        model_card("x", config, 1, {})
