"""Augmentation for fine-tuning, drawn once per clip and applied alike to all of its frames.

What is drawn is data: an :class:`Augmentation` is plain numbers, drawn from a counter-based generator, so that any worker
makes the same sample at any time. The pixel operations are timm's; its own drawing is not used, because that takes global
random state, which a loader's thread would share with the training step.

Source: the published fine-tuning's ``rand-m7-n4-mstd0.5-inc1``, random resized crop, flip and ``pixel`` erasing.

Legend: T frames, H W pixels of the file, S side of the square view.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.video.action_views import ClipConfig, random_crop, train_indices
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD
from umt_pipeline.video.views import View, apply_view, counter_generator

_GREY = (128, 128, 128)
_MAX_MAGNITUDE = 10.0
# timm's fifteen operations of "increasing" strength: what strength s in [0, 1] and a sign make their argument.
_ARGUMENTS: dict[str, Callable[[float, int], tuple[float, ...]]] = {
    "AutoContrast": lambda s, sign: (),
    "Equalize": lambda s, sign: (),
    "Invert": lambda s, sign: (),
    "Rotate": lambda s, sign: (sign * 30.0 * s,),
    "PosterizeIncreasing": lambda s, sign: (4 - int(4 * s),),
    "SolarizeIncreasing": lambda s, sign: (256 - min(256, int(256 * s)),),
    "SolarizeAdd": lambda s, sign: (min(128, int(110 * s)),),
    "ColorIncreasing": lambda s, sign: (max(0.1, 1.0 + sign * 0.9 * s),),
    "ContrastIncreasing": lambda s, sign: (max(0.1, 1.0 + sign * 0.9 * s),),
    "BrightnessIncreasing": lambda s, sign: (max(0.1, 1.0 + sign * 0.9 * s),),
    "SharpnessIncreasing": lambda s, sign: (max(0.1, 1.0 + sign * 0.9 * s),),
    "ShearX": lambda s, sign: (sign * 0.3 * s,),
    "ShearY": lambda s, sign: (sign * 0.3 * s,),
    "TranslateXRel": lambda s, sign: (sign * 0.45 * s,),
    "TranslateYRel": lambda s, sign: (sign * 0.45 * s,),
}
OPERATIONS = tuple(_ARGUMENTS)


class RandAugmentConfig(Config):
    """RandAugment in timm's terms; the defaults are ``rand-m7-n4-mstd0.5-inc1``.

    Attributes:
        operations: drawn per clip, with replacement.
        magnitude: mean strength, of 10.
        deviation: of the strength, which is drawn anew for each operation.
        probability: that a drawn operation is applied.
    """

    operations: int = Field(4, ge=1)
    magnitude: float = Field(7.0, ge=0, le=_MAX_MAGNITUDE)
    deviation: float = Field(0.5, ge=0)
    probability: float = Field(0.5, ge=0, le=1)


class AugmentConfig(Config):
    """How training views differ from what is on file.

    Attributes:
        rand_augment: null: none.
        area: share of the frame's area that a crop keeps, smallest and largest.
        ratio: width per height of a crop, smallest and largest.
        flip: mirror half of the views; off by default, because many labels have a direction ("left to right").
        erase: probability of erasing a box of 2 to 33 % of the view, filled with noise.
    """

    rand_augment: RandAugmentConfig | None = RandAugmentConfig()
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    erase: float = Field(0.25, ge=0, le=1)


@dataclass(frozen=True)
class Augmentation:
    """What is done to a clip.

    Args:
        view: frames, crop and flip.
        operations: timm's names and their arguments, applied to whole frames before the crop, as published.
        erased: box in the view (top, left, height, width), or None.
        noise_key: of the noise that fills the box.
    """

    view: View
    operations: tuple[tuple[str, tuple[float, ...]], ...]
    erased: tuple[int, int, int, int] | None
    noise_key: tuple[str | int, ...]


def draw_augmentation(
    clip: ClipConfig,
    config: AugmentConfig,
    video_id: str,
    epoch: int,
    repeat: int,
    num_frames: int,
    height: int,
    width: int,
) -> Augmentation:
    """Draw how a clip is shown in an epoch.

    All repeats of one epoch show the same frames, so that these are decoded once; all else is drawn for each.
    """
    frames = train_indices(clip, num_frames, counter_generator("frames", video_id, epoch))
    key: tuple[str | int, ...] = ("augment", video_id, epoch, repeat)
    rng = counter_generator(*key)
    # Always the same draws in the same order: switching one part off leaves the others as they were.
    crop = random_crop(config.area, config.ratio, height, width, counter_generator("crop", *key))
    flip_draw, erase_draw = (float(draw) for draw in rng.random(2))
    box = _erased_box(clip.size, rng)
    return Augmentation(
        view=View(frames, crop, config.flip and flip_draw < 0.5, clip.size),
        operations=() if config.rand_augment is None else _operations(config.rand_augment, rng),
        erased=box if erase_draw < config.erase else None,
        noise_key=("noise", *key),
    )


def apply_augmentation(frames_THWC: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Change decoded frames of the file, uint8 [T,H,W,3] -> [T,S,S,3].

    Raises:
        ValueError: the crop does not lie inside the frames.
    """
    if augmentation.operations:
        frames_THWC = np.stack([_operated(frame_HWC, augmentation.operations) for frame_HWC in frames_THWC])
    frames_TSSC = apply_view(frames_THWC, augmentation.view)
    if augmentation.erased is not None:
        top, left, height, width = augmentation.erased
        # Noise of mean 0 and deviation 1 after normalisation, within what a pixel can be.
        noise = counter_generator(*augmentation.noise_key).standard_normal((len(frames_TSSC), height, width, 3))
        pixels = np.clip(255.0 * (noise * IMAGENET_STD + IMAGENET_MEAN), 0, 255).round().astype(np.uint8)
        frames_TSSC = frames_TSSC.copy()
        frames_TSSC[:, top : top + height, left : left + width] = pixels
    return frames_TSSC


