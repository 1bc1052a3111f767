"""Video files as models want them, with errors that name the file.

Shapes: N frames of a file, T frames of a clip, H W pixels, S side of a square frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.container import open_video, packets, read_header, timed_frame
from umt_pipeline.video.counting import count_frames
from umt_pipeline.video.media import Depth, check_file
from umt_pipeline.video.reader import read_frames
from umt_pipeline.video.views import View, ViewConfig, eval_view, load_view

Chosen = TypeVar("Chosen")
Result = TypeVar("Result")

# Files whose length a process remembers, some hundred bytes each; and those whose frames' times it does, 8 bytes a frame.
_KEPT_FILMS, _KEPT_TIMES = 4096, 16


@dataclass(frozen=True)
class Film:
    """What has to be known of a video file to choose frames of it.

    Attributes:
        num_frames: N.
        height: of a frame in pixels, as displayed.
        width: likewise.
        fps: average frames per second.
    """

    num_frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a file are shown in which each carries its time.

    Attributes:
        times_N: by the container's clock, int64, increasing.
        keys: times of the frames that need no other, by the same clock, int64.
        unit_s: seconds of a step of that clock.
    """

    times_N: np.ndarray
    keys: np.ndarray
    unit_s: float

    def seconds(self) -> np.ndarray:
        """Return them in seconds from the first frame that is shown, float64 [N]."""
        return np.asarray((self.times_N - self.times_N[:1]) * self.unit_s, dtype=np.float64)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let a :class:`VideoError` of the block name the file.

    Raises:
        VideoError: the block did.
    """
    try:
        yield
    except VideoError as error:
        if str(path) in error.detail:
            raise
        raise VideoError(error.reason, f"{path}: {error.detail}") from error


def look(path: str | Path, *, count: bool = False) -> Film:
    """Return what a video file is, however short or small: what is asked of a corpus is asked when it is ingested.

    Args:
        path: the file.
        count: decode every frame. Otherwise the number of frames is what the index says where the fast decoder goes by it, so
            that a file is not decoded twice, once to be counted.

    Raises:
        VideoError: the file cannot be read.
    """
    with naming(path):
        state = check_file(Path(path))
        return _look(str(path), state.st_size, state.st_mtime_ns, count)


def read_chosen(path: str | Path, choose: Callable[[Film], Chosen], read: Callable[[Chosen], Result]) -> Result:
    """Return what ``read`` makes of what ``choose`` chose of a file, by its length.

    An index may list a frame that is not there. If what was chosen cannot be read, all frames are counted, and the choice
    is made again.

    Raises:
        VideoError: the file cannot be read.
    """
    film = look(path)
    with naming(path):
        chosen = choose(film)
        try:
            return read(chosen)
        except VideoError:
            counted = look(path, count=True)  # raises what is wrong with the file, if it is not its index
            if counted == film:
                raise
            return read(choose(counted))


def frame_seconds(path: str | Path, film: Film) -> np.ndarray:
    """Return when each frame of a file is shown, in seconds from its first: float64 [N], increasing.

    Args:
        path: the file.
        film: from :func:`look`.

    Raises:
        VideoError: the file cannot be read.
    """
    found = frame_times(path)
    # Where frames carry no time of their own, or fewer do than decode, they are as far apart as the file states.
    if found is None or len(found.times_N) < film.num_frames:
        return np.arange(film.num_frames) / film.fps
    return found.seconds()[: film.num_frames]


def frame_times(path: str | Path) -> FrameTimes | None:
    """Return when the frames of a file are shown, by what the file says, of which no frame is decoded; None: not of each.

    Raises:
        VideoError: the file cannot be read.
    """
    with naming(path):
        state = check_file(Path(path))
        return _times(str(path), state.st_size, state.st_mtime_ns)


def load_frames(path: str | Path, view: ViewConfig) -> np.ndarray:
    """Return frames evenly spaced over all of a video, the square in the middle: uint8 [T, S, S, 3].

    Raises:
        VideoError: the file cannot be read.
    """

    def choose(film: Film) -> View:
        return eval_view(view, film.num_frames, film.height, film.width)

    return read_chosen(path, choose, lambda chosen: load_view(Path(path), chosen))


def video_table(paths: Sequence[str]) -> pd.DataFrame:
    """Return what tests read of a clean video table, a row for each different file.

    Returns:
        Columns video_id (the path), path, num_frames, height, width and fps.

    Raises:
        VideoError: a file cannot be read.
    """
    films = [(path, look(path)) for path in dict.fromkeys(paths)]
    rows = [(path, path, film.num_frames, film.height, film.width, film.fps) for path, film in films]
    return pd.DataFrame(rows, columns=["video_id", "path", "num_frames", "height", "width", "fps"])


def require_all(failures: Mapping[str, str]) -> None:
    """Refuse an answer that leaves videos out.

    Args:
        failures: videos that could not be read, with the reason.

    Raises:
        VideoError: there is one; all are named.
    """
    if failures:
        listed = "; ".join(reason if name in reason else f"{name}: {reason}" for name, reason in failures.items())
        raise VideoError("unreadable_file", f"{len(failures)} of the videos cannot be read: {listed}")


@functools.lru_cache(maxsize=_KEPT_FILMS)
def _look(path: str, size_bytes: int, mtime_ns: int, count: bool) -> Film:
    del size_bytes, mtime_ns  # parts of the key
    file = Path(path)
    header = read_header(file)
    depth: Depth = "header" if header.by_decord and not count else "full"
    num_frames, _ = count_frames(file, header, depth, functools.partial(read_frames, file))
    return Film(num_frames, header.height, header.width, header.fps)


@functools.lru_cache(maxsize=_KEPT_TIMES)
def _times(path: str, size_bytes: int, mtime_ns: int) -> FrameTimes | None:
    del size_bytes, mtime_ns  # parts of the key
    header = read_header(Path(path))
    if not header.times_frames:
        return None
    with open_video(Path(path)) as (container, stream):
        timed = sorted(entry for packet in packets(container, stream) for entry in timed_frame(packet))
        unit_s = float(stream.time_base)
    first = timed[0][0] + header.lead_in if timed else 0
    times_N = np.array([time for time, _ in timed if time >= first], dtype=np.int64)
    return FrameTimes(times_N, np.array([time for time, is_key in timed if is_key], dtype=np.int64), unit_s)
