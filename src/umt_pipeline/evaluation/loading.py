"""Loads the models of an evaluation from the folders that the pipelines wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from umt_pipeline.compute.names import Precision
from umt_pipeline.core.files import read_json
from umt_pipeline.evaluation.encoders import (
    ClipEncoder,
    TeacherEncoder,
    VideoEncoder,
    VideoTextEncoder,
    view_of,
)
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.folders import SKIPPED_FILE, weights_sha256
from umt_pipeline.models.student import load_student, untrained_student
from umt_pipeline.models.teacher import load_teacher
from umt_pipeline.models.video_text import load_video_text


@dataclass(frozen=True)
class ModelFolders:
    """Where the models are. The store says how the teacher was used; a control may be a folder that says why it was skipped."""

    teacher: Path
    feature_store: Path
    stage1: Path
    stage2: Path
    control: Path


@dataclass(frozen=True)
class Models:
    """The loaded models.

    Args:
        teacher: the frame teacher.
        untrained: the student with its initial weights.
        stage1: the student after stage 1.
        stage2: the model after stage 2.
        control: stage 2 from scratch, or None.
        weights: model name -> SHA-256 of its weights file, None for the untrained student.
        skipped: why there is no control.
    """

    teacher: TeacherEncoder
    untrained: VideoEncoder
    stage1: VideoEncoder
    stage2: VideoTextEncoder
    control: VideoTextEncoder | None
    weights: Mapping[str, str | None]
    skipped: str | None = None

    @property
    def video_text(self) -> list[VideoTextEncoder]:
        """The models that know text and video."""
        return [self.stage2] if self.control is None else [self.stage2, self.control]

    @property
    def probed(self) -> dict[str, tuple[str, ClipEncoder]]:
        """Feature name -> name of its model and its encoder, in the order of the report."""
        return {
            "teacher_cls": ("teacher", self.teacher),
            "teacher_patch": ("teacher", self.teacher),
            "untrained": ("untrained", self.untrained),
            "stage1": ("stage1", self.stage1),
            "stage2": ("stage2", self.stage2),
        }

    def frozen(self, keep_tokens: bool) -> list[ClipEncoder]:
        """Return the encoders that give features for probes, stage 2 left out, with their tokens or without."""
        return [replace(encoder, keep_tokens=keep_tokens) for encoder in (self.teacher, self.untrained, self.stage1)]


def load_models(folders: ModelFolders, seed: int, precision: Precision) -> Models:
    """Load all models, in eval mode, onto the GPU if there is one; the seed makes the untrained student.

    They run in ``precision``.

    Raises:
        CheckpointError: a model folder is not complete.
        StoreError: the feature store is not complete (its manifest says how the teacher was used).
    """
    device = default_device()
    student = load_student(folders.stage1).to(device)
    vision = student.config.vision
    # Only the last aligned layer is read here, whatever number stage 1 aligned.
    config = FeatureStore(folders.feature_store).manifest.teacher_config().model_copy(update={"layers": 1})
    teacher = load_teacher(folders.teacher, config, vision.grid, text=True).to(device)
    skipped = _skip_reason(folders.control)
    weights = {
        "teacher": teacher.weights_sha256,
        "untrained": None,
        "stage1": weights_sha256(folders.stage1),
        "stage2": weights_sha256(folders.stage2),
    }
    if skipped is None:
        weights["control"] = weights_sha256(folders.control)
    return Models(
        teacher=TeacherEncoder(teacher, view_of(vision), precision=precision),
        untrained=VideoEncoder("untrained", untrained_student(student.config, seed).to(device).encoder, precision=precision),
        stage1=VideoEncoder("stage1", student.encoder, precision=precision),
        stage2=_video_text("stage2", folders.stage2, precision),
        control=_video_text("control", folders.control, precision) if skipped is None else None,
        weights=weights,
        skipped=skipped,
    )


def _video_text(name: str, folder: Path, precision: Precision) -> VideoTextEncoder:
    model, tokenizer = load_video_text(folder)
    return VideoTextEncoder(name, model.to(default_device()), tokenizer, precision=precision)


def _skip_reason(folder: Path) -> str | None:
    path = folder / SKIPPED_FILE
    if not path.is_file():
        return None
    content: Any = read_json(path)
    reason = content.get("reason") if isinstance(content, dict) else None
    return f"stage 2 from scratch was not trained: {reason or 'stage2.control is false'}"
