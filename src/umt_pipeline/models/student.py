"""The stage-1 student: video encoder and alignment heads.

Shapes: B clips, V visible tokens, P values per patch, K aligned layers, C teacher output width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.models.alignment import aligned_layers
from umt_pipeline.models.folders import load_model
from umt_pipeline.models.heads import AlignmentHeads
from umt_pipeline.models.vit import VideoViT, ViTConfig

KIND = "umt_student"


class StudentConfig(Config):
    """Sizes of a student.

    Attributes:
        vision: the encoder.
        align_layers: K, blocks aligned with the teacher.
        target_dim: C, width of the teacher's output.
        align_interval: blocks from one aligned block to the next, see :func:`umt_pipeline.models.alignment.aligned_layers`.
    """

    vision: ViTConfig
    align_layers: int
    target_dim: int
    align_interval: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        aligned_layers(self.vision.depth, self.align_layers, self.align_interval)
        return self


class Student(nn.Module):
    """A video encoder with one alignment head for each of its K aligned blocks (UMT section 3.2)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = aligned_layers(config.vision.depth, config.align_layers, config.align_interval)
        self.encoder = VideoViT(config.vision)
        self.heads = AlignmentHeads(config.align_layers, config.vision.dim, config.target_dim)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return unit vectors [K, B, V, C] to compare with the teacher's tokens at the same positions."""
        _, layers_KBVD = self.encoder.forward_layers(patches_BVP, visible_BV, self.layers)
        return self.heads(layers_KBVD, self.encoder.positions(visible_BV))


def load_student(folder: Path) -> Student:
    """Load a stage-1 model folder, in eval mode.

    Raises:
        CheckpointError: the folder is not a complete stage-1 model.
    """
    return load_model(folder, KIND, StudentConfig, Student)


def untrained_student(config: StudentConfig, seed: int) -> Student:
    """Return a student with the initial weights that ``seed`` gives, in eval mode, without touching global randomness."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(config).eval()
