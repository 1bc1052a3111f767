"""What pictures look like, in a few bytes: a hash that stays nearly the same when a file is coded again or made smaller.

A difference hash: the picture becomes 8 rows of 9 grey areas, and each of the 64 bits says whether an area is brighter than
its neighbour on the right. Two hashes are compared by the number of bits that differ. A picture of one colour has the hash 0.

H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Frames of a video that are hashed.
FRAMES = 3

_ROWS, _COLUMNS = 8, 9
# ITU-R BT.601, in thousandths: whole numbers, so that no sum is rounded and every machine finds the same bits.
_LUMA = np.array([299.0, 587.0, 114.0])


def hashed_frames(num_frames: int) -> tuple[int, ...]:
    """Return the numbers of the frames of a video that are hashed: those at one, three and five sixths of its length."""
    return tuple((2 * part + 1) * num_frames // (2 * FRAMES) for part in range(FRAMES))


def perceptual_hash(frames: Sequence[NDArray[np.uint8]]) -> str:
    """Return the hashes of frames, 16 hexadecimal digits each, joined.

    Args:
        frames: uint8 RGB ``[H, W, 3]`` each, as displayed.
    """
    return "".join(_difference_hash(frame_HWC) for frame_HWC in frames)


def _difference_hash(frame_HWC: NDArray[np.uint8]) -> str:
    height, width = frame_HWC.shape[:2]
    # Sums of whole numbers below 2 ** 53 are exact in float64, in whatever order they are added.
    rows = []
    for weights_H in _overlaps(height, _ROWS):
        (inside,) = np.nonzero(weights_H)  # only these rows at a time: a large photo as float64 takes gigabytes
        part = frame_HWC[inside[0] : inside[-1] + 1].astype(np.float64)
        rows.append(np.tensordot(weights_H[inside], part, axes=1) @ _LUMA)
    areas = np.stack(rows) @ _overlaps(width, _COLUMNS).T
    bits = np.packbits(areas[:, :-1] > areas[:, 1:])
    return bits.tobytes().hex()


def _overlaps(length: int, parts: int) -> NDArray[np.float64]:
    """Return how much of each of ``length`` pixels lies in each of ``parts`` equal parts: [parts, length], whole numbers."""
    pixels, bounds = np.arange(length) * parts, np.arange(parts)[:, None] * length
    overlap = np.minimum(pixels + parts, bounds + length) - np.maximum(pixels, bounds)
    return np.maximum(overlap, 0).astype(np.float64)
