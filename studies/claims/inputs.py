"""Which frames of a clip an experiment reads: a pure function of (seed, clip, pass), for a whole batch at once.

Shapes: B clips, T frames read of each, n any number of draws.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.video.pixels import patchify


class InputConfig(Config):
    """What an encoder reads of a clip.

    Attributes:
        frames: T.
        sampling: ``sparse``: one of each of T equal segments; ``dense``: ``stride`` frames apart, from anywhere.
        stride: of dense sampling; smaller where a clip is too short.
        tubelet: consecutive frames that share a token, 1 as in the paper.
    """

    frames: int = Field(4, ge=1)
    sampling: Literal["sparse", "dense"] = "sparse"
    stride: int = Field(2, ge=1)
    tubelet: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _whole_tubelets(self) -> Self:
        if self.frames % self.tubelet:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}")
        return self

    @property
    def moments(self) -> int:
        """Frames that a clip of tokens has: T / tubelet."""
        return self.frames // self.tubelet

    def training_frames(self, lengths_B: np.ndarray, draws_BT: np.ndarray) -> np.ndarray:
        """Return frame numbers int64 [B, T] of a random view.

        Args:
            lengths_B: frames of each clip, at least T.
            draws_BT: uniform in [0, 1); dense sampling takes the first of each row.
        """
        if self.sampling == "sparse":
            bounds_BT = self._bounds(lengths_B)
            return bounds_BT[:, :-1] + np.floor(draws_BT * np.diff(bounds_BT)).astype(np.int64)
        return self._window(lengths_B, draws_BT[:, 0])

    def test_frames(self, lengths_B: np.ndarray, view: int, views: int) -> np.ndarray:
        """Return frame numbers int64 [B, T] of one of ``views`` evenly spaced test views."""
        share = (view + 0.5) / views
        if self.sampling == "sparse":
            bounds_BT = self._bounds(lengths_B)
            return bounds_BT[:, :-1] + np.floor(share * np.diff(bounds_BT)).astype(np.int64)
        return self._window(lengths_B, np.full(len(lengths_B), share))

    def _bounds(self, lengths_B: np.ndarray) -> np.ndarray:
        return np.arange(self.frames + 1) * lengths_B[:, None] // self.frames

    def _window(self, lengths_B: np.ndarray, share_B: np.ndarray) -> np.ndarray:
        stride_B = np.minimum(self.stride, (lengths_B - 1) // max(self.frames - 1, 1))
        free_B = lengths_B - stride_B * (self.frames - 1)
        start_B = np.floor(share_B * free_B).astype(np.int64)
        return start_B[:, None] + stride_B[:, None] * np.arange(self.frames)


def uniform(seed: int, clips_B: np.ndarray, passes_B: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Return uniform draws float32 [B, count] in [0, 1), each a hash of (seed, clip, pass, stream, index).

    A counter-based generator for a whole batch (SplitMix64's finaliser); one generator object per clip would take longer
    than the step.
    """
    with np.errstate(over="ignore"):
        state_B = _mix(_mix(np.uint64(seed) * np.uint64(1 << 20) + np.uint64(stream)) + clips_B.astype(np.uint64))
        state_B = _mix(state_B + passes_B.astype(np.uint64))
        state_BC = _mix(state_B[:, None] + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return ((state_BC >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    mixed: np.ndarray = np.asarray(value, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def cut(frames_BTSSC: Tensor, patch_size: int, tubelet: int) -> Tensor:
    """Cut frames into patches [B, T / tubelet * N, tubelet * P]; a patch's values are those of one frame after the other."""
    patches_BNP = patchify(frames_BTSSC, patch_size)
    if tubelet == 1:
        return patches_BNP
    patches_BMuNP = patches_BNP.unflatten(1, (frames_BTSSC.shape[1] // tubelet, tubelet, -1))
    return patches_BMuNP.transpose(2, 3).flatten(3).flatten(1, 2)


def every_index(patches_BVP: Tensor) -> Tensor:
    """Return the positions [B, V] of clips without a mask."""
    return torch.arange(patches_BVP.shape[1], device=patches_BVP.device).expand(patches_BVP.shape[:2])
