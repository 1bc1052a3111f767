"""Views around key frames: what is done to pixels is done to boxes."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from umt_pipeline.video.box_views import (
    BoxAugment,
    BoxView,
    KeyFrameClip,
    apply_box_view,
    box_iou,
    boxes_in_view,
    draw_box_view,
    key_frame_indices,
    widened,
)
from umt_pipeline.video.views import View

STILL = BoxAugment(flip=False, hue=0, saturation=0, value=0, outward=(0, 0), inward=(0, 0))
CLIP = KeyFrameClip(frames=2, stride=3, size=32, short_side=40)


def test_defaults_are_the_published_ones() -> None:
    assert KeyFrameClip().model_dump() == {"frames": 8, "stride": 8, "size": 224, "short_side": 256}
    config = BoxAugment()
    assert (config.flip, config.hue, config.saturation, config.value) == (True, 20.0, 0.1, 0.1)
    assert (config.outward, config.inward) == ((0.2, 0.1), (0.1, 0.05))
    with pytest.raises(ValidationError, match=r"`size` \(300\) must not be above `short_side` \(256\)"):
        KeyFrameClip(size=300)
    with pytest.raises(ValidationError, match=r"`inward` \[0\.5, 0\.0\] .* so that something of a box remains"):
        BoxAugment(inward=(0.5, 0.0))


def test_the_key_frame_is_in_the_middle_and_ends_repeat() -> None:
    clip = KeyFrameClip(frames=8, stride=8)
    assert key_frame_indices(clip, 100, 1000) == (68, 76, 84, 92, 100, 108, 116, 124)
    assert key_frame_indices(clip, 3, 21) == (0, 0, 0, 0, 3, 11, 19, 20)


def test_boxes_by_hand() -> None:
    """A frame of 100 x 40 pixels, a crop of 20 x 20 from (left 50, top 10)."""
    boxes = np.array([[0.5, 0.25, 0.6, 0.5], [0.4, 0.0, 0.55, 1.0], [0.0, 0.0, 0.5, 1.0]])
    shown = boxes_in_view(boxes, (10, 50, 20, 20), False, 40, 100)
    np.testing.assert_allclose(shown, [[0, 0, 0.5, 0.5], [0, 0, 0.25, 1], [0, 0, 0, 1]], atol=1e-12)
    mirrored = boxes_in_view(boxes, (10, 50, 20, 20), True, 40, 100)
    np.testing.assert_allclose(mirrored, [[0.5, 0, 1, 0.5], [0.75, 0, 1, 1], [1, 0, 1, 1]], atol=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(40, 90), st.integers(40, 90))
def test_boxes_stay_around_what_they_show(seed: int, flip: bool, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    top, left = int(rng.integers(0, height - 12)), int(rng.integers(0, width - 12))
    frames = np.zeros((2, height, width, 3), dtype=np.uint8)
    frames[:, top : top + 12, left : left + 12] = 255
    box = np.array([[left / width, top / height, (left + 12) / width, (top + 12) / height]])
    shown = draw_box_view(CLIP, STILL.model_copy(update={"flip": flip}), ("a", seed), box, 0, 2, height, width)
    assert shown.view.crop[2:] == (round(min(height, width) * 0.8),) * 2
    bright = (apply_box_view(frames, shown)[0, ..., 0] > 127).nonzero()
    if not len(shown.kept_M):
        assert bright[0].size <= 32, "at most a line along the border is left"
        return
    x1, y1, x2, y2 = shown.boxes_M4[0] * 32
    expected = [x1, y1, x2, y2]
    found = [bright[1].min(), bright[0].min(), bright[1].max() + 1, bright[0].max() + 1] if bright[0].size else expected
    np.testing.assert_allclose(found, expected, atol=1.0)


def test_boxes_outside_the_crop_are_dropped_and_the_others_keep_their_places() -> None:
    # The crop is 32 of 400 pixels wide: it cannot hold both ends.
    boxes = np.array([[0.0, 0.0, 0.02, 1.0], [0.0, 0.0, 1.0, 1.0], [0.98, 0.0, 1.0, 1.0]])
    for number in range(20):
        shown = draw_box_view(CLIP, STILL, ("v", number), boxes, 0, 2, 40, 400)
        assert 1 in shown.kept_M
        assert not {0, 2} <= set(shown.kept_M.tolist())
        assert shown.boxes_M4[shown.kept_M.tolist().index(1)].tolist() == [0, 0, 1, 1]
        assert (shown.boxes_M4.dtype, len(shown.boxes_M4)) == (np.float32, len(shown.kept_M))


def test_draws_depend_on_the_name_alone_and_parts_can_be_switched_off() -> None:
    boxes, size = np.array([[0.3, 0.3, 0.7, 0.7]]), (5, 9, 48, 64)
    views = [draw_box_view(CLIP, BoxAugment(), ("v", 5, number), boxes, *size) for number in range(40)]
    again = draw_box_view(CLIP, BoxAugment(), ("v", 5, 7), boxes, *size)
    assert (again.view, again.shift) == (views[7].view, views[7].shift)
    assert np.array_equal(again.boxes_M4, views[7].boxes_M4)
    assert len({(view.view.crop, view.shift) for view in views}) > 30
    assert 8 < sum(view.view.flip for view in views) < 32
    assert all(abs(view.shift[0]) <= 14 and abs(view.shift[1]) <= 26 and abs(view.shift[2]) <= 26 for view in views)
    still = draw_box_view(CLIP, STILL, ("v", 5, 7), boxes, *size)
    assert still.view.crop == views[7].view.crop
    assert still.shift == (0, 0, 0)


def test_edges_move_within_their_shares() -> None:
    # The crop is the whole frame, so the box in the view is the jittered one.
    clip = KeyFrameClip(frames=1, size=32, short_side=32)
    jitter = STILL.model_copy(update={"outward": (0.2, 0.1), "inward": (0.1, 0.05)})
    box = np.array([[0.4, 0.4, 0.6, 0.6]])
    views = [draw_box_view(clip, jitter, ("v", number), box, 0, 1, 32, 32).boxes_M4[0] for number in range(300)]
    out = (np.array(views) - box) * [-1, -1, 1, 1] / 0.2
    np.testing.assert_allclose(out.min(axis=0), [-0.1, -0.05, -0.1, -0.05], atol=0.01)
    np.testing.assert_allclose(out.max(axis=0), [0.2, 0.1, 0.2, 0.1], atol=0.01)


def test_colours_shift_alike_in_all_frames() -> None:
    frames = np.full((2, 32, 32, 3), (200, 100, 50), dtype=np.uint8)
    view = BoxView(View((0, 1), (0, 0, 32, 32), False, 32), (10, 0, -20), np.empty((0, 4)), np.empty(0, dtype=np.int64))
    shifted = apply_box_view(frames, view)
    assert (shifted == shifted[0, 0, 0]).all()
    hue, saturation, value = colorsys.rgb_to_hsv(200 / 255, 100 / 255, 50 / 255)
    expected = np.array(colorsys.hsv_to_rgb(hue + 10 / 255, saturation, value - 20 / 255)) * 255
    np.testing.assert_allclose(shifted[0, 0, 0], expected, atol=3)


def test_overlap_and_widening() -> None:
    one, two = np.array([[0, 0, 0.5, 1.0]]), np.array([[0.25, 0, 0.75, 0.5]])
    assert box_iou(one, two).tolist() == pytest.approx([0.125 / 0.625])
    assert box_iou(one, one + 0.6).tolist() == [0.0]
    np.testing.assert_allclose(widened(np.array([[0.2, 0.0, 0.4, 0.4]]), 0.1, 0.05), [[0.18, 0.0, 0.42, 0.42]])
