from __future__ import annotations

import numpy as np
import pytest

from tests.reports.pages import history
from umt_pipeline.reports.figures import FrameSize, filmstrip, mask_picture, mask_strips, training_curves


def titles(histories: dict) -> list[str]:  # type: ignore[type-arg]
    curves = training_curves("k", histories)
    return [panel.title for panel in curves.panels] if curves else []


def test_curves_leave_out_what_never_changed_and_runs_that_were_not() -> None:
    one = {"model": history(3, lr=[1.0, 2.0, 3.0], boxes=2.0), "control": history(0)}
    curves = training_curves("k", one)
    assert curves is not None
    assert list(curves.lines) == ["model"]
    assert "model: 3 values from 1 to 0.3333" in curves.panels[0].svg
    assert titles(one) == ["total loss", "learning rate"]
    both = {"model": history(3), "control": history(2, full=[0.5, 0.6], unreadable=0.0)}
    assert titles(both) == ["total loss", "full"]
    apart = {"model": history(3, lr=1.0), "control": history(3, lr=2.0)}
    assert titles(apart) == ["total loss", "learning rate"], "each constant, but not the same"
    assert titles({"model": history(3, full=[None, None, 0.5], lr=[None, 0.0, None])}) == ["total loss", "full"]
    assert titles({"model": history(1)}) == ["total loss"]
    assert training_curves("k", {"model": history(0)}) is None


def test_noisy_curves_are_smoothed_and_take_the_theme() -> None:
    curves = training_curves("k", {"a": history(60, lr=np.linspace(0, 1, 60)), "b": history(60)})
    assert curves is not None
    loss, lr = curves.panels
    assert loss.svg.count("<path") > lr.svg.count("<path"), "a mean over the raw points; a learning rate has no noise"
    assert "var(--series-2)" in loss.svg
    assert 'id="k-loss-' in loss.svg, "names are unique in the page"


def test_mask_hides_what_the_student_does_not_see() -> None:
    frames = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    attention = np.tile([0.7, 0.1, 0.1, 0.1], (2, 1))
    original, heat, shown = mask_strips(frames, attention, np.array([0, 7]))
    assert original.shape == heat.shape == (8, 18, 3)
    assert shown[:4, :4, 3].min() == 255
    assert shown[4:, 14:, 3].min() == 255
    assert (shown[..., 3] > 0).sum() == 2 * 4 * 4
    assert heat[0, 0].sum() > heat[7, 7].sum()
    assert mask_picture("clip", frames, attention, np.array([0, 7])).detail == "2 of 8 patches visible (25 %)"
    with pytest.raises(ValueError, match=r"\(2, 5\) does not fit 2 frames"):
        mask_strips(frames, np.ones((2, 5)), np.array([0]))


def test_filmstrip_takes_even_frames_and_never_enlarges() -> None:
    clip = np.stack([np.full((10, 20, 3), value, dtype=np.uint8) for value in range(9)])
    strip = filmstrip(clip, FrameSize(3, 64, 75))
    assert strip.shape == (10, 3 * 20 + 2 * 2, 3)
    assert [int(strip[0, x, 0]) for x in (0, 22, 44)] == [0, 4, 8]
    assert filmstrip(clip, FrameSize(3, 5, 75)).shape == (5, 3 * 10 + 2 * 2, 3)
