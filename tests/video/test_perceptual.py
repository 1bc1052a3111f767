from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from umt_pipeline.video.perceptual import hashed_frames, perceptual_hash


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_the_hash_says_where_it_gets_darker_to_the_right() -> None:
    ramp = np.repeat(np.tile(np.arange(72, dtype=np.uint8), (16, 1))[..., None], 3, axis=2)
    assert perceptual_hash([ramp]) == "0" * 16
    assert perceptual_hash([ramp[:, ::-1]]) == "f" * 16
    halves = np.concatenate([ramp[:8], ramp[8:, ::-1]])
    assert perceptual_hash([halves, ramp, halves]) == "00000000ffffffff" + "0" * 16 + "00000000ffffffff"


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 500), (33, 97), (480, 854)])
def test_a_picture_of_one_colour_has_no_bit_set_at_any_size(shape: tuple[int, int]) -> None:
    # An average that was rounded anywhere would set some: neighbours are exactly equal.
    assert perceptual_hash([np.full((*shape, 3), (37, 91, 203), dtype=np.uint8)]) == "0" * 16


def test_areas_are_averages_over_parts_of_pixels() -> None:
    frame = picture(0, 21, 31)
    whole = np.repeat(np.repeat(frame, 8, axis=0), 9, axis=1)  # every pixel now lies in one area
    assert perceptual_hash([frame]) == perceptual_hash([whole])


def test_another_size_or_coding_is_near_and_another_picture_is_far() -> None:
    frame = picture(1)
    noise = np.random.default_rng(0).integers(-4, 5, frame.shape)
    near = [
        picture(1, 48, 64),
        picture(1, 240, 426),
        np.clip(frame + noise, 0, 255).astype(np.uint8),
        np.clip(frame * 0.8 + 10, 0, 255).astype(np.uint8),
    ]
    own = perceptual_hash([frame])
    assert max(distance(own, perceptual_hash([other])) for other in near) <= 4
    assert min(distance(own, perceptual_hash([picture(seed)])) for seed in range(2, 10)) >= 16


@pytest.mark.parametrize(("num_frames", "numbers"), [(1, (0, 0, 0)), (4, (0, 2, 3)), (12, (2, 6, 10)), (300, (50, 150, 250))])
def test_frames_of_the_hash_lie_inside_the_video(num_frames: int, numbers: tuple[int, ...]) -> None:
    assert hashed_frames(num_frames) == numbers
