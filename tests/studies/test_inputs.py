"""Which frames are read, and how they are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.claims.inputs import InputConfig, cut, every_index, uniform
from umt_pipeline.video.pixels import patchify

LENGTHS = st.lists(st.integers(8, 40), min_size=1, max_size=6).map(lambda values: np.array(values))


@given(LENGTHS, st.integers(0, 9), st.sampled_from(["sparse", "dense"]), st.sampled_from([4, 8]))
def test_frames_are_ascending_and_inside_the_clip(lengths: np.ndarray, number: int, sampling: str, frames: int) -> None:
    config = InputConfig.model_validate({"frames": frames, "sampling": sampling})
    clips = np.arange(len(lengths))
    draws = uniform(0, clips, np.full(len(lengths), number), 0, frames)
    for indices in (config.training_frames(lengths, draws), config.test_frames(lengths, number % 3, 3)):
        assert indices.shape == (len(lengths), frames)
        assert (np.diff(indices, axis=1) > 0).all()
        assert (indices >= 0).all()
        assert (indices < lengths[:, None]).all()


def test_sparse_frames_come_from_each_segment_and_dense_ones_lie_together() -> None:
    lengths = np.array([16, 32])
    sparse = InputConfig(frames=4).training_frames(lengths, uniform(0, lengths, lengths, 0, 4))
    assert (sparse // (lengths[:, None] // 4) == np.arange(4)).all()
    dense = InputConfig(frames=4, sampling="dense", stride=3).training_frames(lengths, uniform(0, lengths, lengths, 0, 4))
    assert (np.diff(dense, axis=1) == 3).all()
    short = InputConfig(frames=4, sampling="dense", stride=9).test_frames(lengths, 0, 1)
    assert (np.diff(short, axis=1) == [[5] * 3, [9] * 3]).all(), "the stride shrinks where the clip is too short"


def test_draws_depend_on_the_key_alone_and_look_uniform() -> None:
    clips, passes = np.arange(500), np.zeros(500, dtype=np.int64)
    draws = uniform(3, clips, passes, 1, 16)
    assert (draws[[7, 2]] == uniform(3, clips[[7, 2]], passes[[7, 2]], 1, 16)).all()
    for other in (uniform(4, clips, passes, 1, 16), uniform(3, clips, passes + 1, 1, 16), uniform(3, clips, passes, 2, 16)):
        assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 0.05
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert np.abs(np.histogram(draws, bins=10, range=(0, 1))[0] / draws.size - 0.1).max() < 0.015
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.15


def test_a_tubelet_holds_the_same_patch_of_consecutive_frames() -> None:
    frames = torch.arange(2 * 4 * 8 * 8 * 3).reshape(2, 4, 8, 8, 3)
    single = patchify(frames, 4).unflatten(1, (4, 4))
    double = cut(frames, 4, 2).unflatten(1, (2, 4))
    assert torch.equal(double[:, 1, 3], torch.cat((single[:, 2, 3], single[:, 3, 3]), dim=-1))
    assert torch.equal(cut(frames, 4, 1), patchify(frames, 4))
    assert every_index(cut(frames, 4, 2))[1].tolist() == list(range(8))


def test_frames_must_be_whole_tubelets() -> None:
    with pytest.raises(ValidationError, match="frames 5 is not a multiple of tubelet 2"):
        InputConfig(frames=5, tubelet=2)
