"""Views for action classification: how frames are drawn for training, and which views a test looks at.

Source: the published fine-tuning code: ``Kinetics_sparse``, SSv2 and the dense windows of Kinetics, three crops along the
longer side.

Legend: T frames of a view, H W pixels of the file, S side of the square view.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.views import View

Sampling = Literal["sparse", "segments", "dense"]


class ClipConfig(Config):
    """Which frames of a clip are looked at, and how large.

    Attributes:
        frames: T.
        size: S, in pixels.
        sampling: ``sparse``: T frames over the whole clip, as published for Kinetics and Moments in Time; ``segments``: one
            of each of T equal segments, as published for SSv2; ``dense``: T frames, ``stride`` apart.
        stride: frames from one to the next, for ``dense`` only.
    """

    frames: int = Field(8, ge=1)
    size: int = Field(224, ge=1)
    sampling: Sampling = "sparse"
    stride: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.stride is None) == (self.sampling == "dense"):
            raise ValueError(f"`stride` is {self.stride} and `sampling` {self.sampling}: a stride belongs to `dense` alone")
        return self


def train_indices(config: ClipConfig, num_frames: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw the T frames of a training view, non-decreasing.

    A clip that is too short for T different frames, or for a dense window, gives what it has, spread evenly.
    """
    slots_T = np.arange(config.frames)
    indices_T: np.ndarray
    if config.sampling == "sparse":
        segment = (num_frames - 1) / config.frames
        first_T, last_T = np.round(segment * slots_T), np.round(segment * (slots_T + 1))
        indices_T = rng.integers(first_T.astype(np.int64), last_T.astype(np.int64), endpoint=True)
    elif config.sampling == "segments":
        indices_T = (slots_T + rng.random(config.frames)) * num_frames / config.frames
    else:
        span = _span(config, num_frames)
        indices_T = int(rng.integers(0, num_frames - span, endpoint=True)) + slots_T * span / config.frames
    return _whole(indices_T, num_frames)


def evaluation_indices(config: ClipConfig, num_frames: int, clip: int, clips: int) -> tuple[int, ...]:
    """Return the T frames of test clip ``clip`` of ``clips``, evenly spread over what training draws from.

    One clip alone takes the middle. SSv2's published test is ``segments`` with two clips, Kinetics' ``sparse`` with four.
    """
    slots_T = np.arange(config.frames)
    if config.sampling == "sparse":
        segment = (num_frames - 1) / config.frames
        indices_T = np.round(segment * slots_T) + int(segment * (clip + 1) / (clips + 1))
    elif config.sampling == "segments":
        indices_T = (slots_T + (0.5 if clips == 1 else clip / clips)) * num_frames / config.frames
    else:
        span = _span(config, num_frames)
        share = 0.5 if clips == 1 else clip / (clips - 1)
        indices_T = int(share * (num_frames - span)) + slots_T * span / config.frames
    return _whole(indices_T, num_frames)


def evaluation_views(config: ClipConfig, clips: int, crops: int, num_frames: int, height: int, width: int) -> tuple[View, ...]:
    """Return the views of a multi-clip, multi-crop test, each once: clip by clip, crops along the longer side.

    On a square frame all crops are the same, on a very short file the clips are: those count once.

    Raises:
        VideoError: the file has no frame or no pixel.
    """
    if min(num_frames, height, width) < 1:
        found = f"{num_frames} frames of {height} x {width} pixels"
        raise VideoError("too_short", f"expected at least one frame of at least one pixel, found {found}")
    side, long = min(height, width), max(height, width)
    starts = [(long - side) // 2] if crops == 1 else [int(number * (long - side) / (crops - 1)) for number in range(crops)]
    corners = [(0, start) if width >= height else (start, 0) for start in starts]
    views = (
        View(evaluation_indices(config, num_frames, clip, clips), (top, left, side, side), False, config.size)
        for clip in range(clips)
        for top, left in corners
    )
    return tuple(dict.fromkeys(views))


def random_crop(
    area: tuple[float, float], ratio: tuple[float, float], height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the crop of a random resized crop: top, left, height, width.

    Ten tries, as everywhere; then the largest centred crop of an allowed shape.

    Args:
        area: smallest and largest share of the frame's area.
        ratio: smallest and largest width per height.
        height: H.
        width: W.
        rng: where the draws come from.
    """
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_height, crop_width = round(math.sqrt(target / shape)), round(math.sqrt(target * shape))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = rng.integers(0, (height - crop_height, width - crop_width), endpoint=True)
            return int(top), int(left), crop_height, crop_width
    crop_height = min(height, max(1, round(width / ratio[0])))
    crop_width = min(width, max(1, round(height * ratio[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _span(config: ClipConfig, num_frames: int) -> int:
    assert config.stride is not None, "checked by ClipConfig"
    return min(num_frames, config.frames * config.stride)


def _whole(indices_T: np.ndarray, num_frames: int) -> tuple[int, ...]:
    return tuple(int(index) for index in np.clip(np.floor(indices_T), 0, num_frames - 1))