def operation_argument(name: str, magnitude: float, sign: int) -> tuple[float, ...]:
    """Return the argument of timm's operation ``name`` at a magnitude of 0 to 10, towards ``sign``."""
    return _ARGUMENTS[name](magnitude / _MAX_MAGNITUDE, sign)


def _operations(config: RandAugmentConfig, rng: np.random.Generator) -> tuple[tuple[str, tuple[float, ...]], ...]:
    count = config.operations
    names = rng.integers(0, len(OPERATIONS), count)
    magnitudes = np.clip(rng.normal(config.magnitude, config.deviation, count), 0.0, _MAX_MAGNITUDE)
    signs, applied = np.where(rng.random(count) < 0.5, -1, 1), rng.random(count) < config.probability
    return tuple(
        (OPERATIONS[name], operation_argument(OPERATIONS[name], float(magnitude), int(sign)))
        for name, magnitude, sign, wanted in zip(names, magnitudes, signs, applied, strict=True)
        if wanted
    )


def _operated(frame_HWC: np.ndarray, operations: tuple[tuple[str, tuple[float, ...]], ...]) -> np.ndarray:
    # Imported where it is needed: timm brings torchvision and torch's compiler, which take two seconds.
    from timm.data.auto_augment import NAME_TO_OP

    image = Image.fromarray(frame_HWC)
    for name, arguments in operations:
        operate: Any = NAME_TO_OP[name]
        image = operate(image, *arguments, fillcolor=_GREY, resample=Image.Resampling.BICUBIC)
    return np.asarray(image)


def _erased_box(side: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """Draw a box of 2 to 33 % of a square of ``side`` pixels, log-uniform in shape; None where ten tries found none."""
    box: tuple[int, int, int, int] | None = None
    for area, shape, y, x in rng.random((10, 4)):
        target = (0.02 + 0.31 * area) * side**2
        ratio = math.exp(math.log(0.3) + shape * math.log(1 / 0.3**2))
        height, width = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if box is None and 0 < height < side and 0 < width < side:
            box = int(y * (side - height + 1)), int(x * (side - width + 1)), height, width
    return box
