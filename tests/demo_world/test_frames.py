"""Single frames in bulk: reproducible one by one, of everything, and as clips look."""

from __future__ import annotations

import numpy as np
import pytest

from umt_pipeline.demo_world.frames import draw_frames, uniform
from umt_pipeline.demo_world.scenes import COLOURS, SIZES
from umt_pipeline.demo_world.symbols import KINDS

FRAMES = draw_frames(np.arange(1500), 0, 48)


def test_a_frame_is_decided_by_its_number_and_the_seed() -> None:
    numbers = np.array([1200, 3, 700])
    again = draw_frames(numbers, 0, 48)
    np.testing.assert_array_equal(again.pixels_BSS3, FRAMES.pixels_BSS3[numbers])
    np.testing.assert_array_equal(again.kind_B, FRAMES.kind_B[numbers])
    assert not np.array_equal(draw_frames(numbers, 1, 48).kind_B, again.kind_B)


def test_everything_is_shown() -> None:
    assert FRAMES.pixels_BSS3.shape == (1500, 48, 48, 3)
    assert set(FRAMES.kind_B) == set(range(len(KINDS)))
    for shown, values in ((FRAMES.colour_B, COLOURS), (FRAMES.size_B[FRAMES.size_B >= 0], SIZES)):
        shares = np.bincount(shown) / len(shown)
        assert shares == pytest.approx(np.full(len(values), 1 / len(values)), abs=0.06)
    assert (FRAMES.size_B < 0).mean() == pytest.approx(0.3, abs=0.05)


def test_a_colour_is_seen() -> None:
    """The mean of all frames of a colour leans to it."""
    means = np.stack([FRAMES.pixels_BSS3[FRAMES.colour_B == index].mean(axis=(0, 1, 2)) for index in range(len(COLOURS))])
    lean, wanted = means - means.mean(axis=0), np.array(list(COLOURS.values()), dtype=float)
    wanted -= wanted.mean(axis=0)
    assert (lean @ wanted.T).argmax(axis=1).tolist() == list(range(len(COLOURS)))


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform(np.arange(20_000), 3, 4)
    assert draws.dtype == np.float32
    assert 0.0 <= draws.min() < draws.max() < 1.0
    assert draws.mean(axis=0) == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.03
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
