"""Patches and normalisation."""

from __future__ import annotations

import pytest
import torch

from umt_pipeline.video import pixels
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise_frames, normalise_patches, patchify


def test_patches_are_cut_in_the_order_of_the_published_convolution() -> None:
    video = torch.randn(2, 3, 4, 16, 24)
    weight = torch.randn(5, 3, 1, 8, 8)
    expected = torch.nn.functional.conv3d(video, weight, stride=(1, 8, 8)).flatten(2).transpose(1, 2)
    found = patchify(video.permute(0, 2, 3, 4, 1), 8) @ weight.flatten(1).T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_frames_that_do_not_fit_the_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="16x20"):
        patchify(torch.zeros(1, 1, 16, 20, 3), 8)


def test_normalisation_is_the_formula() -> None:
    frames = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    expected = (frames.double() / 255 - torch.tensor(IMAGENET_MEAN).double()) / torch.tensor(IMAGENET_STD).double()
    found = normalise_frames(frames)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected.float().movedim(-1, -3), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalise_patches(patchify(frames, 4)), patchify(found.movedim(-3, -1), 4), rtol=0, atol=0)


def test_constants_are_made_once_and_serve_with_gradients_too() -> None:
    pixels._constants.cache_clear()
    frames = torch.zeros(1, 1, 8, 8, 3, dtype=torch.uint8)
    with torch.inference_mode():
        normalise_patches(patchify(frames, 4))
    values = patchify(frames, 4).float().requires_grad_()
    normalise_patches(values).sum().backward()
    assert values.grad is not None
    assert pixels._constants.cache_info().misses == 1
