"""From frames to what a network reads: patches and ImageNet normalisation.

Shapes: B batch, T frames, H W pixels, N patches per frame, P = 3 * patch * patch values per patch in (c, h, w) order.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# The statistics of the published recipe for student and teacher alike: the teacher receives the student's tensor.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def patchify(frames_BTHWC: Tensor, patch_size: int) -> Tensor:
    """Cut frames into patches.

    Args:
        frames_BTHWC: [B, T, H, W, 3], any dtype; H and W are multiples of ``patch_size``.
        patch_size: side of a patch in pixels.

    Returns:
        Patches [B, T * N, P] in (t, h, w) raster order, the values of one patch in (c, h, w) order, which is the order
        of the flattened weight of the convolution that the published checkpoints hold.
    """
    B, T, H, W, C = frames_BTHWC.shape
    if H % patch_size or W % patch_size:
        raise ValueError(f"frames of {H}x{W} pixels cannot be cut into patches of {patch_size} pixels")
    rows, columns = H // patch_size, W // patch_size
    cut = frames_BTHWC.reshape(B, T, rows, patch_size, columns, patch_size, C)
    return cut.permute(0, 1, 2, 4, 6, 3, 5).reshape(B, T * rows * columns, C * patch_size * patch_size)


def normalise_patches(patches_BVP: Tensor) -> Tensor:
    """Turn uint8 patches [..., P] into float32 with ImageNet mean 0 and deviation 1 per channel."""
    shift_P, scale_P = _constants(patches_BVP.device, patches_BVP.shape[-1] // 3)
    return torch.addcmul(shift_P, patches_BVP.float(), scale_P)


def normalise_frames(frames_HWC: Tensor) -> Tensor:
    """Turn uint8 frames [..., H, W, 3] into float32 [..., 3, H, W] with ImageNet mean 0 and deviation 1."""
    shift_C, scale_C = _constants(frames_HWC.device, 1)
    return torch.addcmul(shift_C, frames_HWC.float(), scale_C).movedim(-1, -3).contiguous()


@functools.cache
def _constants(device: torch.device, values: int) -> tuple[Tensor, Tensor]:
    """Return shift and scale of a fused multiply-add: (x / 255 - mean) / std = x * scale + shift.

    Kept on each device: made anew at every call, they would be copied from the host in every step.

    Args:
        device: where.
        values: of a channel, one after the other.
    """
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device).repeat_interleave(values)
        std = torch.tensor(IMAGENET_STD, device=device).repeat_interleave(values)
        return -mean / std, 1.0 / (255.0 * std)
