"""Stage 1: the student learns the teacher's tokens at the visible places (UMT section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from umt_pipeline.core.config import Config
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.replacement import unreadable_share
from umt_pipeline.data.samples import Batch
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.features.provider import CachedTargets, ClipDataset, OnlineTargets, TargetProvider, needs_teacher
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.losses import alignment_loss
from umt_pipeline.models.flops import student_macs, training_flops
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.vit import VideoViT, ViTConfig
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.pixels import normalise_patches

Targets = Literal["cached", "online"]


class StudentSize(Config):
    """The part of the student's size that the feature store does not already decide."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)

    def student_config(self, header: StoreHeader) -> StudentConfig:
        """Return the whole configuration of a student that reads this store's views."""
        vision = ViTConfig(
            image_size=header.view.size, patch_size=header.patch_size, frames=header.frames, **self.model_dump()
        )
        return StudentConfig(vision=vision, align_layers=header.layers, target_dim=header.target_dim)


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
        """See :class:`Task`."""
        return self.provider.dataset()

    def encoder(self) -> VideoViT:
        """See :class:`Task`."""
        return self._encoder

    def setup(self, device: torch.device) -> None:
        """See :class:`Task`."""
        self.provider.setup(device)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """See :class:`Task`; everything random here was recorded with the view."""
        del generator
        target = self.provider.targets(batch)
        student_KBVC = model(normalise_patches(target.patches_BVP), target.visible_BV)
        return LossParts(alignment_loss(student_KBVC, target.targets_KBVC), unreadable_share(batch))

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        """See :class:`Task`."""
        return batch["clip"]

    def flops_per_clip(self, batch: Batch) -> float | None:
        """See :class:`Task`: the student's way forward and back, and the teacher's forward where targets are online."""
        del batch
        teacher = self.provider.teacher_macs()
        return None if teacher is None else float(training_flops(self._student_macs, teacher))


def open_provider(
    store: str,
    targets: Targets,
    teacher: str,
    clips: str,
    media_root: str,
    split: str = "train",
    media: str = "video",
    aligned: bool = True,
) -> TargetProvider:
    """Open the target provider from JSON-able arguments.

    Args:
        store: feature store folder; online, only its manifest is read.
        targets: ``cached`` or ``online``.
        teacher: teacher folder, read online only, and only if targets or masks need it.
        clips: mapped table of the clips (:class:`OnlineTargets` says which columns), read online only.
        media_root: folder of the media, read online only.
        split: whose clips.
        media: ``video`` or ``image``; online only, for a store holds one kind.
        aligned: whether targets are wanted, or only views and masks.
    """
    opened = FeatureStore(Path(store))
    if targets == "cached":
        return CachedTargets(opened, split, aligned)
    header = opened.manifest
    tower = None
    if needs_teacher(header, aligned):
        config = TeacherConfig(
            source=header.teacher.source, layers=header.layers, normalisation=header.teacher.normalisation  # type: ignore[arg-type]
        )
        tower = load_teacher(Path(teacher), config, header.grid)
    return OnlineTargets(tower, header, MappedTable(Path(clips)), Path(media_root), split, media, aligned)


def make_task(student: dict[str, Any], **provider: Any) -> Stage1Task:
    """Task factory for :class:`umt_pipeline.training.launch.RunSpec`.

    Args:
        student: a :class:`StudentConfig` as JSON.
        provider: arguments of :func:`open_provider`.
    """
    return Stage1Task(Student(StudentConfig.model_validate(student)), open_provider(**provider))
