"""Frames of the windows of a video: each file is decoded once, in order, and only as far as frames are wanted.

Windows overlap, and so do the frames that they show: a frame that several of them show is decoded and resized once.

Where each frame carries its time, parts of a file are read side by side: a part begins at the key frame before it, and what
lies between key frames that no wanted frame needs is jumped over. Other files, and those whose key frames are far apart or not
what they are called (a recovery point, after which pictures are not yet whole), are read part by part, each going on where the
one before has stopped.

Shapes: W windows, T frames, S side of a view in pixels, N frames of a file.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.serving.embedding.windows import Window
from umt_pipeline.serving.files import frame_times
from umt_pipeline.video.container import Header, cause, open_video, read_header
from umt_pipeline.video.decoders import Display
from umt_pipeline.video.media import Reason, VideoInfo
from umt_pipeline.video.transcode import displayed_frames
from umt_pipeline.video.views import View, ViewConfig, apply_view, eval_view, load_view

# A way to the first wanted frame of a part that is not worth going again and again.
_FAR_S = 30.0
_LOOKED_AT = 16

_Pictures = Generator[tuple[int, NDArray[np.uint8]], None, None]
"""Frames with their numbers."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    Args:
        seconds_N: from the first one.
        times_N: the same by the container's clock; None where it does not time each frame.
        keys: times of the frames that need no other, by the container's clock.
    """

    seconds_N: NDArray[np.float64]
    times_N: NDArray[np.int64] | None
    keys: NDArray[np.int64]

    @property
    def longest_way_s(self) -> float:
        """Seconds from a key frame to the last frame that needs it, at most."""
        if self.times_N is None or not len(self.keys):
            return float(self.seconds_N[-1])
        places = np.clip(np.searchsorted(self.times_N, self.keys), 0, len(self.seconds_N) - 1)
        return float(np.diff(self.seconds_N[[*places, -1]]).max())

    def frames_of(self, window: Window, view: ViewConfig) -> list[int]:
        """Return the numbers of the T frames that are looked at in a window: evenly spaced over it, as over a whole video.

        A window in which no frame begins shows the one that is seen then.
        """
        first, stop = np.searchsorted(self.seconds_N, window).tolist()
        first = min(first, max(stop - 1, 0))
        # Which frames are taken does not depend on what they show.
        return [first + index for index in eval_view(view, max(stop - first, 1), 1, 1).frame_indices]


def read_windows(path: Path, info: VideoInfo, view: ViewConfig, windows: Sequence[Window]) -> NDArray[np.uint8]:
    """Return the frames of some windows, uint8 [W, T, S, S, 3].

    Args:
        path: the file.
        info: about it, by :func:`~umt_pipeline.video.reader.probe`.
        view: number and size of the frames.
        windows: in order.

    Raises:
        VideoError: the file cannot be read.
    """
    return WindowReader(path, info, view, tuple(windows), len(windows)).read(0)


class WindowReader:
    """A file whose windows are read in parts, by several threads.

    Args:
        path: the file.
        info: about it.
        view: number and size of the frames.
        windows: in order.
        at_once: windows of a part, at most.
    """

    def __init__(self, path: Path, info: VideoInfo, view: ViewConfig, windows: tuple[Window, ...], at_once: int) -> None:
        self.path, self.info, self.view, self.windows = path, info, view, windows
        self.parts = [range(start, min(start + at_once, len(windows))) for start in range(0, len(windows), at_once)]
        self._lock = Lock()
        self._reel: _Reel | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its one window is all of it: then it is read as everywhere else, and by the fastest decoder."""
        return len(self.windows) == 1 and (self.windows[0].start_s, self.windows[0].end_s) == (0.0, self.info.duration_s)

    def read(self, part: int) -> NDArray[np.uint8]:
        """Return the frames of the windows of a part, uint8 [W, T, S, S, 3].

        Where a file can only be read from its begin, this waits for the parts before, which others must have begun to read.

        Raises:
            VideoError: the file cannot be read.
        """
        if self.info.media == "image" or self.is_whole:
            whole = eval_view(self.view, self.info.num_frames, self.info.height, self.info.width)
            frames_TSSC = load_view(self.path, whole)
            return np.stack([frames_TSSC] * len(self.parts[part]))
        shown_WT = [self._frames[window] for window in self.parts[part]]
        wanted = sorted({number for shown_T in shown_WT for number in shown_T})
        with self._lock:
            if not self._can_be_entered and self._reel is None:
                every = {number for shown_T in self._frames for number in shown_T}
                self._reel = _Reel(self._small(_in_order(self.path, read_header(self.path), every)))
        if self._reel is None:
            small = dict(self._small(_by_keys(self.path, self._timeline, wanted)))
        else:
            later = self.parts[part + 1 :]
            small = self._reel.read(part, wanted, keep_from=min(self._frames[later[0][0]]) if later else None)
        return np.stack([np.stack([small[number] for number in shown_T]) for shown_T in shown_WT])

    def close(self) -> None:
        """Let go of the file and of what is known of its frames, after the last part has been read."""
        if self._reel is not None:
            self._reel.close()
        for name in ("_timeline", "_frames"):
            vars(self).pop(name, None)

    @cached_property
    def _can_be_entered(self) -> bool:
        header, timeline = read_header(self.path), self._timeline
        if timeline.times_N is None or not header.by_decord:
            return False
        # Each part would be decoded from far away.
        if len(self.parts) > 1 and timeline.longest_way_s > _FAR_S:
            return False
        chosen = {0, len(timeline.keys) // 2, len(timeline.keys) - 1}
        return all(_is_entry(self.path, int(timeline.keys[number])) for number in chosen)

    @cached_property
    def _timeline(self) -> Timeline:
        found = frame_times(self.path)
        if found is None:
            return Timeline(np.arange(self.info.num_frames) / read_header(self.path).fps, None, np.empty(0, dtype=np.int64))
        return Timeline(found.seconds(), found.times_N, found.keys)

    @cached_property
    def _frames(self) -> list[list[int]]:
        return [self._timeline.frames_of(window, self.view) for window in self.windows]

    def _small(self, pictures: _Pictures) -> _Pictures:
        crop = eval_view(self.view, self.info.num_frames, self.info.height, self.info.width).crop
        with closing(pictures):
            for number, picture_HWC in pictures:
                try:
                    small_SSC = apply_view(picture_HWC[None], View((number,), crop, False, self.view.size))[0]
                except ValueError as error:
                    raise VideoError(Reason.WRONG_SHAPE, f"{self.path}: {error}") from error
                yield number, small_SSC


class _Reel:
    """The frames of a file in order, shared by those who read its parts, each in its turn."""

    def __init__(self, frames: _Pictures) -> None:
        self._frames = frames
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._turn, self._changed = 0, Condition()
        self._error: VideoError | None = None

    def read(self, turn: int, wanted: Sequence[int], keep_from: int | None) -> dict[int, NDArray[np.uint8]]:
        """Return the frames with the numbers wanted; then it is the next one's turn.

        Args:
            turn: from 0.
            wanted: numbers in order.
            keep_from: the first number that is wanted later; None: none is.

        Raises:
            VideoError: the file cannot be read, now or in a turn before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._turn == turn)
            try:
                if self._error is not None:
                    raise self._error
                return self._read(wanted, keep_from)
            except VideoError as error:
                self._error = error
                raise
            finally:
                self._turn += 1
                self._changed.notify_all()

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
        self._kept = {}

    def _read(self, wanted: Sequence[int], keep_from: int | None) -> dict[int, NDArray[np.uint8]]:
        missing = [number for number in wanted if number not in self._kept]
        last = missing[-1] if missing else -1
        number = -1
        while number < last:
            try:
                number, frame_SSC = next(self._frames)
            except StopIteration:
                raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"frame {last} was asked for, found {number + 1} frames") from None
            self._kept[number] = frame_SSC
        found = {number: self._kept[number] for number in wanted}
        self._kept = {number: frame for number, frame in self._kept.items() if keep_from is not None and number >= keep_from}
        return found


def _by_keys(path: Path, timeline: Timeline, wanted: Sequence[int]) -> _Pictures:
    """Yield frames with their numbers, jumping to key frames; from the begin where the file's index leads astray.

    Raises:
        VideoError: a frame does not exist or does not decode.
    """
    assert timeline.times_N is not None, "each frame carries its time"
    header = read_header(path)
    if wanted[-1] >= len(timeline.times_N):
        found = f"{len(timeline.times_N)} frames"
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"{path}: frame {wanted[-1]} was asked for, found {found}")
    done = 0
    display = Display(header)
    for number, frame in zip(wanted, _jumping(path, timeline, timeline.times_N[list(wanted)]), strict=False):
        display.check(frame, number)
        yield number, display.picture(frame)
        done += 1
    if rest := wanted[done:]:
        number = -1
        with closing(_in_order(path, header, frozenset(rest))) as frames:
            for number, picture_HWC in frames:
                yield number, picture_HWC
                if number == rest[-1]:
                    return
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"{path}: frame {rest[-1]} was asked for, and is not found")


def _jumping(path: Path, timeline: Timeline, times: NDArray[np.int64]) -> Iterator[Any]:
    """Yield the frames of the times wanted, in order; fewer where one is not where the index says."""
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1  # the cores are shared out by files and parts
        frames: Iterator[Any] = iter(())
        at: int | None = None
        for time in times.tolist():
            before = int(np.searchsorted(timeline.keys, time, side="right")) - 1
            key = int(timeline.keys[before]) if before >= 0 else time
            if at is None or key > at:
                frames = _from(container, stream, key)
            frame: Any = next((frame for frame in frames if frame is None or frame.pts >= time), None)
            if frame is None or frame.pts != time:
                return
            at = time
            yield frame


def _from(container: Any, stream: Any, key: int) -> Iterator[Any | None]:
    """Yield the frames from a key frame on; None where one is not what it should be: damaged, or out of order."""
    before: int | None = None
    try:
        container.seek(key, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is None or frame.is_corrupt or (before is not None and frame.pts <= before):
                yield None
                return
            before = frame.pts
            yield frame
    except av.FFmpegError:
        yield None  # decoding in order finds it, or names what is wrong


def _is_entry(path: Path, key: int) -> bool:
    """Whether decoding can begin at a key frame: it comes first, and what follows is whole and in order."""
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1
        some: list[Any] = list(islice(_from(container, stream, key), _LOOKED_AT))
    return None not in some and bool(some) and some[0].pts == key


def _in_order(path: Path, header: Header, only: Collection[int]) -> _Pictures:
    display = Display(header)
    try:
        for number, frame in enumerate(displayed_frames(path, header)):
            if number in only:
                yield number, display.picture(frame)
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {error.detail}") from error
    except av.FFmpegError as error:
        raise VideoError(Reason.CORRUPT_FRAME, f"{path}: the file cannot be read to its end ({cause(error)})") from error
