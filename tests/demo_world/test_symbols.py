"""The kinds of things of the demo world: each has a shape of its own, which fills its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from umt_pipeline.demo_world.captions import WORDS
from umt_pipeline.demo_world.symbols import KINDS, all_fields, distance_field, sample


def at(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The distances at points that need not be a picture."""
    return sample(distance_field(kind)[None], np.zeros(1, dtype=int), u.astype(np.float32), v.astype(np.float32))


GRID = np.meshgrid(np.linspace(-1.2, 1.2, 241), np.linspace(-1.2, 1.2, 241))


@pytest.mark.parametrize("kind", KINDS)
def test_a_symbol_fills_its_place(kind: str) -> None:
    u, v = GRID
    inside = at(kind, u[None], v[None])[0] < 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    extent = [v[rows[-1], 0] - v[rows[0], 0], u[0, columns[-1]] - u[0, columns[0]]]
    assert max(extent) == pytest.approx(1.9, abs=0.06)
    for ends in (v[rows[[0, -1]], 0], u[0, columns[[0, -1]]]):
        assert ends.sum() == pytest.approx(0.0, abs=0.04), "centred"
    assert 0.05 < inside.mean() < 0.6


def test_a_distance_is_one() -> None:
    """Of a disc it is known."""
    u, v = GRID
    radius = np.hypot(u, v)
    error = np.abs(at("disc", u[None], v[None])[0] - (radius - 0.95))
    assert error.max() < 0.03


def test_no_symbol_is_another_one_turned_by_a_right_angle() -> None:
    u, v = GRID
    coverage = {kind: at(kind, u[None], v[None])[0] < 0 for kind in KINDS}
    for first, second in itertools.combinations(KINDS, 2):
        for turns in range(4):
            turned = np.rot90(coverage[second], turns)
            both = (coverage[first] & turned).sum() / (coverage[first] | turned).sum()
            assert both < 0.9, (first, second)


def test_frames_of_several_kinds_are_sampled_at_once() -> None:
    u, v = GRID
    kinds = np.array([5, 0, 63])
    together = sample(all_fields(), kinds, *(np.stack([axis] * 3).astype(np.float32) for axis in (u, v)))
    for row, kind in enumerate(kinds):
        np.testing.assert_array_equal(together[row], at(KINDS[kind], u[None], v[None])[0])


def test_words_belong_to_one_kind() -> None:
    words = [word for kind in KINDS for word in WORDS.get(kind, (kind,))]
    assert len(words) == len(set(words))
    assert set(WORDS) & set(KINDS), "some have two"
