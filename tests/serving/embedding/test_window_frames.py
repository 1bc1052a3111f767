"""Frames of windows are those that anybody reads of that part of the file, however they are got at."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.serving.filmed import FPS
from tests.video_files import write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.serving.embedding import window_frames
from umt_pipeline.serving.embedding.window_frames import WindowReader, read_windows
from umt_pipeline.serving.embedding.windows import Window, WindowRule
from umt_pipeline.serving.files import frame_seconds, look
from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.video.media import VideoInfo, VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig

VIEW = ViewConfig(frames=3, size=48)
RULE = WindowRule(length_s=4, stride_s=2, snap_s=0)
# Container and coding, and whether such a file can be entered at its key frames.
KINDS = {
    "mp4": (".mp4", "libx264", {"g": "12"}, True),
    "mkv with B frames": (".mkv", "libx264", {"g": "24", "bf": "3"}, True),
    "one key frame": (".mp4", "libx264", {"g": "1000", "sc_threshold": "0"}, True),
    "avi": (".avi", "mpeg4", {"g": "12"}, False),
    "mpeg-ts": (".ts", "libx264", {"g": "12"}, False),
}


def open_files() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").glob("*") if Path("/proc/self/fd").exists() else []:
        with suppress(OSError):
            found.append(str(path.readlink()))
    return found


def film(folder: Path, kind: str) -> tuple[Path, VideoInfo]:
    suffix, codec, options, _ = KINDS[kind]
    path = write_video(folder / f"film{suffix}", num_frames=25 * FPS, fps=FPS, codec=codec, options=options)
    return path, probe(path, VideoRules(min_frames=1, min_side=1))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_read_side_by_side_give_what_one_reads_alone(tmp_path: Path, kind: str) -> None:
    path, info = film(tmp_path, kind)
    windows = RULE.cut(info.duration_s)
    reader = WindowReader(path, info, VIEW, windows, at_once=3)
    assert [len(part) for part in reader.parts] == [3, 3, 3, 3]
    with ThreadPoolExecutor(3) as pool:
        frames_WTSSC = np.concatenate(list(pool.map(reader.read, range(len(reader.parts)))))
    assert reader._can_be_entered == KINDS[kind][3]
    assert np.array_equal(frames_WTSSC, read_windows(path, info, VIEW, windows))
    assert np.array_equal(frames_WTSSC, np.stack([clip_of(path, VIEW, window) for window in windows]))


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_reads_a_file_knows_the_same_times(tmp_path: Path, kind: str) -> None:
    path, info = film(tmp_path, kind)
    timeline = WindowReader(path, info, VIEW, (Window(0.0, 2.0),), 1)._timeline
    assert np.array_equal(timeline.seconds_N, frame_seconds(path, look(path, count=True)))


def test_frames_are_evenly_spaced_over_their_window(tmp_path: Path) -> None:
    path, info = film(tmp_path, "mp4")
    timeline = WindowReader(path, info, VIEW, (Window(0.0, 2.0),), 1)._timeline
    view = ViewConfig(frames=4, size=48)
    assert timeline.frames_of(Window(0.0, 2.0), view) == [1, 5, 9, 13]
    assert timeline.frames_of(Window(10.0, 14.0), view) == [83, 91, 99, 107]
    assert timeline.frames_of(Window(10.01, 10.1), view) == [80] * 4, "the one that is seen then"


def test_a_whole_file_is_read_as_everywhere_else(tmp_path: Path) -> None:
    path, info = film(tmp_path, "mp4")
    (whole,) = read_windows(path, info, VIEW, [Window(0.0, info.duration_s)])
    assert np.array_equal(whole, clip_of(path, VIEW))


def test_each_frame_is_decoded_once_for_all_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, info = film(tmp_path, "avi")
    decoded = []
    displayed = window_frames.displayed_frames

    def counted(*args: object) -> object:
        for frame in displayed(*args):  # type: ignore[arg-type]
            decoded.append(1)
            yield frame

    monkeypatch.setattr(window_frames, "displayed_frames", counted)
    reader = WindowReader(path, info, VIEW, RULE.cut(info.duration_s), at_once=2)
    for part in range(len(reader.parts)):
        reader.read(part)
    assert len(decoded) <= info.num_frames
    reader.close()
    assert str(path) not in open_files()


def test_far_key_frames_are_not_gone_to_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_frames, "_FAR_S", 10.0)
    path, info = film(tmp_path, "one key frame")
    windows = RULE.cut(info.duration_s)
    reader = WindowReader(path, info, VIEW, windows, at_once=3)
    frames_WTSSC = np.concatenate([reader.read(part) for part in range(len(reader.parts))])
    assert reader._reel is not None
    assert np.array_equal(frames_WTSSC, read_windows(path, info, VIEW, windows))


def test_a_file_that_is_cut_short_is_a_failure_of_each_part_behind(tmp_path: Path) -> None:
    path, info = film(tmp_path, "mpeg-ts")
    reader = WindowReader(path, info, VIEW, RULE.cut(info.duration_s), at_once=4)
    reader.read(0)
    shutil.copy(path, tmp_path / "half.ts")
    with (tmp_path / "half.ts").open("r+b") as handle:
        handle.truncate(path.stat().st_size // 2)
    half = WindowReader(tmp_path / "half.ts", info, VIEW, reader.windows, at_once=4)
    half.read(0)
    for part in (1, 2):
        with pytest.raises(VideoError, match=r"half.ts|was asked for"):
            half.read(part)
