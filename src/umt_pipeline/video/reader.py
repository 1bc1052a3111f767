"""Open video files: check one completely (:func:`probe`), read some of its frames (:func:`read_frames`).

T frames, H W pixels. Frames are uint8 RGB ``[T, H, W, 3]``; frame numbers count from 0 in the order of presentation.

Two decoders share the work. decord is the fast one, and exact where every frame carries its own time of presentation
(MP4, MOV, Matroska, WebM). In other containers (AVI, MPEG streams, WMV) it seeks to another frame, up to a second away,
without a word; those are decoded in order with PyAV. PyAV also reads all headers, and names the first bad frame
when decord fails, which decord cannot: its decoding thread is ahead of the frame that is asked for.

A decord reader hangs in a process forked after it was made, so readers live inside one call and are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.video.load_decord import DECORDLimitReachedError, decord
from umt_pipeline.video.media import Reason, VideoInfo, VideoRules, check_file

# FFmpeg's own lines on stderr name neither file nor frame; what matters is in the errors that are raised.
decord.logging.set_level(decord.logging.QUIET)
av.logging.set_level(None)

# Above 0, decord raises when it hands out a copy of a neighbour in place of a frame that it could not decode. It is a
# share of the frames, so anything below 1 / (frames of the longest video) means "not a single one".
NO_SUBSTITUTES = 1e-9

# Frames are checked in chunks of about this many bytes, so that memory does not grow with the length of a video.
CHUNK_BYTES = 32 * 2**20

DECORD_ERRORS = (RuntimeError, AssertionError, IndexError, decord.DECORDError, DECORDLimitReachedError)


@dataclass(frozen=True)
class _Header:
    container: str
    codec: str
    width: int
    height: int
    fps: float
    duration_s: float
    stated_frames: int


def probe(path: Path | str, rules: VideoRules) -> VideoInfo:
    """Decode a whole video and describe it.

    Args:
        path: the file.
        rules: what is asked of it.

    Returns:
        Its description; ``num_frames`` is counted, not copied from the header.

    Raises:
        VideoError: the file cannot be used. ``reason`` is one of :class:`~umt_pipeline.video.media.Reason`.
    """
    path = Path(path)
    size_bytes = check_file(path)
    header = _read_header(path, size_bytes)
    rules.require_side(header.width, header.height)
    num_frames = _count_frames(path, header)
    if num_frames < rules.min_frames:
        raise VideoError(Reason.TOO_SHORT, f"expected at least {rules.min_frames} frames, found {num_frames}")
    return VideoInfo(
        media="video",
        container=header.container,
        codec=header.codec,
        width=header.width,
        height=header.height,
        fps=header.fps,
        num_frames=num_frames,
        duration_s=max(header.duration_s, num_frames / header.fps),
        size_bytes=size_bytes,
        sha256=sha256_file(path),
    )


def read_frames(path: Path | str, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Read the frames with the given numbers.

    Args:
        path: the file.
        indices: T frame numbers from 0, in any order, repeats allowed.

    Returns:
        uint8 RGB ``[T, H, W, 3]``.

    Raises:
        VideoError: the file does not open, or one of the frames does not exist or does not decode.
    """
    path = Path(path)
    try:
        return _read(path, [int(index) for index in indices])
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {error.detail}") from error


def _times_every_frame(path: Path) -> bool:
    """Tell from the first bytes whether the container gives each frame its time, so that decord seeks exactly."""
    with path.open("rb") as handle:
        start = handle.read(12)
    is_iso = start[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}
    is_matroska = start[:4] == b"\x1a\x45\xdf\xa3"
    return is_iso or is_matroska


def _open_decord(path: Path) -> Any:
    # One thread: parallel reading comes from data-loading processes, which would otherwise fight for the cores.
    return decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1, fault_tol=NO_SUBSTITUTES)


