"""Augmentation is drawn once per clip, from the clip's own counter, and is timm's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.augment import (
    OPERATIONS,
    AugmentConfig,
    RandAugmentConfig,
    apply_augmentation,
    draw_augmentation,
    operation_argument,
)

CLIP = ClipConfig(frames=3, size=32)


def draw(config: AugmentConfig, epoch: int = 0, repeat: int = 0, clip: str = "a") -> Any:
    return draw_augmentation(CLIP, config, clip, epoch, repeat, 30, 48, 64)


def frames(count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def test_the_operations_are_timms_of_increasing_strength() -> None:
    assert list(OPERATIONS) == auto_augment._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("magnitude", "draw", "sign"), [(7.0, 0.9, -1), (6.6, 0.1, 1), (0.0, 0.1, 1), (10.0, 0.9, -1)])
def test_arguments_are_timms(
    name: str, magnitude: float, draw: float, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: draw)
    level = auto_augment.LEVEL_TO_ARG[name]
    expected = level(magnitude, {}) if level is not None else ()
    found = operation_argument(name, magnitude, sign)
    # timm writes the argument of some operations as a bare number where it means a tuple of one.
    assert found == pytest.approx(expected if isinstance(expected, tuple) else (expected,))


def test_every_repeat_shows_the_same_frames_otherwise() -> None:
    config = AugmentConfig(flip=True)
    one, two, later, other = draw(config), draw(config, repeat=1), draw(config, epoch=1), draw(config, clip="b")
    assert draw(config) == one
    assert one.view.frame_indices == two.view.frame_indices
    assert len({one.view.crop, two.view.crop, later.view.crop, other.view.crop}) == 4
    assert one.view.frame_indices != later.view.frame_indices
    assert one.view.frame_indices != other.view.frame_indices


def test_switching_a_part_off_leaves_the_others() -> None:
    full, plain = draw(AugmentConfig(flip=True, erase=1.0)), draw(AugmentConfig(flip=False, erase=0.0))
    assert full.view.crop == plain.view.crop
    assert full.operations == plain.operations
    assert plain.erased is None
    assert not plain.view.flip
    without = draw(AugmentConfig(flip=True, erase=1.0, rand_augment=None))
    assert (without.view, without.erased, without.operations) == (full.view, full.erased, ())


def test_one_draw_for_all_frames() -> None:
    """A clip of one repeated frame stays one, whatever is done to it, but for the noise in the erased box."""
    still = frames(1).repeat(3, axis=0)
    config = AugmentConfig(rand_augment=RandAugmentConfig(probability=1.0), erase=0.0)
    for epoch in range(40):
        augmentation = draw(config, epoch=epoch)
        assert len(augmentation.operations) == 4
        shown = apply_augmentation(still, augmentation)
        assert (shown.shape, shown.dtype) == ((3, 32, 32, 3), np.uint8)
        assert np.array_equal(shown[0], shown[1])
        assert np.array_equal(shown[0], shown[2])


def test_operations_act_on_whole_frames_before_the_crop() -> None:
    augmentation = next(
        drawn for epoch in range(200) if len((drawn := draw(AugmentConfig(erase=0.0), epoch=epoch)).operations) == 1
    )
    (name, arguments), (top, left, height, width) = augmentation.operations[0], augmentation.view.crop
    keywords = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}
    image = auto_augment.NAME_TO_OP[name](Image.fromarray(frames()[1]), *arguments, **keywords)
    expected = image.crop((left, top, left + width, top + height)).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(apply_augmentation(frames(), augmentation)[1], np.asarray(expected))


def test_the_erased_box_is_one_for_the_clip_with_noise_of_its_own_in_each_frame() -> None:
    boxes = []
    for epoch in range(60):
        kept, erased = (
            draw(AugmentConfig(rand_augment=None, erase=erase), epoch=epoch) for erase in (0.0, 1.0)
        )
        top, left, height, width = erased.erased
        assert 0.01 < height * width / 32**2 < 0.36
        boxes.append(erased.erased)
        before, after = apply_augmentation(frames(), kept), apply_augmentation(frames(), erased)
        inside = np.zeros((32, 32), dtype=bool)
        inside[top : top + height, left : left + width] = True
        assert np.array_equal(before[:, ~inside], after[:, ~inside])
        assert not np.array_equal(after[0][inside], after[1][inside])
    assert len(set(boxes)) > 50
    share = np.mean([draw(AugmentConfig(), epoch=epoch).erased is not None for epoch in range(800)])
    assert share == pytest.approx(0.25, abs=0.05)


def test_flips_are_off_unless_asked_for() -> None:
    flips = {on: np.mean([draw(AugmentConfig(flip=on), epoch=epoch).view.flip for epoch in range(300)]) for on in (False, True)}
    assert flips[False] == 0.0
    assert flips[True] == pytest.approx(0.5, abs=0.1)
    assert AugmentConfig() == AugmentConfig(flip=False)
