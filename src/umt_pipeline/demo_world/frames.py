"""Single frames of the demo world, drawn in bulk and in far more variety than any corpus has: what its teacher learns from.

Every kind, colour, place, size and angle, darker and brighter backgrounds than clips have, and what video coding does to
pictures. A frame is a function of its number alone, so no frame is kept.

Shapes: B frames, S pixels a side, D draws, 8x8 = 64 coefficients of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umt_pipeline.demo_world.scenes import COLOURS, SIZES, TILT, object_coordinates, paint, to_pixels
from umt_pipeline.demo_world.symbols import KINDS, Array, all_fields, sample

Ints = NDArray[np.integer[Any]]

# Of how many frames the object's half extent is that of a size by name; the others are of any, as growing things are.
_NAMED_SIZE = 0.7
_ANY_RADIUS = (0.09, 0.6)
# How far from its range a size by its name may be: clips that grow and shrink are called by their size in the middle.
_AROUND_SIZE = (0.85, 1.2)
_CENTRE = 0.45
_UPRIGHT = 0.7
_BLOCK = 8


@dataclass(frozen=True)
class Frames:
    """Frames and what they show.

    Attributes:
        pixels_BSS3: uint8 RGB.
        kind_B: index into KINDS.
        colour_B: index into COLOURS.
        size_B: index into SIZES; -1 where it is none that has a name.
    """

    pixels_BSS3: NDArray[np.uint8]
    kind_B: Ints
    colour_B: Ints
    size_B: Ints


def draw_frames(numbers_B: Ints, seed: int, side: int) -> Frames:
    """Draw frames: the same pixels for the same numbers and seed, whatever else is in the batch.

    Args:
        numbers_B: non-negative, one per frame.
        seed: of all frames.
        side: of the square frames in pixels, a multiple of 16 (blocks of 8 pixels, colour at half the resolution).
    """
    draws = iter(uniform(numbers_B, seed, 40).T)
    kind_B, colour_B = ((next(draws) * count).astype(np.int64) for count in (len(KINDS), len(COLOURS)))
    size_B, radius_B = _sizes(next(draws), next(draws), next(draws))
    # The sum of two draws: more of them near the middle, and about upright, as in clips.
    x_B, y_B = (_between(next(draws) + next(draws), -_CENTRE, 0.0) for _ in range(2))
    turn_B, upright_B = next(draws), next(draws) < _UPRIGHT
    angle_B = (2 * turn_B - 1) * np.where(upright_B, TILT, np.pi)
    stretch_B = np.exp(_between(next(draws), -0.15, 0.15))
    u_BSS, v_BSS = object_coordinates(side, side, x_B, y_B, radius_B, angle_B)
    # Wider or taller, along the object's own axes: crops change the ratio of sides a little.
    distance_BSS = sample(all_fields(), kind_B, u_BSS * stretch_B[:, None, None], v_BSS / stretch_B[:, None, None])
    softness_B = _between(next(draws), 0.9, 2.2)
    alpha_BSS = np.clip(0.5 - distance_BSS * (radius_B * side / softness_B)[:, None, None], 0.0, 1.0)
    colours = np.asarray(list(COLOURS.values()), dtype=np.float32)
    jitter_B3 = np.stack([_between(next(draws), -14, 14) for _ in range(3)], axis=1)
    colour_B3 = colours[colour_B] * _between(next(draws), 0.85, 1.08)[:, None] + jitter_B3
    background_B3SS = _backgrounds(np.stack([next(draws) for _ in range(7)], axis=1), numbers_B, seed, side)
    frames_B3SS = paint(background_B3SS, colour_B3, v_BSS, alpha_BSS)
    frames_B3SS *= _between(next(draws), 0.85, 1.15)[:, None, None, None]
    return Frames(to_pixels(_coded(frames_B3SS, next(draws), next(draws))), kind_B, colour_B, size_B)


def uniform(numbers_B: Ints, seed: int, draws: int) -> Array:
    """Return uniform numbers [B, D] in [0, 1), float32, that depend on number, seed and place alone (SplitMix64)."""
    with np.errstate(over="ignore"):
        state_B1 = (numbers_B.astype(np.uint64) + np.uint64(1))[:, None] * np.uint64(0x9E3779B97F4A7C15)
        state_B1 = _mixed(state_B1 ^ _mixed(np.array([seed + 1], dtype=np.uint64)))
        steps_D = np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
        return (_mixed(state_B1 + steps_D) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _between(draw_B: Array, low: float, high: float) -> Array:
    return draw_B * np.float32(high - low) + np.float32(low)


def _sizes(which_B: Array, factor_B: Array, radius_B: Array) -> tuple[Ints, Array]:
    """Return each object's size by name (-1: none) and its half extent."""
    ranges = np.asarray(list(SIZES.values()), dtype=np.float32)
    named_B = which_B < _NAMED_SIZE
    size_B = np.minimum((which_B / _NAMED_SIZE * len(ranges)).astype(np.int64), len(ranges) - 1)
    low_B, high_B = ranges[size_B, 0] * _AROUND_SIZE[0], ranges[size_B, 1] * _AROUND_SIZE[1]
    by_name_B = low_B + (high_B - low_B) * factor_B
    any_B = np.exp(_between(radius_B, *np.log(_ANY_RADIUS)))
    return np.where(named_B, size_B, -1), np.where(named_B, by_name_B, any_B).astype(np.float32)


