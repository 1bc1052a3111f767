"""Views for classification: the published places, and views that any clip, however short, can give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.video_files import write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.action_views import (
    ClipConfig,
    evaluation_indices,
    evaluation_views,
    random_crop,
    train_indices,
)
from umt_pipeline.video.views import load_view, load_views

CONFIGS = st.one_of(
    st.builds(ClipConfig, frames=st.integers(1, 17), sampling=st.sampled_from(["sparse", "segments"])),
    st.builds(ClipConfig, frames=st.integers(1, 17), sampling=st.just("dense"), stride=st.integers(1, 9)),
)


@given(CONFIGS, st.integers(1, 400), st.integers(0, 2**32), st.integers(1, 5))
def test_indices_are_frames_of_the_clip_in_order(config: ClipConfig, num_frames: int, seed: int, clips: int) -> None:
    drawn = train_indices(config, num_frames, np.random.default_rng(seed))
    tested = [evaluation_indices(config, num_frames, clip, clips) for clip in range(clips)]
    for indices in (drawn, *tested):
        assert len(indices) == config.frames
        assert 0 <= indices[0] <= indices[-1] < num_frames
        assert list(indices) == sorted(indices)


def test_published_places() -> None:
    kinetics = ClipConfig(frames=8)
    # seg = (301 - 1) / 8 = 37.5; clip c of 4 lies int(37.5 / 5 * (c + 1)) behind round(37.5 * i).
    assert [evaluation_indices(kinetics, 301, clip, 4)[:3] for clip in range(4)] == [
        (7, 45, 82), (15, 53, 90), (22, 60, 97), (30, 68, 105),
    ]  # fmt: skip
    ssv2 = ClipConfig(frames=8, sampling="segments")
    assert evaluation_indices(ssv2, 40, 0, 2) == (0, 5, 10, 15, 20, 25, 30, 35)
    assert evaluation_indices(ssv2, 40, 1, 2) == (2, 7, 12, 17, 22, 27, 32, 37)
    dense = ClipConfig(frames=4, sampling="dense", stride=4)
    assert [evaluation_indices(dense, 48, clip, 3) for clip in range(3)] == [
        (0, 4, 8, 12), (16, 20, 24, 28), (32, 36, 40, 44),
    ]  # fmt: skip


def test_sparse_training_draws_within_its_segment_and_reaches_both_ends() -> None:
    config = ClipConfig(frames=4)
    drawn = np.array([train_indices(config, 41, np.random.default_rng(seed)) for seed in range(400)])
    assert drawn.min(axis=0).tolist() == [0, 10, 20, 30]
    assert drawn.max(axis=0).tolist() == [10, 20, 30, 40]


def test_crops_lie_along_the_longer_side_and_equal_views_count_once() -> None:
    config = ClipConfig(frames=2, size=16)
    wide = evaluation_views(config, 2, 3, 30, 40, 60)
    assert [view.crop for view in wide] == [(0, 0, 40, 40), (0, 10, 40, 40), (0, 20, 40, 40)] * 2
    tall = evaluation_views(config, 1, 3, 30, 60, 41)
    assert [view.crop for view in tall] == [(0, 0, 41, 41), (9, 0, 41, 41), (19, 0, 41, 41)]
    assert [view.crop for view in evaluation_views(config, 1, 1, 30, 40, 60)] == [(0, 10, 40, 40)]
    assert len(evaluation_views(config, 4, 3, 30, 40, 40)) == 4, "a square has one crop"
    assert len(evaluation_views(config, 4, 3, 1, 40, 60)) == 3, "one frame has one clip"
    with pytest.raises(VideoError, match="0 frames of 40 x 60 pixels"):
        evaluation_views(config, 1, 1, 0, 40, 60)


def test_views_are_decoded_together_and_equal_those_decoded_alone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=12)
    views = evaluation_views(ClipConfig(frames=3, size=48), 2, 3, 12, 48, 64)
    loaded = load_views(path, views)
    assert loaded.shape == (6, 3, 48, 48, 3)
    for view, frames in zip(views, loaded, strict=True):
        assert np.array_equal(frames, load_view(path, view))
    with pytest.raises(VideoError, match=r"wrong_shape: .*a\.mp4"):
        load_views(path, evaluation_views(ClipConfig(frames=1), 1, 1, 12, 480, 640))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_random_crops_lie_inside_and_have_an_allowed_shape(height: int, width: int, seed: int) -> None:
    top, left, crop_height, crop_width = random_crop((0.08, 1.0), (0.75, 4 / 3), height, width, np.random.default_rng(seed))
    assert top >= 0
    assert left >= 0
    assert 0 < crop_height <= height - top
    assert 0 < crop_width <= width - left
    assert crop_width <= 4 / 3 * crop_height + 2
    assert crop_height <= 4 / 3 * crop_width + 2


def test_a_stride_belongs_to_dense_sampling() -> None:
    with pytest.raises(ValidationError, match="`stride` is None and `sampling` dense"):
        ClipConfig(sampling="dense")
    with pytest.raises(ValidationError, match="`stride` is 4 and `sampling` sparse"):
        ClipConfig(stride=4)
