"""Views: realised integers that replay pixel for pixel, in any order, on any machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video import views
from umt_pipeline.video.views import (
    View,
    ViewConfig,
    apply_view,
    counter_generator,
    counter_hash,
    eval_view,
    load_view,
    make_view,
)

CONFIGS = st.builds(
    ViewConfig,
    frames=st.integers(1, 9),
    size=st.integers(1, 70),
    scales=st.sampled_from([(1.0, 0.875, 0.75, 0.66), (1.0,), (0.05, 1.0)]),
    flip=st.booleans(),
)
SIDES = st.integers(1, 300)


def random_frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@given(CONFIGS, st.text(max_size=5), st.text(max_size=5), st.integers(0, 9), st.integers(1, 99), SIDES, SIDES)
@settings(deadline=None)
def test_indices_and_crop_lie_inside_the_clip(
    config: ViewConfig, dataset: str, clip: str, number: int, num_frames: int, height: int, width: int
) -> None:
    for view in (
        make_view(config, dataset, clip, number, num_frames, height, width),
        eval_view(config, num_frames, height, width),
    ):
        indices = np.array(view.frame_indices)
        assert len(indices) == config.frames
        assert indices.min() >= 0
        assert indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()
        assert len(set(view.frame_indices)) == min(num_frames, config.frames)
        top, left, crop_height, crop_width = view.crop
        assert min(top, left) >= 0
        assert min(crop_height, crop_width) >= 1
        assert top + crop_height <= height
        assert left + crop_width <= width
        assert config.flip or not view.flip


@given(CONFIGS, st.integers(1, 99), SIDES, SIDES)
@settings(deadline=None)
def test_a_view_survives_json(config: ViewConfig, num_frames: int, height: int, width: int) -> None:
    view = make_view(config, "set", "clip", 3, num_frames, height, width)
    assert View.from_dict(json.loads(json.dumps(view.to_dict()))) == view


@given(st.permutations(range(6)))
@settings(deadline=None, max_examples=20)
def test_views_do_not_depend_on_the_order_they_are_made_in(order: list[int]) -> None:
    config = ViewConfig(frames=4, size=32)
    expected = [make_view(config, "set", f"clip{n % 3}", n, 40, 60, 90) for n in range(6)]
    made = {n: make_view(config, "set", f"clip{n % 3}", n, 40, 60, 90) for n in order}
    assert [made[n] for n in range(6)] == expected
    assert len(set(expected)) == 6


@given(st.integers(4, 12), st.integers(8, 60), st.integers(8, 60), st.integers(0, 20))
@settings(deadline=None, max_examples=40)
def test_replay_equals_the_original_pixel_for_pixel(count: int, height: int, width: int, number: int) -> None:
    frames = random_frames(count, height, width)
    view = make_view(ViewConfig(frames=4, size=16), "set", "clip", number, count, height, width)
    original = apply_view(frames[list(view.frame_indices)], view)
    replayed = View.from_dict(json.loads(json.dumps(view.to_dict())))
    again = apply_view(frames[list(replayed.frame_indices)], replayed)
    assert original.shape == (4, 16, 16, 3)
    assert original.dtype == np.uint8
    assert (original == again).all()


def test_pixels_equal_a_plain_pil_crop_and_resize() -> None:
    frames = random_frames(2, 40, 50)
    view = View(frame_indices=(0, 1), crop=(3, 5, 30, 26), flip=True, size=24)
    for frame, got in zip(frames, apply_view(frames, view), strict=True):
        image = Image.fromarray(frame).crop((5, 3, 31, 33)).resize((24, 24), Image.Resampling.BILINEAR)
        assert (np.asarray(image)[:, ::-1] == got).all()


def test_a_whole_frame_view_is_the_frame_itself() -> None:
    frames = random_frames(3, 16, 16)
    assert (apply_view(frames, eval_view(ViewConfig(frames=3, size=16), 3, 16, 16)) == frames).all()


def test_eval_view_takes_middle_frames_of_the_centre_square() -> None:
    view = eval_view(ViewConfig(frames=4, size=32), 43, 60, 101)
    assert view == View(frame_indices=(4, 15, 26, 37), crop=(0, 20, 60, 60), flip=False, size=32)


def test_short_clips_give_every_frame_with_even_repeats() -> None:
    view = make_view(ViewConfig(frames=8, size=32), "set", "clip", 0, 3, 64, 64)
    assert view.frame_indices == (0, 0, 0, 1, 1, 1, 2, 2)


def test_all_pairs_offsets_and_segments_are_drawn() -> None:
    config = ViewConfig(frames=4, size=10)
    drawn = [make_view(config, "set", "clip", number, 12, 100, 100) for number in range(4000)]
    assert {view.crop[2:] for view in drawn} == {
        (100, 100), (100, 87), (87, 100), (87, 87), (87, 75), (75, 87), (75, 75), (75, 66), (66, 75), (66, 66)
    }  # fmt: skip
    assert len({view.crop[:2] for view in drawn if view.crop[2:] == (66, 66)}) == 13
    assert {view.frame_indices[1] for view in drawn} == {3, 4, 5}
    assert 0.45 < np.mean([view.flip for view in drawn]) < 0.55


def test_a_side_near_the_wanted_one_is_snapped_only_inside_the_frame() -> None:
    config = ViewConfig(frames=1, size=224, scales=(1.0,))
    assert make_view(config, "set", "clip", 0, 9, 226, 300).crop[2:] == (224, 224)
    assert make_view(config, "set", "clip", 0, 9, 222, 300).crop[2:] == (222, 222)


def test_hash_tells_keys_apart_and_is_pinned() -> None:
    keys = [("1",), (1,), ("ab",), ("a", "b"), ("a,b",), ('a","b',), ("a", 1), ("a", "1"), ("é",), ()]
    assert len({counter_hash(*key) for key in keys}) == len(keys)
    # Stores made earlier are replayed with these: a change here is a new store schema version.
    assert counter_hash("view", "demo", "clip", 0) == 16676005669316590668
    assert counter_generator("view", "demo", "clip", 0).random() == 0.7283933898146012


def test_load_view_decodes_each_frame_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader = pytest.importorskip("umt_pipeline.video.reader")
    frames = random_frames(3, 20, 20)
    asked: list[list[int]] = []

    def read_frames(path: Path, indices: list[int]) -> np.ndarray:
        asked.append(indices)
        return frames[indices]

    monkeypatch.setattr(reader, "read_frames", read_frames)
    view = View(frame_indices=(0, 0, 2, 2), crop=(0, 0, 20, 20), flip=False, size=20)
    assert (load_view(tmp_path, view) == frames[[0, 0, 2, 2]]).all()
    assert asked == [[0, 2]]
    with pytest.raises(VideoError, match="ingest the videos again"):
        load_view(tmp_path, View(frame_indices=(0,), crop=(0, 5, 20, 20), flip=False, size=20))


def test_bad_configurations_and_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="above 0 and at most 1"):
        ViewConfig(frames=4, size=32, scales=(1.2,))
    with pytest.raises(ValidationError):
        ViewConfig(frames=0, size=32)
    with pytest.raises(VideoError, match="at least one frame"):
        views.make_view(ViewConfig(frames=4, size=32), "set", "clip", 0, 0, 10, 10)
