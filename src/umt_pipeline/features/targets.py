"""From a batch of decoded views to what the student reads: visible patches and the teacher's targets there.

Extraction and online training both call :func:`draw_targets`, so they cannot drift apart.

Legend: B clip views, T frames of each (F = B * T), S side in pixels, N patches per frame, n of them visible, V = T * n visible
patches per view, P values per patch, K aligned layers, W tower width, C target width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.masking import MaskConfig, draw_visible
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.video.pixels import normalise_frames, patchify
from umt_pipeline.video.views import counter_generator


@dataclass(frozen=True)
class TargetBatch:
    """One batch for the student.

    Args:
        patches_BVP: uint8 pixels of the visible patches.
        visible_BV: their sorted positions in [0, T * N), int64.
        targets_KBVC: the teacher's unit vectors at these positions; no layer (K = 0) where none are wanted.
        attention_BTN: the importance of each patch that drew the mask (the attention of a class token or pool, or token
            norms), float16; None where it was not read.
    """

    patches_BVP: Tensor
    visible_BV: Tensor
    targets_KBVC: Tensor
    attention_BTN: Tensor | None = None


def mask_noise(dataset_id: str, clip_id: str, view_number: int, frames: int, patches: int) -> np.ndarray:
    """Return the uniform noise float32 [T,N] that decides the mask of one view, the same on every machine."""
    return counter_generator("mask", dataset_id, clip_id, view_number).random((frames, patches), dtype=np.float32)


def draw_targets(
    teacher: Teacher | None,
    mask: MaskConfig,
    patch_size: int,
    frames_BTSS3: Tensor,
    noise_BTN: Tensor,
    aligned: bool = True,
) -> TargetBatch:
    """Run the teacher on a batch of views, draw their masks and gather patches and targets at the visible patches.

    The mask is drawn from the importance rounded to float16, as it is stored: it can be drawn again from the store.

    Args:
        teacher: on the device of the frames; None where neither mask nor alignment needs one.
        mask: kind and hidden share.
        patch_size: side of the student's patches in pixels.
        frames_BTSS3: uint8 RGB frames.
        noise_BTN: from :func:`mask_noise`, one per view.
        aligned: whether targets are wanted.
    """
    features = None if teacher is None else run_teacher(teacher, frames_BTSS3)
    attention_BTN = None if features is None else features.attention_BTN
    visible_BV = draw_visible(mask, noise_BTN, attention_BTN)
    patches_BVP = gather_patches(frames_BTSS3, visible_BV, patch_size)
    targets_KBVC = features.targets(visible_BV) if features is not None and aligned else no_targets(visible_BV)
    return TargetBatch(patches_BVP, visible_BV, targets_KBVC, attention_BTN)


def no_targets(visible_BV: Tensor) -> Tensor:
    """Return the targets of no layer, [0,B,V,0]."""
    return torch.zeros((0, *visible_BV.shape, 0), device=visible_BV.device)


@dataclass(frozen=True)
class TeacherFeatures:
    """The teacher's features of every patch of a batch of views.

    Args:
        teacher: whose they are.
        layers_KFNW: raw outputs of its aligned blocks.
        attention_BTN: float16, as it is stored.
    """

    teacher: Teacher
    layers_KFNW: tuple[Tensor, ...]
    attention_BTN: Tensor

    def targets(self, visible_BV: Tensor) -> Tensor:
        """Return the unit vectors [K,B,V,C] at sorted positions, the same number in each frame."""
        B, T, N = self.attention_BTN.shape
        visible_Fn = visible_BV.reshape(B * T, -1) % N
        return self.teacher.project(self.layers_KFNW, visible_Fn).unflatten(1, (B, T)).flatten(2, 3)


def run_teacher(teacher: Teacher, frames_BTSS3: Tensor) -> TeacherFeatures:
    """Run the teacher on a batch of views, each frame on its own."""
    B, T = frames_BTSS3.shape[:2]
    output = teacher(normalise_frames(frames_BTSS3.flatten(0, 1)))
    return TeacherFeatures(teacher, output.layers_KFNW, output.importance_FN.reshape(B, T, -1).half())


def gather_patches(frames_BTSS3: Tensor, visible_BV: Tensor, patch_size: int) -> Tensor:
    """Cut frames into patches and keep the visible ones [B,V,P]."""
    patches_BNP = patchify(frames_BTSS3, patch_size)
    return torch.gather(patches_BNP, 1, visible_BV.unsqueeze(-1).expand(-1, -1, patches_BNP.shape[-1]))
