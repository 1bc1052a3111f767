"""How many frames of a video are displayed: by decoding all of them, by decoding a few, or as its index says.

All frames are decoded by the decoder that will read the file later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.container import Header, cause, lead_in, open_video, packets, timed_frame
from umt_pipeline.video.decoders import DECORD_ERRORS, Display, open_decord, read_by_seeking, read_in_order
from umt_pipeline.video.media import Depth, Reason
from umt_pipeline.video.perceptual import hashed_frames, perceptual_hash

# Frames are checked in chunks of about this many bytes, so that memory does not grow with the length of a video.
CHUNK_BYTES = 32 * 2**20

Reader = Callable[[Sequence[int]], NDArray[np.uint8]]
"""Reads the frames with the given numbers, [T,H,W,3]."""


@dataclass
class _Count:
    """Frames counted so far, and those of a video of ``guess`` frames that are hashed."""

    guess: int
    frames: int = 0
    kept: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def wants(self, number: int) -> bool:
        return number in hashed_frames(self.guess)

    def keep(self, number: int, frame_HWC: NDArray[np.uint8]) -> None:
        self.kept[number] = frame_HWC.copy()  # a part of a chunk would keep the chunk


def count_frames(path: Path, header: Header, depth: Depth, read: Reader) -> tuple[int, str]:
    """Return the number of displayed frames and the hash of what they look like; "" where none was decoded.

    Args:
        path: the file.
        header: of the file.
        depth: as of :class:`~umt_pipeline.video.media.VideoRules`.
        read: reads frames of the file.

    Raises:
        VideoError: a frame that was looked at does not decode, or nothing states how many there are.
    """
    if depth == "full":
        return _count_all(path, header, read)
    stated = header.listed_frames or _count_packets(path, header)
    if depth == "header":
        return stated, ""
    numbers = sorted({0, *hashed_frames(stated), stated - 1})
    sample = read_by_seeking if header.by_decord else read_in_order
    try:
        frames = dict(zip(numbers, sample(path, header, numbers), strict=True))
    except VideoError:
        return _count_all(path, header, read)  # tells the first bad frame, or how many there are if the index lists too many
    return stated, perceptual_hash([frames[number] for number in hashed_frames(stated)])


def _count_packets(path: Path, header: Header) -> int:
    """Count coded frames without decoding them, where each of them is a frame that is displayed."""
    if not header.times_frames:
        detail = "neither header nor index states how many frames there are; only `depth: full` can tell of this container"
        raise VideoError(Reason.UNKNOWN_LENGTH, detail)
    with open_video(path) as (container, stream):
        times = [time for packet in packets(container, stream) for time, _ in timed_frame(packet)]
    first = min(times, default=0) + header.lead_in
    return sum(time >= first for time in times)


def _count_all(path: Path, header: Header, read: Reader) -> tuple[int, str]:
    count = _decode_all(path, header)
    wanted = hashed_frames(count.frames)
    missing = [number for number in wanted if number not in count.kept]  # more or fewer frames than the index lists
    kept = count.kept | dict(zip(missing, read(missing) if missing else (), strict=True))
    return count.frames, perceptual_hash([kept[number] for number in wanted])


def _decode_all(path: Path, header: Header) -> _Count:
    if not header.by_decord:
        return _count_in_order(path, header)
    try:
        return _count_with_decord(path, header, limit=header.listed_frames or None)
    except DECORD_ERRORS:
        decodable = _count_in_order(path, header)  # raises if PyAV finds a bad frame too
    # Containers may list a last frame that is not there. All frames before it are good if decord now agrees.
    try:
        return _count_with_decord(path, header, limit=decodable.frames)
    except DECORD_ERRORS as error:
        # decord pads rows to 128 bytes and takes a frame of 96 pixels a row (288 bytes, 384 padded) for one of four
        # channels. Such a file is sound if every listed frame decodes, and is read in order.
        if decodable.frames >= header.listed_frames > 0:
            return decodable
        detail = f"frames are lost in the middle: of {header.listed_frames} listed only {decodable.frames} can be decoded"
        raise VideoError(Reason.CORRUPT_FRAME, detail) from error


def _count_with_decord(path: Path, header: Header, limit: int | None) -> _Count:
    reader = open_decord(path, header)
    length = len(reader) if limit is None else min(limit, len(reader))
    count = _Count(guess=length, frames=length)
    expected = (header.height, header.width, 3)
    step = max(1, CHUNK_BYTES // (header.height * header.width * 3))
    for start in range(0, length, step):
        stop = min(length, start + step)
        frames = reader.get_batch(range(start, stop)).asnumpy()
        if frames.shape != (stop - start, *expected):
            raise VideoError(Reason.WRONG_SHAPE, f"frame {start}: expected {expected}, found {frames.shape[1:]}")
        for number in filter(count.wants, range(start, stop)):
            count.keep(number, frames[number - start])
    return count


def _count_in_order(path: Path, header: Header) -> _Count:
    """Decode every packet with PyAV.

    Decoding goes on after an error: frames leave the decoder later than their packets enter it and in another order, so
    only the times of presentation that are missing at the end tell which frame is the first bad one.
    """
    timed: list[tuple[int, bool]] = []
    shown: set[int] = set()
    count = _Count(guess=header.listed_frames or round(header.duration_s * header.fps))
    failure = ""
    count_at_failure = 0
    display = Display(header)
    with open_video(path) as (container, stream):
        for packet in packets(container, stream):
            timed += timed_frame(packet)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                failure, count_at_failure = failure or cause(error), count_at_failure or count.frames
                continue
            for frame in frames:
                display.check(frame, count.frames)
                if frame.is_corrupt:
                    failure, count_at_failure = failure or "damaged picture", count_at_failure or count.frames
                elif frame.pts is not None:
                    shown.add(frame.pts)
                if count.wants(count.frames):
                    count.keep(count.frames, display.picture(frame))
                count.frames += 1
        in_index = sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries)
    early = lead_in(timed, min(shown, default=None))
    listed = sorted(time for time, _ in timed)[len(early) :]
    # One picture may be missing at the end: the last packet of DivX files belongs to the frame before it.
    missing = in_index - len(early) - count.frames
    if not failure and missing > 1:
        raise VideoError(Reason.CORRUPT_FRAME, f"{missing} of {in_index} coded frames give no picture")
    if not failure and count.frames:
        return count
    first_bad = count_at_failure
    if listed and shown:  # without times in the file, the number of frames before the failure is the best answer
        first_bad = next((number for number, time in enumerate(listed) if time not in shown), count_at_failure)
    of_all = f" of {header.listed_frames}" if header.listed_frames else ""
    raise VideoError(Reason.CORRUPT_FRAME, f"frame {first_bad}{of_all} does not decode ({failure or 'no data'})")
