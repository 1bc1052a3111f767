"""Windows of a video: the pieces that are embedded, so that a search finds a place in a file and not only a file."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from umt_pipeline.core.config import Config


class Window(NamedTuple):
    """A piece of a video, in seconds from its first frame; of an image both are 0."""

    start_s: float
    end_s: float


class WindowRule(Config):
    """How a video is cut into windows.

    The windows of a file are in order, none begins where another does, and together they cover it. All are ``length_s``
    long, give or take: where the stride leaves a rest of the file of less than half of itself, the last window takes it along;
    a larger rest gets a window of its own, which ends with the file. Then begins and ends move to the scene change next to
    them, if there is one within ``snap_s``. So a file of up to ``length_s + stride_s / 2`` seconds is one window.

    Attributes:
        length_s: seconds of a window.
        stride_s: seconds from the begin of one to that of the next.
        snap_s: seconds that a begin or an end is moved at most, to lie on a scene change; 0: they stay, and no scene
            changes are looked for.
        scene_threshold: how much of a picture must have changed from one frame to the next, 0 to 1, by FFmpeg's measure.
    """

    length_s: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    stride_s: float = Field(default=5.0, gt=0.0, allow_inf_nan=False)
    snap_s: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    scene_threshold: float = Field(default=0.3, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stride_s > self.length_s:
            raise ValueError(f"`stride_s` is {self.stride_s} and `length_s` {self.length_s}: what lies between windows is lost")
        if self.snap_s >= self.stride_s / 4:
            raise ValueError(f"`snap_s` is {self.snap_s}: expected less than a quarter of `stride_s`, {self.stride_s / 4}")
        return self

    @property
    def looks_for_scenes(self) -> bool:
        """Whether windows depend on scene changes."""
        return self.snap_s > 0

    @property
    def told(self) -> str:
        """What it is, in words."""
        snapped = f", moved by up to {self.snap_s:g} s to scene changes" if self.looks_for_scenes else ""
        return f"{self.length_s:g} s long, one each {self.stride_s:g} s{snapped}"

    def is_one_window(self, duration_s: float) -> bool:
        """Whether a video of so many seconds is one window, whatever is in it."""
        return duration_s < self.length_s + self.stride_s / 2

    def cut(self, duration_s: float, scenes: Sequence[float] = ()) -> tuple[Window, ...]:
        """Return the windows of a video.

        Args:
            duration_s: of the video; 0 of an image.
            scenes: times of its scene changes, in order.
        """
        if self.is_one_window(duration_s):
            return (Window(0.0, duration_s),)
        full = math.floor((duration_s - self.length_s) / self.stride_s)
        starts = [number * self.stride_s for number in range(full + 1)]
        ends = [start + self.length_s for start in starts]
        if duration_s - ends[-1] < self.stride_s / 2:
            ends[-1] = duration_s
        else:
            starts.append(duration_s - self.length_s)
            ends.append(duration_s)
        # To the nearest is monotone: what is in order stays so, and what overlaps does not come apart.
        starts = starts[:1] + [self._snapped(start, scenes) for start in starts[1:]]
        ends = [self._snapped(end, scenes) for end in ends[:-1]] + ends[-1:]
        return tuple(Window(start, end) for start, end in zip(starts, ends, strict=True))

    def _snapped(self, time: float, scenes: Sequence[float]) -> float:
        place = bisect.bisect_left(scenes, time)
        nearest = min(scenes[max(0, place - 1) : place + 1], key=lambda scene: abs(scene - time), default=time)
        return nearest if abs(nearest - time) <= self.snap_s else time
