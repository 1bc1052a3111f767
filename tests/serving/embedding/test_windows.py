"""Windows cover a file, in order, and are about as long as was said, wherever its scenes change."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.serving.embedding.windows import Window, WindowRule

# Multiples of 2^-6: sums of them are exact, so that what is asked for may be asked for exactly.
TICKS = 64


def ticks(least: int, most: int) -> st.SearchStrategy[float]:
    return st.integers(least, most).map(lambda number: number / TICKS)


@st.composite
def rules(draw: st.DrawFn) -> WindowRule:
    length = draw(ticks(8, 20 * TICKS))
    stride = draw(ticks(8, 20 * TICKS).filter(lambda stride: stride <= length))
    snap = draw(st.floats(0, 0.999)) * stride / 4
    return WindowRule(length_s=length, stride_s=stride, snap_s=snap)


DURATIONS = ticks(0, 200 * TICKS)
SCENES = st.lists(ticks(1, 200 * TICKS), max_size=40, unique=True).map(sorted)


@given(rule=rules(), duration=DURATIONS, scenes=SCENES)
def test_windows_cover_the_file_in_order(rule: WindowRule, duration: float, scenes: list[float]) -> None:
    windows = rule.cut(duration, [scene for scene in scenes if scene < duration])
    assert windows[0].start_s == 0
    assert windows[-1].end_s == duration
    for one, other in pairwise(windows):
        assert one.start_s < other.start_s
        assert one.end_s <= other.end_s
        assert other.start_s <= one.end_s, "nothing lies between them"
    assert rule.is_one_window(duration) == (len(windows) == 1)


@given(rule=rules(), duration=DURATIONS, scenes=SCENES)
def test_windows_are_as_long_as_was_said_give_or_take(rule: WindowRule, duration: float, scenes: list[float]) -> None:
    windows = rule.cut(duration, [scene for scene in scenes if scene < duration])
    longest = rule.length_s + rule.stride_s / 2 + 2 * rule.snap_s
    assert all(window.end_s - window.start_s <= longest for window in windows)
    if len(windows) > 1:
        assert all(window.end_s - window.start_s >= rule.length_s - 2 * rule.snap_s for window in windows)
        assert len(windows) <= duration / rule.stride_s + 1


@given(rule=rules(), duration=DURATIONS, scenes=SCENES)
def test_a_border_moves_to_the_nearest_scene_change_or_not_at_all(
    rule: WindowRule, duration: float, scenes: list[float]
) -> None:
    scenes = [scene for scene in scenes if scene < duration]
    straight = rule.cut(duration)
    for window, plain in zip(rule.cut(duration, scenes), straight, strict=True):
        for border, before in zip(window, plain, strict=True):
            moved = before not in (0.0, duration) and any(abs(scene - before) <= rule.snap_s for scene in scenes)
            assert border in scenes if moved else border == before
            assert abs(border - before) <= rule.snap_s


def test_a_rest_goes_to_the_last_window_or_is_one_that_ends_with_the_file() -> None:
    rule = WindowRule(length_s=10, stride_s=5, snap_s=0)
    assert rule.cut(12.4) == (Window(0, 12.4),)
    assert rule.cut(12.5) == (Window(0, 10), Window(2.5, 12.5))
    assert rule.cut(16) == (Window(0, 10), Window(5, 16))
    assert rule.cut(20) == (Window(0, 10), Window(5, 15), Window(10, 20))
    assert rule.cut(0) == (Window(0, 0),)


def test_a_rule_that_loses_frames_or_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`stride_s` is 6.0 and `length_s` 5.0: what lies between windows is lost"):
        WindowRule(length_s=5, stride_s=6, snap_s=0)
    with pytest.raises(ValueError, match=r"`snap_s` is 1.0: expected less than a quarter of `stride_s`, 1.0"):
        WindowRule(length_s=5, stride_s=4, snap_s=1)
