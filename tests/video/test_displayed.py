"""Frames are what a player shows, in both decoders. The expectation comes from the same pictures, coded upright and square."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video.odd_files import TURNS, matrix, pictures, write_pictures
from umt_pipeline.video.container import read_header
from umt_pipeline.video.decoders import read_in_order
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe, read_frames

SIZES = [(48, 64), (120, 160), (130, 94)]  # (height, width)
COUNT = 6
ALL = list(range(COUNT))


def coded(folder: Path, height: int, width: int) -> np.ndarray:
    """Return pictures as they come back from an upright, square file."""
    return read_frames(write_pictures(folder / "upright.mp4", pictures(COUNT, height, width)), ALL)


def stretched(frames: np.ndarray, width: int) -> np.ndarray:
    size = (width, frames.shape[1])
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_turned_files_are_shown_upright(tmp_path: Path, height: int, width: int) -> None:
    upright = coded(tmp_path, height, width)
    for name, (numbers, expected) in TURNS.items():
        path = write_pictures(tmp_path / f"{name}.mp4", pictures(COUNT, height, width), turn=matrix(*numbers))
        info, frames = probe(path, VideoRules()), read_frames(path, ALL)
        # The coded bits are the same, so all pixels are; decord turns before it makes RGB, which moves colours a little.
        assert difference(frames, expected(upright)) <= 1.0, name
        assert difference(frames, read_in_order(path, read_header(path), ALL)) <= 1.0, name
        assert frames.shape == (COUNT, info.height, info.width, 3)
        assert (info.rotation, info.mirrored) == (int(name.split()[-1]) if name[-1] == "0" else 0, "mirrored" in name)
        assert info.num_frames == COUNT


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("sample_aspect", [Fraction(2), Fraction(1, 2), Fraction(16, 15)])
def test_pixels_are_made_square(tmp_path: Path, height: int, width: int, sample_aspect: Fraction) -> None:
    upright = coded(tmp_path, height, width)
    path = write_pictures(tmp_path / "odd.mp4", pictures(COUNT, height, width), sample_aspect=sample_aspect)
    info, frames = probe(path, VideoRules()), read_frames(path, ALL)
    shown = int(width * sample_aspect + Fraction(1, 2))
    assert (info.width, info.height, info.sample_aspect) == (shown, height, float(sample_aspect))
    assert difference(frames, stretched(upright, shown)) <= 1.5
    assert difference(frames, read_in_order(path, read_header(path), ALL)) == 0.0


@pytest.mark.parametrize("name", ["90", "mirrored", "mirrored, 270"])
def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path: Path, name: str) -> None:
    upright = coded(tmp_path, 48, 64)
    numbers, turned = TURNS[name]
    path = write_pictures(tmp_path / "odd.mp4", pictures(COUNT, 48, 64), turn=matrix(*numbers), sample_aspect=Fraction(2))
    info, frames = probe(path, VideoRules()), read_frames(path, ALL)
    assert sorted((info.width, info.height)) == [48, 128]
    assert difference(frames, turned(stretched(upright, 128))) <= 1.5
    assert difference(frames, read_in_order(path, read_header(path), ALL)) <= 1.5


def test_the_hash_is_of_the_displayed_picture(tmp_path: Path) -> None:
    # The same film, held in three ways and filmed once with wide pixels: who looks at it sees no difference.
    film = pictures(COUNT, 96, 128)
    upright = probe(write_pictures(tmp_path / "upright.mp4", film), VideoRules())
    turned = np.ascontiguousarray(np.rot90(film, 1, (1, 2)))
    narrow = stretched(film, 64)
    others = [
        write_pictures(tmp_path / "turned.mp4", turned, turn=matrix(*TURNS["90"][0])),
        write_pictures(tmp_path / "mirrored.mp4", np.ascontiguousarray(film[:, :, ::-1]), turn=matrix(*TURNS["mirrored"][0])),
        write_pictures(tmp_path / "narrow.mp4", narrow, sample_aspect=Fraction(2)),
    ]
    for path in others:
        info = probe(path, VideoRules())
        assert (info.width, info.height) == (128, 96)
        assert (int(info.perceptual_hash, 16) ^ int(upright.perceptual_hash, 16)).bit_count() <= 6
