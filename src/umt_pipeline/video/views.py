"""A view is data: which frames, which crop, flipped or not, as realised integers.

A view is derived from a hash of (dataset, clip, view number) and never from the state of a random generator, so it does
not depend on worker, rank, epoch or starting point. It is stored as integers, so it can be replayed on any machine.

Legend: R views of a file, T frames of each, F distinct frames of all, H W pixels of the file, S side of the square view, C = 3
colours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import is_image

# Two crop sides within this many pixels of the wanted side are taken as the wanted side: no resampling for nothing.
_SNAP_PIXELS = 3
# The sides of a crop may differ by one step of the list of scales: aspect ratios stay close to one.
_MAX_DISTORTION = 1
# (x, y) in quarters of the free space: four corners, centre, four edge midpoints, four quarter points.
_CORNERS_AND_CENTRE = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2))
_MIDPOINTS = ((0, 2), (4, 2), (2, 4), (2, 0))
_QUARTERS = ((1, 1), (3, 1), (1, 3), (3, 3))
OFFSETS = _CORNERS_AND_CENTRE + _MIDPOINTS + _QUARTERS


class ViewConfig(Config):
    """How a view is drawn from a clip.

    Args:
        frames: frames per view (T).
        size: side of the square view in pixels (S).
        scales: crop sides as shares of the frame's short side.
        flip: mirror half of the views from left to right.
    """

    frames: int = Field(ge=1)
    size: int = Field(ge=1)
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True

    @field_validator("scales")
    @classmethod
    def _scales_fit_a_frame(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < scale <= 1 for scale in value):
            raise ValueError(f"scales: expected at least one number above 0 and at most 1, found {list(value)}")
        return value


@dataclass(frozen=True)
class View:
    """One realised view of a clip.

    Args:
        frame_indices: T frame numbers, non-decreasing.
        crop: top, left, height, width in pixels of the file.
        flip: mirror from left to right after cropping.
        size: side of the square result in pixels.
    """

    frame_indices: tuple[int, ...]
    crop: tuple[int, int, int, int]
    flip: bool
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return the view as plain lists and numbers, for JSON and parquet."""
        return {
            "frame_indices": list(self.frame_indices),
            "crop": list(self.crop),
            "flip": self.flip,
            "size": self.size,
        }

    @classmethod
    def from_dict(cls, record: Mapping[Any, Any]) -> View:
        """Rebuild a view from :meth:`to_dict`, also after a trip through JSON or parquet (numpy values)."""
        top, left, height, width = (int(number) for number in record["crop"])
        return cls(
            frame_indices=tuple(int(index) for index in record["frame_indices"]),
            crop=(top, left, height, width),
            flip=bool(record["flip"]),
            size=int(record["size"]),
        )


def counter_hash(*key: str | int) -> int:
    """Return 64 bits that depend on the key alone; ``1`` and ``"1"``, ``("ab",)`` and ``("a", "b")`` differ."""
    text = json.dumps([part if isinstance(part, str) else int(part) for part in key], ensure_ascii=True)
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "big")


def counter_generator(*key: str | int) -> np.random.Generator:
    """Return a counter-based generator (Philox) keyed by :func:`counter_hash` of the key."""
    return np.random.Generator(np.random.Philox(key=counter_hash(*key)))


def make_view(
    config: ViewConfig, dataset_id: str, clip_id: str, view_number: int, num_frames: int, height: int, width: int
) -> View:
    """Draw training view ``view_number`` of a clip of ``num_frames`` frames of ``height`` x ``width`` pixels.

    Sparse frame sampling of TSN (one random frame of each of T equal segments), multi-scale crop with thirteen fixed
    offsets and a flip, the same for all frames of the clip (UMT, section 4.1 and the published pre-training code).

    Raises:
        VideoError: ``num_frames``, ``height`` or ``width`` is below one.
    """
    _require_pixels(clip_id, num_frames, height, width)
    rng = counter_generator("view", dataset_id, clip_id, view_number)
    # Always the same draws in the same order, so that switching the flip off leaves frames and crop as they were.
    jitter_T = rng.random(config.frames)
    pair_draw, offset_draw, flip_draw = (float(draw) for draw in rng.random(3))
    return View(
        frame_indices=_sparse_indices(num_frames, jitter_T, config.frames),
        crop=_multi_scale_crop(config, height, width, pair_draw, offset_draw),
        flip=config.flip and flip_draw < 0.5,
        size=config.size,
    )


