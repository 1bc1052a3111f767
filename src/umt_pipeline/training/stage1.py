"""Stage 1: the student learns the teacher's tokens at the visible patches (UMT section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.data.replacement import unreadable_share
from umt_pipeline.data.samples import Batch
from umt_pipeline.features.manifest import StoreHeader, store_identity
from umt_pipeline.features.provider import ClipDataset, TargetProvider
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.losses import alignment_loss
from umt_pipeline.models.flops import student_macs, training_flops
from umt_pipeline.models.folders import load_weights, save_model
from umt_pipeline.models.student import KIND, Student, StudentConfig
from umt_pipeline.models.vit import AttentionKind, VideoViT, ViTConfig
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.pixels import normalise_patches


class StudentSize(Config):
    """The part of the student's size that the feature store does not already decide.

    Attributes:
        align_interval: see :class:`StudentConfig`; the teacher's own is ``teacher_features.teacher.interval``.
        attention: see :class:`ViTConfig`; stage 2 wants ``joint``.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    align_interval: float = Field(1.0, gt=0.0)
    attention: AttentionKind = "joint"

    def student_config(self, header: StoreHeader) -> StudentConfig:
        """Return the whole configuration of a student that reads this store's views."""
        sizes = self.model_dump(exclude={"align_interval"})
        vision = ViTConfig(image_size=header.view.size, patch_size=header.patch_size, frames=header.frames, **sizes)
        return StudentConfig(
            vision=vision,
            align_layers=header.layers,
            target_dim=header.target_dim,
            align_interval=self.align_interval,
        )


class Stage1Config(Config):
    """Parameters ``stage1``.

    Attributes:
        student: size of the student.
        targets: ``cached`` reads the feature store; ``online`` decodes videos and runs the teacher at every step.
        verify: share of the store's rows that are computed again and compared before cached training; 0: none.
        train: the loop.
    """

    student: StudentSize
    targets: Targets = "cached"
    verify: float = Field(0.01, ge=0.0, le=1.0)
    train: TrainConfig


class Stage1Task(Task):
    """Student and target provider; the loss is the mean of 2 - 2 cos over layers, clips and visible tokens."""

    def __init__(self, student: Student, provider: TargetProvider) -> None:
        self.model: nn.Module = student
        self.provider = provider
        self._encoder = student.encoder
        self._student_macs = student_macs(student.config, provider.header.frames * provider.header.visible_per_frame)

    def dataset(self) -> ClipDataset:
        return self.provider.dataset()

    def encoder(self) -> VideoViT:
        return self._encoder

    def setup(self, device: torch.device) -> None:
        self.provider.setup(device)

    def compile(self) -> None:
        self.provider.compile()

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        del generator  # everything random here was recorded with the view
        target = self.provider.targets(batch)
        student_KBVC = model(normalise_patches(target.patches_BVP), target.visible_BV)
        return LossParts(alignment_loss(student_KBVC, target.targets_KBVC), unreadable_share(batch))

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]

    def flops_per_clip(self, batch: Batch) -> float | None:
        # The student's way forward and back, and the teacher's forward where targets are online.
        del batch
        teacher = self.provider.teacher_macs()
        return None if teacher is None else float(training_flops(self._student_macs, teacher))


class Stage1Spec(RunSpec):
    """A run of stage 1.

    Attributes:
        student: sizes, which fit the store.
        source: views and targets.
        teacher: names it, for the model card.
    """

    student: StudentConfig
    source: TargetSource
    teacher: str

    def build(self) -> Stage1Task:
        return Stage1Task(Student(self.student), self.source.open())

    def inputs(self) -> dict[str, str]:
        return self.source.inputs()

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        student = Student(self.student)
        load_weights(student, weights, source="trained student")
        facts = {**facts, "store": store_identity(self.source.store), "teacher": self.teacher}
        save_model(folder, student, self.student, KIND, facts)
