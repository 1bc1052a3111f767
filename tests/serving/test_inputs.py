"""A video in any form gives the same frames; a part of it gives the frames that are on the screen then."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.video_files import number_shown, numbered_frame, write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.serving import files
from umt_pipeline.serving.files import load_frames
from umt_pipeline.serving.inputs import clip_of, timed_clip, views_of
from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.reader import read_frames
from umt_pipeline.video.views import ViewConfig

# Frames as high as those of the files, so that their bars are still there in the middle.
VIEW = ViewConfig(frames=4, size=48)


@pytest.fixture(scope="module", params=["clip.mp4", "clip.avi"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the fast decoder's, and one that is decoded in order."""
    codec = "libx264" if request.param.endswith("mp4") else "mpeg4"
    return write_video(tmp_path_factory.mktemp("films") / request.param, num_frames=24, fps=10, width=48, codec=codec)


def numbers(frames: np.ndarray) -> list[int]:
    return [number_shown(frame) for frame in frames]


def test_all_forms_of_a_video_are_the_same_clip(path: Path) -> None:
    expected = load_frames(path, VIEW)
    assert numbers(expected) == [2, 8, 14, 20]
    frames = read_frames(path, range(24))
    for form in (path, str(path), path.read_bytes(), frames, torch.from_numpy(frames)):
        np.testing.assert_array_equal(clip_of(form, VIEW), expected)


def test_a_part_is_what_is_on_the_screen_then(path: Path) -> None:
    assert numbers(clip_of(path, VIEW, (1.0, 1.4))) == [10, 11, 12, 13]
    assert numbers(clip_of(path, VIEW, (0.95, 1.15))) == [10, 10, 11, 11], "of the frames that begin then"
    assert numbers(clip_of(path, VIEW, (1.01, 1.09))) == [10, 10, 10, 10], "between two frames, the earlier one"
    assert numbers(clip_of(path, VIEW, (2.35, 9.0))) == [23, 23, 23, 23]
    clip = timed_clip(path, VIEW, (1.0, 1.4))
    np.testing.assert_allclose(clip.seconds, [1.0, 1.1, 1.2, 1.3])
    for span in ((2.5, 3.0), (1.0, 1.0)):
        with pytest.raises(VideoError, match=rf"{path}: expected a part of a video of 2\.400 seconds"):
            clip_of(path, VIEW, span)


def test_seconds_are_those_of_the_frames(tmp_path: Path) -> None:
    """Of a file with a pause: its rate says nothing of when a frame is shown."""
    path = tmp_path / "pause.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, 48, 48), format="rgb24")
            frame.pts, frame.time_base = number + (100 if number >= 10 else 0), Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = timed_clip(path, VIEW, (0.8, 11.2))
    assert numbers(clip.frames) == [8, 9, 10, 11]
    np.testing.assert_allclose(clip.seconds, [0.8, 0.9, 11.0, 11.1])
    assert numbers(clip_of(path, VIEW, (5.0, 6.0))) == [9] * 4, "what stands still"


def test_views_of_classifiers_are_the_same_for_all_forms(path: Path) -> None:
    clip, test = ClipConfig(frames=2, size=32), MultiViewTest(clips=2, crops=1)
    expected = views_of(path, clip, test)
    assert expected.shape == (2, 2, 32, 32, 3)
    np.testing.assert_array_equal(views_of(read_frames(path, range(24)), clip, test), expected)
    np.testing.assert_array_equal(views_of(path.read_bytes(), clip, test), expected)


def test_views_of_a_part_are_those_of_its_frames(path: Path) -> None:
    clip, test = ClipConfig(frames=2, size=48), MultiViewTest(clips=2, crops=1)
    part = views_of(path, clip, test, (1.0, 1.8))
    np.testing.assert_array_equal(part, views_of(read_frames(path, range(10, 18)), clip, test))
    np.testing.assert_array_equal(views_of(path, clip, test, (0.0, 9.0)), views_of(path, clip, test))
    with pytest.raises(VideoError, match="expected a part of a video"):
        views_of(path, clip, test, (5.0, 6.0))
    with pytest.raises(VideoError, match="single frames do not have"):
        views_of(read_frames(path, range(24)), clip, test, (0.0, 1.0))


def test_a_still_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    for form in (path, path.read_bytes(), pixels[None]):
        np.testing.assert_array_equal(clip_of(form, VIEW), np.stack([pixels] * 4))
    assert timed_clip(path, VIEW, (0.0, 0.0)).seconds.tolist() == [0.0] * 4
    assert views_of(path, ClipConfig(frames=2, size=32), MultiViewTest()).shape == (1, 2, 32, 32, 3)


def test_frames_are_counted_where_the_index_lists_too_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = files.look

    def look(path: Path, *, count: bool = False) -> files.Film:
        found = told(path, count=count)
        return found if count else replace(found, num_frames=60)

    monkeypatch.setattr(files, "look", look)
    assert numbers(load_frames(path, VIEW)) == [2, 8, 14, 20]


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((2, 8, 8, 3), dtype=np.float32), r"expected frames as uint8 \[frames, height, width, 3\], found float32"),
        (np.zeros((8, 8, 3), dtype=np.uint8), r"found uint8 \[8, 8, 3\]"),
        (np.zeros((0, 8, 8, 3), dtype=np.uint8), r"found uint8 \[0, 8, 8, 3\]"),
        (b"no film at all", "video of 14 bytes"),
        (b"", "video of 0 bytes.* 0 bytes"),
        ("nowhere.mp4", "nowhere.mp4: expected a file, found nothing"),
    ],
)
def test_what_is_no_video_is_said(video: object, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        clip_of(video, VIEW)  # type: ignore[arg-type]


def test_frames_without_a_file_have_no_seconds(path: Path) -> None:
    frames = read_frames(path, range(4))
    assert np.isnan(timed_clip(frames, VIEW).seconds).all()
    with pytest.raises(VideoError, match=r"array \[4, 48, 48, 3\]: a part was asked for by seconds"):
        clip_of(frames, VIEW, (0.0, 1.0))