@contextmanager
def _open_av(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield PyAV's (container, stream) of the file's first real video stream."""
    try:
        # Tags in old files are in any encoding; they are of no use here and must not make a file unreadable.
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(Reason.NOT_A_VIDEO, f"no container format that FFmpeg knows ({_cause(error)})") from error
    with container:
        name = container.format.name
        # Image readers, and the one that draws text files, would make a one-frame "video" of anything.
        if name.endswith("_pipe") or name in {"image2", "tty"}:
            raise VideoError(Reason.NOT_A_VIDEO, f"expected a video container, found a still image or text ({name})")
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            kinds = sorted({str(stream.type) for stream in container.streams}) or ["none"]
            raise VideoError(Reason.NO_VIDEO_STREAM, f"expected a video stream, found streams: {', '.join(kinds)}")
        # Absent where this FFmpeg has no decoder for the codec; PyAV's type stubs do not say so.
        if getattr(streams[0], "codec_context", None) is None:
            raise VideoError(Reason.UNKNOWN_CODEC, "this FFmpeg has no decoder for the video stream")
        yield container, streams[0]


def _read_header(path: Path, size_bytes: int) -> _Header:
    with _open_av(path) as (container, stream):
        _check_index(stream, size_bytes)
        codec = stream.codec_context
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if stream.duration and stream.time_base:
            duration_s = float(stream.duration * stream.time_base)
        else:
            duration_s = (container.duration or 0) / av.time_base
        return _Header(
            container=container.format.name,
            codec=codec.codec.canonical_name,
            width=codec.width,
            height=codec.height,
            fps=fps if fps > 0 else 25.0,  # FFmpeg's own default for files that state none
            duration_s=duration_s,
            stated_frames=stream.frames,
        )


def _check_index(stream: Any, size_bytes: int) -> None:
    """Refuse a file that is shorter than its own index says: the mark of an unfinished download or copy."""
    for number, entry in enumerate(stream.index_entries):
        if entry.pos + entry.size > size_bytes:
            detail = (
                f"coded frame {number} of {len(stream.index_entries)} should end at byte {entry.pos + entry.size}, "
                f"the file has {size_bytes} bytes"
            )
            raise VideoError(Reason.TRUNCATED, detail)


def _count_frames(path: Path, header: _Header) -> int:
    """Decode everything with the decoder that will read the file later, and count."""
    if not _times_every_frame(path):
        return _count_in_order(path, header)
    try:
        return _count_with_decord(path, header, limit=None)
    except DECORD_ERRORS:
        decodable = _count_in_order(path, header)  # raises if PyAV finds a bad frame too
    # Containers may list a last frame that is not there. All frames before it are good if decord now agrees.
    try:
        return _count_with_decord(path, header, limit=decodable)
    except DECORD_ERRORS as error:
        # decord pads rows to 128 bytes and takes a frame of 96 pixels a row (288 bytes, 384 padded) for one of four
        # channels. Such a file is sound if every listed frame decodes, and is read in order.
        if decodable >= header.stated_frames > 0:
            return decodable
        detail = f"frames are lost in the middle: of {header.stated_frames} listed only {decodable} can be decoded"
        raise VideoError(Reason.CORRUPT_FRAME, detail) from error


def _count_with_decord(path: Path, header: _Header, limit: int | None) -> int:
    reader = _open_decord(path)
    count = len(reader) if limit is None else min(limit, len(reader))
    expected = (header.height, header.width, 3)
    step = max(1, CHUNK_BYTES // (header.height * header.width * 3))
    for start in range(0, count, step):
        stop = min(count, start + step)
        frames = reader.get_batch(range(start, stop)).asnumpy()
        if frames.shape != (stop - start, *expected):
            raise VideoError(Reason.WRONG_SHAPE, f"frame {start}: expected {expected}, found {frames.shape[1:]}")
    return count


def _count_in_order(path: Path, header: _Header) -> int:
    """Decode every packet with PyAV.

    Decoding goes on after an error: frames leave the decoder later than their packets enter it and in another order, so
    only the times of presentation that are missing at the end tell which frame is the first bad one.
    """
    listed: list[int] = []
    shown: set[int] = set()
    count = 0
    failure = ""
    count_at_failure = 0
    with _open_av(path) as (container, stream):
        in_index = sum(entry.size > 0 for entry in stream.index_entries)  # AVI marks pauses by entries of no bytes
        for packet in _packets(container, stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                listed.append(packet.pts)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                failure, count_at_failure = failure or _cause(error), count_at_failure or count
                continue
            for frame in frames:
                if (frame.width, frame.height) != (header.width, header.height):
                    expected, found = f"{header.width} x {header.height}", f"{frame.width} x {frame.height}"
                    raise VideoError(Reason.WRONG_SHAPE, f"frame {count}: expected {expected} pixels, found {found}")
                if frame.is_corrupt:
                    failure, count_at_failure = failure or "damaged picture", count_at_failure or count
                elif frame.pts is not None:
                    shown.add(frame.pts)
                count += 1
    # One picture may be missing at the end: the last packet of DivX files belongs to the frame before it.
    if not failure and count < in_index - 1:
        raise VideoError(Reason.CORRUPT_FRAME, f"{in_index - count} of {in_index} coded frames give no picture")
    if not failure and count:
        return count
    first_bad = count_at_failure
    if listed and shown:  # without times in the file, the number of frames before the failure is the best answer
        first_bad = next((n for n, pts in enumerate(sorted(listed)) if pts not in shown), count_at_failure)
    of_all = f" of {header.stated_frames}" if header.stated_frames else ""
    raise VideoError(Reason.CORRUPT_FRAME, f"frame {first_bad}{of_all} does not decode ({failure or 'no data'})")


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise VideoError(Reason.CORRUPT_FRAME, f"the container cannot be read to its end ({_cause(error)})") from error


def _read(path: Path, wanted: list[int]) -> NDArray[np.uint8]:
    if not wanted or min(wanted) < 0:
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"expected frame numbers from 0, found {wanted}")
    check_file(path)
    if _times_every_frame(path):
        try:
            frames = _open_decord(path).get_batch(wanted).asnumpy()
            if frames.ndim == 4 and frames.shape[-1] == 3:
                return np.asarray(frames, dtype=np.uint8)
        except DECORD_ERRORS:
            pass  # decoding in order finds the frame if it exists, and names what is wrong if not
    return _read_in_order(path, wanted)


def _read_in_order(path: Path, wanted: list[int]) -> NDArray[np.uint8]:
    needed = set(wanted)
    last = max(wanted)
    found: dict[int, NDArray[np.uint8]] = {}
    number = -1
    with _open_av(path) as (container, stream):
        stream.codec_context.thread_count = 1
        try:
            for number, frame in enumerate(container.decode(stream)):
                if number in needed:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number == last:
                    break
        except av.FFmpegError as error:
            detail = f"frame {number + 1} or one shortly after it does not decode ({_cause(error)})"
            raise VideoError(Reason.CORRUPT_FRAME, detail) from error
    if number < last:
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"frame {last} was asked for, found {number + 1} frames")
    if len({frame.shape for frame in found.values()}) != 1:
        raise VideoError(Reason.WRONG_SHAPE, "the frames change their size inside the file")
    return np.stack([found[number] for number in wanted])


def _cause(error: Exception) -> str:
    """Return FFmpeg's words without the file name, which stands elsewhere."""
    return str(getattr(error, "strerror", None) or error)
