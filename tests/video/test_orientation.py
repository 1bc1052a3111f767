from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from tests.video.odd_files import ONE, TURNS, matrix
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import Reason
from umt_pipeline.video.orientation import Orientation

FRAMES = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def packed(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack("=9i", *matrix(a, b, c, d))


@pytest.mark.parametrize("name", TURNS)
def test_each_display_matrix_is_one_turn_and_the_name_says_how_to_do_it(name: str) -> None:
    numbers, expected = TURNS[name]
    orientation = Orientation.from_display_matrix(packed(*numbers))
    np.testing.assert_array_equal(orientation.turn(FRAMES), expected(FRAMES))
    mirrored = FRAMES[:, :, ::-1] if orientation.mirrored else FRAMES
    np.testing.assert_array_equal(orientation.turn(FRAMES), np.rot90(mirrored, -(orientation.rotation // 90), (1, 2)))
    assert (orientation.mirrored, orientation.rotation) == ("mirrored" in name, int(name.split()[-1]) if name[-1] == "0" else 0)


def test_all_turns_differ() -> None:
    orientations = [Orientation.from_display_matrix(packed(*numbers)) for numbers, _ in TURNS.values()]
    assert len({(each.rotation, each.mirrored) for each in orientations}) == len(orientations) == 8


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0), (2 * ONE, 0, 0, ONE), (ONE, 900, -900, ONE)])
def test_what_ffmpeg_takes_for_upright_is_upright(numbers: tuple[int, int, int, int]) -> None:
    assert Orientation.from_display_matrix(packed(*numbers)) == Orientation()


@pytest.mark.parametrize("degrees", [2, 30, 45, 88, 135, 200, -10])
def test_other_angles_are_refused(degrees: float) -> None:
    cos, sin = (round(ONE * part) for part in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
    with pytest.raises(VideoError, match="expected a picture turned by a multiple of 90 degrees") as caught:
        Orientation.from_display_matrix(packed(cos, sin, -sin, cos))
    assert caught.value.reason == Reason.WRONG_SHAPE


@pytest.mark.parametrize("numbers", [(ONE, 0, 0, 0), (0, ONE, 0, 0), (ONE, ONE, ONE, ONE)])
def test_a_matrix_that_makes_a_line_of_the_picture_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(VideoError, match="multiple of 90 degrees"):
        Orientation.from_display_matrix(packed(*numbers))
    with pytest.raises(VideoError, match="of 36 bytes, found 8"):
        Orientation.from_display_matrix(b"12345678")


@pytest.mark.parametrize(
    ("sample_aspect", "upright"),
    [(Fraction(1), (160, 120)), (Fraction(2), (320, 120)), (Fraction(1, 2), (80, 120)), (Fraction(8, 9), (142, 120)),
     (Fraction(128, 117), (175, 120))],
)  # fmt: skip
def test_the_width_is_stretched_for_wide_and_narrow_pixels(sample_aspect: Fraction, upright: tuple[int, int]) -> None:
    assert Orientation().displayed_size(160, 120, sample_aspect) == upright
    assert Orientation(transposed=True, flip_x=True).displayed_size(160, 120, sample_aspect) == upright[::-1]


@pytest.mark.parametrize("sample_aspect", [Fraction(16), Fraction(1, 16), Fraction(10**6), Fraction(-1), Fraction(0)])
def test_pixels_of_absurd_shape_are_refused(sample_aspect: Fraction) -> None:
    with pytest.raises(VideoError, match="expected pixels of a sample aspect below 16:1 and above 1:16"):
        Orientation().displayed_size(160, 120, sample_aspect)
