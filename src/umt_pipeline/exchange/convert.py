"""Published checkpoint files to model folders and back: what ``umt import-checkpoint`` and ``umt export-checkpoint`` do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import sha256_file, staged_file, staged_folder
from umt_pipeline.exchange import sizes
from umt_pipeline.exchange.published import load_renamed
from umt_pipeline.exchange.sizes import Asked
from umt_pipeline.models import checkpoints, encoder, student, video_text
from umt_pipeline.models.checkpoints import POSITION_TABLE
from umt_pipeline.models.containers import State, read_checkpoint
from umt_pipeline.models.folders import LoadReport, load_config, model_kind, save_model
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.vit import VideoViT
from umt_pipeline.tasks.classification import model as classifier
from umt_pipeline.tasks.detection import model as detector
from umt_pipeline.tasks.question_answering import model as question_answering

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

_UNTRAINED = "left_at_initial_values"
TORCH_SUFFIXES, SAFETENSORS_SUFFIX = (".pth", ".pt"), ".safetensors"


@dataclass(frozen=True)
class _Format:
    """One kind of published file and the model folder that holds the same.

    Attributes:
        folder_kind: the folder's ``kind``.
        rename: from published names to ours.
        publish: from ours to published names, given the patch size.
        sizes: reads the configuration from the renamed weights.
        build: makes the model.
        load: loads the model folder.
        vision: the model's video encoder.
        prefix: of the encoder's keys in a published file.
        save: writes the folder of a model that has a tokenizer; None: the model has none.
    """

    folder_kind: str
    rename: Callable[[State], State]
    publish: Callable[[State, int], State]
    sizes: Callable[[State, Asked, str], Config]
    build: Callable[[Any], nn.Module]
    load: Callable[[Path], nn.Module]
    vision: Callable[[Any], VideoViT]
    prefix: str
    save: Callable[[Path, Any, PreTrainedTokenizerFast, Mapping[str, Any]], None] | None = None


_FORMATS: dict[str, _Format] = {
    "student": _Format(
        folder_kind=student.KIND,
        rename=checkpoints.student_from_published,
        publish=checkpoints.student_to_published,
        sizes=sizes.student_config,
        build=student.Student,
        load=student.load_student,
        vision=lambda model: model.encoder,
        prefix="encoder.",
    ),
    "encoder": _Format(
        folder_kind=encoder.KIND,
        rename=checkpoints.any_encoder_from_published,
        publish=checkpoints.encoder_to_published,
        sizes=sizes.encoder_config,
        build=lambda config: VideoViT(config.vision),
        load=encoder.load_encoder,
        vision=lambda model: model,
        prefix="",
    ),
    "classifier": _Format(
        folder_kind=classifier.KIND,
        rename=checkpoints.classifier_from_published,
        publish=checkpoints.classifier_to_published,
        sizes=sizes.classifier_config,
        build=classifier.Classifier,
        load=classifier.load_classifier,
        vision=lambda model: model.encoder,
        prefix="",
    ),
    "detector": _Format(
        folder_kind=detector.KIND,
        rename=checkpoints.detector_from_published,
        publish=checkpoints.classifier_to_published,
        sizes=sizes.detector_config,
        build=detector.Detector,
        load=detector.load_detector,
        vision=lambda model: model.encoder,
        prefix="",
    ),
    "video-text": _Format(
        folder_kind=video_text.KIND,
        rename=checkpoints.video_text_from_published,
        publish=checkpoints.video_text_to_published,
        sizes=sizes.video_text_config,
        build=video_text.VideoTextModel,
        load=lambda folder: video_text.load_video_text(folder)[0],
        vision=lambda model: model.vision,
        prefix="vision_encoder.encoder.",
        save=video_text.save_video_text,
    ),
    "question-answering": _Format(
        folder_kind=question_answering.KIND,
        rename=checkpoints.question_answering_from_published,
        publish=checkpoints.question_answering_to_published,
        sizes=sizes.question_answering_config,
        build=question_answering.QuestionAnsweringModel,
        load=lambda folder: question_answering.load_question_answering(folder)[0],
        vision=lambda model: model.vision,
        prefix="vision_encoder.encoder.",
        save=question_answering.save_question_answering,
    ),
}


def import_checkpoint(
    file: Path,
    kind: str,
    out: Path,
    asked: Asked,
    *,
    tokenizer: str | None = None,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    allow_classes: Iterable[str] = (),
    force: bool = False,
) -> LoadReport:
    """Turn a published checkpoint file into a model folder.

    Args:
        file: a torch or ``.safetensors`` file, see :func:`read_checkpoint`.
        kind: what the file is: ``student``, ``classifier``, ``detector``, ``video-text`` or ``question-answering``; or
            ``encoder``, to take the video encoder out of any but a classifier's file.
        out: the folder to write, whole or not at all.
        asked: sizes that the weights' shapes do not tell.
        tokenizer: for ``video-text`` and ``question-answering``, a folder or hub name of the tokenizer that the model was
            trained with.
        allow_missing: glob patterns of keys, in this project's names, that may stay at initial values (of seed 0).
        allow_unexpected: glob patterns of keys that may be left out, besides the frozen teacher of pre-trained stage-2 files,
            see :func:`load_renamed`.
        allow_classes: see :func:`read_checkpoint`.
        force: replace a model folder that is there.

    Returns:
        What was done with each key.

    Raises:
        ConfigError: ``kind`` is unknown, ``out`` is there already, or the tokenizer is missing or not wanted.
        CheckpointError: the file cannot be read, or does not fit and is not allowed to.
    """
    layout = _FORMATS.get(kind)
    if layout is None:
        raise ConfigError(f"kind is {kind!r}, expected one of {', '.join(_FORMATS)}")
    _check_target(out, file, force)
    if (tokenizer is None) != (layout.save is None):
        needy = " and ".join(name for name, other in _FORMATS.items() if other.save is not None)
        raise ConfigError(f"kind is {kind!r}, tokenizer is {tokenizer!r}: {needy} need a tokenizer, no other kind takes one")
    state = layout.rename(read_checkpoint(file, tuple(allow_classes)))
    config = layout.sizes(state, asked, str(file))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = layout.build(config)
    report = load_renamed(
        model, state, source=str(file), allow_missing=allow_missing, allow_unexpected=allow_unexpected
    )
    facts = {"imported_from": file.name, "imported_sha256": sha256_file(file)}
    if report.missing:
        facts[_UNTRAINED] = ", ".join(report.missing)
    with staged_folder(out) as folder:
        if tokenizer is None or layout.save is None:
            save_model(folder, model, config, layout.folder_kind, facts)
        else:
            name = Path(tokenizer) if Path(tokenizer).is_dir() else tokenizer
            layout.save(folder, model, load_tokenizer(name), facts)
    return report


def export_checkpoint(folder: Path, out: Path, *, fused_biases: bool = False, force: bool = False) -> int:
    """Write a model folder's weights under the published names, as a bare state dict.

    As in the published files, a position table is written only if it is interpolated from another clip size; a stage-2 or
    question-answering file also holds the tied copies of its language head. A model imported from a fine-tuned retrieval file
    goes out as one, without a masked-language head.

    Args:
        folder: a student, encoder, classifier, detector, video-text or question-answering model.
        out: a ``.pth``, ``.pt`` or ``.safetensors`` file, written whole or not at all.
        fused_biases: write timm's ``qkv.bias``, zero for the keys, in place of ``q_bias`` and ``v_bias``.
        force: replace a file that is there.

    Returns:
        The number of tensors.

    Raises:
        ConfigError: ``out`` has another suffix or is there already.
        CheckpointError: the folder is no complete model, or one that the published layout cannot hold.
    """
    if out.suffix not in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX):
        raise ConfigError(f"{out}: expected a name that ends in .pth, .pt or .safetensors, found {out.suffix!r}")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"{out} exists already: choose another name" + ("" if out.is_dir() else ", or replace it by --force"))
    kind = model_kind(folder)
    layout = next((layout for layout in _FORMATS.values() if layout.folder_kind == kind), None)
    if layout is None:
        known = ", ".join(layout.folder_kind for layout in _FORMATS.values())
        raise CheckpointError(f"{folder} is a model of kind {kind!r}; published names are known for {known}")
    model = layout.load(folder)
    _require_published_form(model, folder)
    vision = layout.vision(model)
    if vision.config.attention != "joint":
        raise CheckpointError(f"{folder} attends within frames, which the published model does not: it cannot be exported")
    # Where a file without a masked-language head came in, none goes out: ours has random weights.
    untrained = str(load_config(folder, kind)[1].get(_UNTRAINED, "")).split(", ")
    weights = {key: weight for key, weight in model.state_dict().items() if key not in untrained or ".mlm_" not in key}
    state = layout.publish(weights, vision.config.patch_size)
    if vision.config.position_size != (vision.config.frames, vision.config.grid):
        state[f"{layout.prefix}{POSITION_TABLE}"] = vision.positions_AD.unsqueeze(0)
    if fused_biases:
        state = checkpoints.fuse_biases(state)
    _write(state, out)
    return len(state)


def _require_published_form(model: nn.Module, folder: Path) -> None:
    # Written under the published names, such a model would be another one: nothing in the file says how it pools and fuses.
    config = getattr(model, "config", None)
    published: dict[str, str | bool] = {"pool": "mean", "fuse_positions": False, "fuse_pooled": False}
    found = {name: getattr(config, name) for name in published if hasattr(config, name)}
    if any(value != published[name] for name, value in found.items()):
        raise CheckpointError(
            f"{folder} was trained with {_settings(found)}, which the published model does not know: only a model with "
            f"{_settings({name: published[name] for name in found})} can be exported"
        )


def _settings(values: Mapping[str, str | bool]) -> str:
    return ", ".join(f"{name}: {str(value).lower()}" for name, value in values.items())


def _write(state: Mapping[str, torch.Tensor], out: Path) -> None:
    plain = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with staged_file(out) as staged:
        if out.suffix == SAFETENSORS_SUFFIX:
            save_file(plain, staged, metadata={"format": "pt"})
        else:
            torch.save(plain, staged)


def _check_target(out: Path, file: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ConfigError(f"{out} exists already: choose another folder, or replace it by --force")
    if file.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{out} holds {file.name} itself, which --force would delete: choose another folder")
    try:
        model_kind(out)
    except CheckpointError as error:
        raise ConfigError(f"{out} is no model folder, so --force does not replace it: choose another folder") from error
