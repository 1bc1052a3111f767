"""The two decoders: decord, which is fast, and PyAV, which fails at the same frame every time. Both give displayed frames.

decord's thread is ahead of the frame that is asked for, so that damage shortly behind it is met or not as time has it.

T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.container import Header, cause, open_video, packets, timed_frame
from umt_pipeline.video.load_decord import DECORDLimitReachedError, decord
from umt_pipeline.video.media import Reason

decord.logging.set_level(decord.logging.QUIET)

# Above 0, decord raises when it hands out a copy of a neighbour in place of a frame that it could not decode. It is a
# share of the frames, so anything below 1 / (frames of the longest video) means "not a single one".
NO_SUBSTITUTES = 1e-9

DECORD_ERRORS = (RuntimeError, AssertionError, IndexError, decord.DECORDError, DECORDLimitReachedError)


def open_decord(path: Path, header: Header) -> Any:
    """Return decord's reader of a file, which turns frames and stretches them where the header says so.

    Use it in the call that makes it: a reader hangs in a process forked after it was made.
    """
    size = {} if header.stretched is None else {"width": header.width, "height": header.height}
    # One thread: parallel reading comes from data-loading processes, which would otherwise fight for the cores.
    return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=NO_SUBSTITUTES, **size)


class Display:
    """Turns PyAV's decoded frames into pictures as they are displayed.

    By FFmpeg's filters, as decord does, and not by PyAV's conversion: of 10-bit and interlaced frames, and where it
    stretches, that makes other pixels.

    Args:
        header: of the file that the frames are from.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._kind: tuple[Any, ...] = ()
        self._filters: Any = None

    def check(self, frame: Any, number: int) -> None:
        """Refuse a frame of another size than the header's.

        Raises:
            VideoError: it has one.
        """
        if (frame.width, frame.height) != (self._header.coded_width, self._header.coded_height):
            expected = f"{self._header.coded_width} x {self._header.coded_height}"
            found = f"{frame.width} x {frame.height}"
            raise VideoError(Reason.WRONG_SHAPE, f"frame {number}: expected {expected} pixels, found {found}")

    def picture(self, frame: Any) -> NDArray[np.uint8]:
        """Return a frame as displayed, uint8 RGB [H,W,3]."""
        kind = (frame.format.name, frame.width, frame.height, frame.time_base)
        if kind != self._kind:
            self._kind, self._filters = kind, self._graph(frame)
        self._filters.vpush(frame)
        stretched_HWC = np.asarray(self._filters.vpull().to_ndarray(), dtype=np.uint8)
        return self._header.orientation.turn(stretched_HWC[None])[0]

    def _graph(self, frame: Any) -> Any:
        size = self._header.stretched
        graph = av.filter.Graph()
        time_base = frame.time_base or Fraction(1, 25)  # filters want one; pictures do not depend on it
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        scale = graph.add("scale", "" if size is None else f"{size[0]}:{size[1]}")
        graph.link_nodes(source, scale, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        return graph


def read_in_order(path: Path, header: Header, wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Decode from the first frame on and keep the ones with the numbers wanted, uint8 RGB [T,H,W,3].

    Raises:
        VideoError: a frame does not exist, does not decode, or has another size than the header says.
    """
    needed, last = set(wanted), max(wanted)
    found: dict[int, NDArray[np.uint8]] = {}
    display = Display(header)
    number = -1
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number in needed:
                    display.check(frame, number)
                    found[number] = display.picture(frame)
                if number == last:
                    break
        except av.FFmpegError as error:
            detail = f"frame {number + 1} or one shortly after it does not decode ({cause(error)})"
            raise VideoError(Reason.CORRUPT_FRAME, detail) from error
    if number < last:
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"frame {last} was asked for, found {number + 1} frames")
    return np.stack([found[number] for number in wanted])


def read_by_seeking(path: Path, header: Header, wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Jump to each of the frames wanted and decode it alone, uint8 RGB [T,H,W,3], where every frame has its time.

    Raises:
        VideoError: a frame does not exist, does not decode, or has another size than the header says.
    """
    display = Display(header)
    found: dict[int, NDArray[np.uint8]] = {}
    with open_video(path) as (container, stream):
        times = sorted(time for packet in packets(container, stream) for time, _ in timed_frame(packet))
        stream.codec_context.thread_count = 1
        for number in sorted(set(wanted)):
            if number >= len(times):
                raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"frame {number} was asked for, found {len(times)} frames")
            # A key frame may lie behind the frames before it that need it: they are then reached from the start.
            frame = _frame_at(container, stream, times[number], times[number])
            frame = frame or _frame_at(container, stream, times[number], times[0])
            if frame is None:
                raise VideoError(Reason.CORRUPT_FRAME, f"frame {number} does not decode")
            display.check(frame, number)
            found[number] = display.picture(frame)
    return np.stack([found[number] for number in wanted])


def _frame_at(container: Any, stream: Any, time: int, start: int) -> Any:
    """Return the frame of a time, decoding from the last key frame up to ``start``; None if it is not reached."""
    try:
        container.seek(start, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= time:
                return frame if frame.pts == time else None
    except av.FFmpegError:
        return None
    return None