def eval_view(config: ViewConfig, num_frames: int, height: int, width: int) -> View:
    """Return the one view used for evaluation: middle frame of each segment, largest centred square, no flip.

    Raises:
        VideoError: ``num_frames``, ``height`` or ``width`` is below one.
    """
    _require_pixels("the clip", num_frames, height, width)
    side = min(height, width)
    return View(
        frame_indices=_sparse_indices(num_frames, None, config.frames),
        crop=((height - side) // 2, (width - side) // 2, side, side),
        flip=False,
        size=config.size,
    )


def load_view(path: Path, view: View) -> np.ndarray:
    """Decode a view's frames from a video or image file and apply the view: uint8 RGB [T,S,S,3].

    Raises:
        VideoError: the file cannot be read or is smaller than the view says.
    """
    return load_views(path, [view])[0]


def load_views(path: Path, views: Sequence[View]) -> np.ndarray:
    """Decode the frames of R views of a file at once, each frame once, and apply each view: uint8 RGB [R,T,S,S,3].

    Args:
        path: a video or image file.
        views: of it, all with as many frames and of the same size.

    Raises:
        VideoError: the file cannot be read or is smaller than a view says.
    """
    indices_RT = np.array([view.frame_indices for view in views])
    distinct = np.unique(indices_RT)
    frames_FHWC = _read(path, distinct.tolist())
    rows_RT = np.searchsorted(distinct, indices_RT)
    try:
        return np.stack([apply_view(frames_FHWC[rows_T], view) for rows_T, view in zip(rows_RT, views, strict=True)])
    except ValueError as error:
        raise VideoError("wrong_shape", f"{path}: {error}; ingest the videos again") from error


def _read(path: Path, indices: list[int]) -> np.ndarray:
    # Imported here, not at the top: a process that reads views from a store never loads a video decoder.
    if is_image(path):
        from umt_pipeline.video.images import read_image

        return read_image(path, indices)
    from umt_pipeline.video.reader import read_frames

    return read_frames(path, indices)


def apply_view(frames_THWC: np.ndarray, view: View) -> np.ndarray:
    """Crop, resize and flip decoded frames, uint8 [T,H,W,3] -> [T,S,S,3].

    The crop is cut out before resizing, as published, so no pixel outside the crop bleeds in at its border.

    Raises:
        ValueError: the crop does not lie inside the frames.
    """
    top, left, height, width = view.crop
    frame_height, frame_width = frames_THWC.shape[1:3]
    if top + height > frame_height or left + width > frame_width:
        found = f"{frame_height} x {frame_width} pixels"
        raise ValueError(f"expected frames that hold the crop (top, left, height, width) {view.crop}, found {found}")
    crops_THWC = np.ascontiguousarray(frames_THWC[:, top : top + height, left : left + width])
    if (height, width) == (view.size, view.size):
        resized_TSSC = crops_THWC
    else:
        side = (view.size, view.size)
        resized = [Image.fromarray(crop).resize(side, Image.Resampling.BILINEAR) for crop in crops_THWC]
        resized_TSSC = np.stack([np.asarray(image) for image in resized])
    return np.ascontiguousarray(resized_TSSC[:, :, ::-1]) if view.flip else resized_TSSC


def _require_pixels(clip: str, num_frames: int, height: int, width: int) -> None:
    if min(num_frames, height, width) < 1:
        found = f"{num_frames} frames of {height} x {width} pixels"
        raise VideoError("too_short", f"{clip}: expected at least one frame of at least one pixel, found {found}")


def _sparse_indices(num_frames: int, position_T: np.ndarray | None, frames: int) -> tuple[int, ...]:
    """Return one frame of each of T segments; ``position_T`` in [0, 1) is the place inside the segment, None its middle.

    Segments differ in length by one frame at most, and every frame of the clip is in one. (The published stage 1 never sees
    the last ``num_frames mod T`` frames, the published stage 2 never the last frame of a segment.)

    A clip with fewer frames than T gives every frame it has, in order, with the repeats spread evenly. (The published
    code repeats frame 0 eight times, which throws the motion of short clips away.)
    """
    bounds = np.arange(frames + 1) * num_frames // frames
    if num_frames < frames:
        indices_T = bounds[:-1]
    elif position_T is None:
        indices_T = (bounds[:-1] + bounds[1:] - 1) // 2
    else:
        indices_T = bounds[:-1] + np.floor(position_T * np.diff(bounds)).astype(np.int64)
    return tuple(int(index) for index in indices_T)


def _multi_scale_crop(
    config: ViewConfig, height: int, width: int, pair_draw: float, offset_draw: float
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width); both draws are uniform in [0, 1)."""
    short = min(height, width)
    # A side is snapped to the wanted one only where the frame is that large; the published code crops beyond the frame.
    sides = [max(1, int(short * scale)) for scale in config.scales]
    sides = [config.size if abs(side - config.size) < _SNAP_PIXELS and config.size <= short else side for side in sides]
    pairs = [
        (crop_height, crop_width)
        for i, crop_height in enumerate(sides)
        for j, crop_width in enumerate(sides)
        if abs(i - j) <= _MAX_DISTORTION
    ]
    crop_height, crop_width = pairs[int(pair_draw * len(pairs))]
    quarters_x, quarters_y = OFFSETS[int(offset_draw * len(OFFSETS))]
    left = quarters_x * ((width - crop_width) // 4)
    top = quarters_y * ((height - crop_height) // 4)
    return top, left, crop_height, crop_width