def _backgrounds(draws_B7: Array, numbers_B: Ints, seed: int, side: int) -> Array:
    """Return a tone with a tint, a slope and coarse grain for each frame [B, 3, S, S]."""
    tone_B3 = _between(draws_B7[:, :1], 5, 110) + _between(draws_B7[:, 1:4], -18, 18)
    slope_B2 = _between(draws_B7[:, 4:6], -25, 25)
    line_S = np.linspace(-1, 1, side, dtype=np.float32)
    plane_BSS = slope_B2[:, :1, None] * line_S[:, None] + slope_B2[:, 1:, None] * line_S
    cells = -(-side // 6)
    grain_BC = uniform(numbers_B, seed + 1, cells * cells) - np.float32(0.5)
    grain_BCC = (grain_BC * _between(draws_B7[:, 6:7], 0, 36)).reshape(-1, cells, cells)
    plane_BSS += grain_BCC.repeat(6, axis=1).repeat(6, axis=2)[:, :side, :side]
    return tone_B3[:, :, None, None] + plane_BSS[:, None]


# RGB to luma and the two differences of colour (BT.601), and back.
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], dtype=np.float32)
_TO_RGB = np.linalg.inv(_TO_YCC).astype(np.float32)


def _coded(frames_B3SS: Array, coarseness_B: Array, share_B: Array) -> Array:
    """Return frames as a coder leaves them: colour at half the resolution, blocks of cosines in coarse steps."""
    B, _, S, _ = frames_B3SS.shape
    ycc_B3P = _TO_YCC @ frames_B3SS.reshape(B, 3, -1)
    colour_B2SS = ycc_B3P.reshape(B, 3, S, S)[:, 1:]
    rows_B2HS = colour_B2SS[:, :, ::2] + colour_B2SS[:, :, 1::2]
    halves_B2HH = (rows_B2HS[..., ::2] + rows_B2HS[..., 1::2]) * np.float32(0.25)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        colour_B2SS[:, :, row::2, column::2] = halves_B2HH
    # A fifth of the frames are nearly untouched.
    step_B11 = np.where(share_B < 0.2, 0.5, 1.0 + 17.0 * coarseness_B**2).astype(np.float32)[:, None, None]
    grid = S // _BLOCK
    blocks = ycc_B3P.reshape(B, 3, grid, _BLOCK, grid, _BLOCK).transpose(0, 1, 2, 4, 3, 5).reshape(B, -1, _BLOCK**2)
    coefficients = blocks @ _COSINES.T
    coefficients /= step_B11
    np.rint(coefficients, out=coefficients)
    coefficients *= step_B11
    blocks = (coefficients @ _COSINES).reshape(B, 3, grid, grid, _BLOCK, _BLOCK)
    return (_TO_RGB @ blocks.transpose(0, 1, 2, 4, 3, 5).reshape(B, 3, -1)).reshape(B, 3, S, S)


def _cosines() -> Array:
    """Return the orthonormal two-dimensional cosine transform of a block [64, 64]."""
    index = np.arange(_BLOCK)
    basis = np.cos(np.pi * (2 * index + 1) * index[:, None] / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    basis[0] /= np.sqrt(2)
    return np.kron(basis, basis).astype(np.float32)


_COSINES = _cosines()
