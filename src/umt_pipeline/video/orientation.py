"""The one rule of how a coded picture becomes the displayed one: stretched to square pixels, then turned as the file says.

A container holds a display matrix: cameras write one in place of turning the picture. Players and FFmpeg apply it, and so
does whatever reads a video here. Pixels that are not square are made square by stretching the width of the coded picture,
whether they are wider than high or higher than wide: the number of rows is never changed. That is FFmpeg's rule and what
players show.

T frames, H W pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import Reason

# A matrix may be this far from an exact turn, as the tangent of an angle: FFmpeg allows one degree too.
_TOLERANCE = 0.0175
# Wider or narrower pixels are a mistake in a header; to obey it would make pictures of any size.
_MAX_ASPECT = 16
# What is done to a picture -> (degrees clockwise, mirrored from left to right before that).
_NAMES = {
    (False, False, False): (0, False),
    (False, True, False): (0, True),
    (False, True, True): (180, False),
    (False, False, True): (180, True),
    (True, True, False): (90, False),
    (True, True, True): (90, True),
    (True, False, True): (270, False),
    (True, False, False): (270, True),
}


@dataclass(frozen=True)
class Orientation:
    """How a coded picture is turned: rows and columns change places or not, then columns and rows are reversed or not.

    Attributes:
        transposed: rows become columns.
        flip_x: reversed from left to right, after that.
        flip_y: reversed from top to bottom, after that.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def from_display_matrix(cls, matrix: bytes) -> Orientation:
        """Read FFmpeg's display matrix: nine int32 in the machine's order, of which four say where x and y go.

        Raises:
            VideoError: it turns by something else than a multiple of 90 degrees.
        """
        if len(matrix) != 36:
            raise VideoError(Reason.WRONG_SHAPE, f"expected a display matrix of 36 bytes, found {len(matrix)}")
        a, b, _, c, d = struct.unpack("=9i", matrix)[:5]
        if not any((a, b, c, d)):
            return cls()  # some writers leave it empty
        # A pixel at (x, y) is displayed at (a x + c y, b x + d y).
        straight, crossed = (abs(a), abs(d)), (abs(b), abs(c))
        if max(crossed) < _TOLERANCE * min(straight):
            return cls(False, a < 0, d < 0)
        if max(straight) < _TOLERANCE * min(crossed):
            return cls(True, c < 0, b < 0)
        found = f"a display matrix of ({a}, {b}, {c}, {d}) / 65536"
        raise VideoError(Reason.WRONG_SHAPE, f"expected a picture turned by a multiple of 90 degrees, found {found}")

    @property
    def rotation(self) -> int:
        """Degrees clockwise: 0, 90, 180 or 270."""
        return _NAMES[self.transposed, self.flip_x, self.flip_y][0]

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored from left to right before it is turned."""
        return _NAMES[self.transposed, self.flip_x, self.flip_y][1]

    def turn(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn coded frames [T,H,W,3] as they are displayed; [T,W,H,3] where rows become columns. A view, not a copy."""
        turned = frames_THWC.swapaxes(1, 2) if self.transposed else frames_THWC
        return turned[:, :: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def displayed_size(self, width: int, height: int, sample_aspect: Fraction) -> tuple[int, int]:
        """Return (width, height) as displayed of a coded picture of ``width`` x ``height`` pixels.

        Args:
            width: of the coded picture.
            height: of the coded picture.
            sample_aspect: width of a coded pixel per height.

        Raises:
            VideoError: the pixels are 16 times as wide as high, or more, or the other way round.
        """
        stretched = stretched_width(width, sample_aspect)
        return (height, stretched) if self.transposed else (stretched, height)


def stretched_width(width: int, sample_aspect: Fraction) -> int:
    """Return how many square pixels are as wide as ``width`` coded ones, at least one.

    Raises:
        VideoError: the pixels are 16 times as wide as high, or more, or the other way round.
    """
    if not Fraction(1, _MAX_ASPECT) < sample_aspect < _MAX_ASPECT:
        found = f"{sample_aspect.numerator}:{sample_aspect.denominator}"
        raise VideoError(Reason.WRONG_SHAPE, f"expected pixels of a sample aspect below 16:1 and above 1:16, found {found}")
    return max(1, int(width * sample_aspect + Fraction(1, 2)))
