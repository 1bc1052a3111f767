"""Views around key frames, and the boxes in them: what is done to pixels is done to boxes too.

A box is (x1, y1, x2, y2) as shares of the width and height of a frame or view.

Source: the published action detection code, a copy of AlphAction's: short side to 256 pixels, a random crop of 224, shifts of
hue, saturation and value, a flip; boxes jittered edge by edge.

Legend: T frames, S side of the square view, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.video.views import View, apply_view, counter_generator


class KeyFrameClip(Config):
    """Which frames around a key frame are looked at, and how large.

    Attributes:
        frames: T.
        stride: frames of the file from one to the next.
        size: S, side of a training crop in pixels.
        short_side: to which the frame is resized, in effect, before the crop.
    """

    frames: int = Field(8, ge=1)
    stride: int = Field(8, ge=1)
    size: int = Field(224, ge=1)
    short_side: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size > self.short_side:
            raise ValueError(f"`size` ({self.size}) must not be above `short_side` ({self.short_side}), which it is cut from")
        return self


class BoxAugment(Config):
    """How training views and their boxes differ from what is on file; shares are of a box's width and height.

    Attributes:
        flip: mirror half of the views.
        hue: largest shift in degrees.
        saturation: largest shift as a share of its range.
        value: the same, of the brightness.
        outward: by how much an edge moves out at most, along the width and along the height.
        inward: by how much it moves in at most.
    """

    flip: bool = True
    hue: float = Field(20.0, ge=0, le=180)
    saturation: float = Field(0.1, ge=0, le=1)
    value: float = Field(0.1, ge=0, le=1)
    outward: tuple[float, float] = (0.2, 0.1)
    inward: tuple[float, float] = (0.1, 0.05)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= share < 0.5 for share in self.inward) or min(self.outward) < 0:
            raise ValueError(
                f"`inward` {list(self.inward)} and `outward` {list(self.outward)}: expected shares from 0, and below 0.5 "
                "inward, so that something of a box remains"
            )
        return self


@dataclass(frozen=True)
class BoxView:
    """What is done to a clip and its boxes.

    Args:
        view: frames, crop and flip.
        shift: of hue, saturation and value, in 256ths.
        boxes_M4: float32, in the view; only those of which something is left there.
        kept_M: int64, their indices among the boxes on file.
    """

    view: View
    shift: tuple[int, int, int]
    boxes_M4: np.ndarray
    kept_M: np.ndarray


def key_frame_indices(clip: KeyFrameClip, key: int, num_frames: int) -> tuple[int, ...]:
    """Return T frames, ``stride`` apart, of which number T // 2 is the key frame; the file's ends are repeated."""
    indices_T = key + (np.arange(clip.frames) - clip.frames // 2) * clip.stride
    return tuple(int(index) for index in np.clip(indices_T, 0, num_frames - 1))


def draw_box_view(
    clip: KeyFrameClip,
    config: BoxAugment,
    name: tuple[str | int, ...],
    boxes_M4: np.ndarray,
    key: int,
    num_frames: int,
    height: int,
    width: int,
) -> BoxView:
    """Draw how a key frame is shown, by a hash of its name.

    Args:
        clip: frames and sizes.
        config: what is drawn.
        name: tells the sample and its pass.
        boxes_M4: on file.
        key: number of the key frame.
        num_frames: of the file.
        height: of its frames in pixels.
        width: the same.
    """
    # Always the same draws in the same order: switching one part off leaves the others as they were.
    rng = counter_generator("boxes", *name)
    y, x, flip_draw = (float(draw) for draw in rng.random(3))
    shift_draws = rng.uniform(-1, 1, 3)
    jitter_M4 = rng.random((len(boxes_M4), 4))
    side = max(1, round(min(height, width) * clip.size / clip.short_side))
    top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
    flip = config.flip and flip_draw < 0.5
    shown_M4 = boxes_in_view(_jittered(boxes_M4, config, jitter_M4), (top, left, side, side), flip, height, width)
    kept_M = np.flatnonzero((shown_M4[:, 2:] - shown_M4[:, :2] >= 1 / clip.size).all(axis=1))
    strength = np.array([config.hue / 360, config.saturation, config.value]) * 256
    hue, saturation, value = (int(shift) for shift in np.rint(shift_draws * strength))
    return BoxView(
        view=View(key_frame_indices(clip, key, num_frames), (top, left, side, side), flip, clip.size),
        shift=(hue, saturation, value),
        boxes_M4=shown_M4[kept_M].astype(np.float32),
        kept_M=kept_M,
    )


def boxes_in_view(boxes_M4: np.ndarray, crop: tuple[int, int, int, int], flip: bool, height: int, width: int) -> np.ndarray:
    """Return boxes of a frame as boxes of a view of it, cut off at the view's borders: of one outside nothing is left.

    Args:
        boxes_M4: in the frame.
        crop: top, left, height, width in pixels of the frame.
        flip: whether the view is mirrored.
        height: of the frame in pixels.
        width: the same.
    """
    top, left, crop_height, crop_width = crop
    pixels_M4 = boxes_M4 * np.array([width, height, width, height]) - np.array([left, top, left, top])
    shares_M4 = pixels_M4 / np.array([crop_width, crop_height, crop_width, crop_height])
    if flip:
        shares_M4 = np.stack((1 - shares_M4[:, 2], shares_M4[:, 1], 1 - shares_M4[:, 0], shares_M4[:, 3]), axis=1)
    return np.clip(shares_M4, 0.0, 1.0)


def box_iou(one_P4: np.ndarray, two_P4: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes, pair by pair."""
    lower, upper = np.maximum(one_P4[..., :2], two_P4[..., :2]), np.minimum(one_P4[..., 2:], two_P4[..., 2:])
    common = np.clip(upper - lower, 0.0, None).prod(axis=-1)
    areas = (one_P4[..., 2:] - one_P4[..., :2]).prod(axis=-1) + (two_P4[..., 2:] - two_P4[..., :2]).prod(axis=-1)
    return np.asarray(common / (areas - common))


def widened(boxes_M4: np.ndarray, share_x: float, share_y: float) -> np.ndarray:
    """Return boxes whose edges all move out by a share of the box's width or height, within the frame."""
    size_M2 = boxes_M4[:, 2:] - boxes_M4[:, :2]
    out_M2 = size_M2 * np.array([share_x, share_y])
    return np.clip(np.concatenate((boxes_M4[:, :2] - out_M2, boxes_M4[:, 2:] + out_M2), axis=1), 0.0, 1.0)


def apply_box_view(frames_THWC: np.ndarray, shown: BoxView) -> np.ndarray:
    """Change decoded frames of the file, uint8 [T,H,W,3] -> [T,S,S,3].

    Raises:
        ValueError: the crop does not lie inside the frames.
    """
    frames_TSSC = apply_view(frames_THWC, shown.view)
    if not any(shown.shift):
        return frames_TSSC
    # All frames below each other as one image: the same shift for all.
    tall = Image.fromarray(frames_TSSC.reshape(-1, *frames_TSSC.shape[2:]))
    hsv = np.asarray(tall.convert("HSV")).astype(np.int16) + np.array(shown.shift, dtype=np.int16)
    hsv[..., 0] %= 256
    shifted = Image.fromarray(np.clip(hsv, 0, 255).astype(np.uint8), mode="HSV").convert("RGB")
    return np.asarray(shifted).reshape(frames_TSSC.shape)


def whole_size(clip: KeyFrameClip, patch_size: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width, multiples of the patch size, to which whole frames are resized for a test.

    The short side becomes ``short_side``, the other one is rounded, so that boxes, being shares, stay right. (The published
    code fills up with black instead, which the encoder then attends to.)
    """
    scale = clip.short_side / min(height, width)
    rows, columns = (max(1, round(side * scale / patch_size)) for side in (height, width))
    return rows * patch_size, columns * patch_size


def load_whole(path: Path, indices: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode frames and resize them whole: uint8 RGB [T,height,width,3].

    Raises:
        VideoError: the file cannot be read.
    """
    # Here, not at the top: whoever only draws views loads no video decoder.
    from umt_pipeline.video.reader import read_frames

    distinct, inverse_T = np.unique(np.asarray(indices), return_inverse=True)
    frames_FHWC = read_frames(path, distinct.tolist())
    resized = [Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in frames_FHWC]
    return np.stack([np.asarray(image) for image in resized])[inverse_T]


def _jittered(boxes_M4: np.ndarray, config: BoxAugment, draws_M4: np.ndarray) -> np.ndarray:
    """Move each edge, out by a draw of 1 and in by a draw of 0, and keep it in the frame."""
    outward_4, inward_4 = np.array([*config.outward] * 2), np.array([*config.inward] * 2)
    size_M4 = np.tile(boxes_M4[:, 2:] - boxes_M4[:, :2], (1, 2))
    out_M4 = (draws_M4 * (outward_4 + inward_4) - inward_4) * size_M4
    moved_M4 = boxes_M4 + out_M4 * np.array([-1, -1, 1, 1])
    return np.clip(moved_M4, 0.0, 1.0)
