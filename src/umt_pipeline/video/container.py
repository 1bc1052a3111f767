"""What a video file says about itself, and which of its streams is the film: one answer for whoever probes or reads it.

Headers are read with PyAV. A process keeps them, so that reading many views of a file costs one header.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import Reason
from umt_pipeline.video.orientation import Orientation, stretched_width

# FFmpeg's own lines on stderr name neither file nor frame; what matters is in the errors that are raised.
av.logging.set_level(None)

# Headers that a process keeps: some hundred bytes each.
_KEPT_HEADERS = 4096

_NEED_OTHERS = (av.video.frame.PictureType.P, av.video.frame.PictureType.B, av.video.frame.PictureType.S)


@dataclass(frozen=True)
class Header:
    """What a file says about its film, and how its coded pictures are displayed.

    Attributes:
        container: FFmpeg's short name of the container format.
        codec: FFmpeg's name of the coding.
        coded_width: pixels per row of the coded picture.
        coded_height: rows of the coded picture.
        width: pixels per row as displayed.
        height: rows as displayed.
        orientation: how a coded picture is turned to be displayed, after it was stretched.
        sample_aspect: width of a coded pixel per height.
        stream: number of the film among all streams of the file.
        fps: average frames per second; 25, FFmpeg's default, where the file states none.
        duration_s: seconds, without the lead-in; 0 where the file states none.
        listed_frames: displayed frames that the file's index lists; 0 where it has no index of all frames.
        hidden_frames: coded frames that an edit list hides, which others may need to be decoded.
        lead_in: time from the earliest coded frame to the first that is displayed, in the stream's units: where a stream was
            cut out of another between key frames, the first ones need frames that are not there, and are not displayed.
        times_frames: every frame carries its own time, as in MP4, MOV, Matroska and WebM.
        by_decord: decord finds each frame exactly and shows it as a player does.
    """

    container: str
    codec: str
    coded_width: int
    coded_height: int
    width: int
    height: int
    orientation: Orientation
    sample_aspect: Fraction
    stream: int
    fps: float
    duration_s: float
    listed_frames: int
    hidden_frames: int
    lead_in: int
    times_frames: bool
    by_decord: bool

    @property
    def stretched(self) -> tuple[int, int] | None:
        """(width, height) that a coded picture is stretched to before it is turned; None where its pixels are square."""
        width = stretched_width(self.coded_width, self.sample_aspect)
        return None if width == self.coded_width else (width, self.coded_height)


def read_header(path: Path) -> Header:
    """Return the header of a file that is there, read anew only where its size or time of change is another.

    Raises:
        VideoError: the file is no video, has no film that can be decoded, or is shorter than its index says.
    """
    state = path.stat()
    return _read_header(str(path), state.st_size, state.st_mtime_ns)


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield PyAV's (container, stream) of a file's film: FFmpeg's choice among its video streams, never a cover picture.

    Raises:
        VideoError: the file is no video, or has no film that can be decoded.
    """
    try:
        # Tags in old files are in any encoding; they are of no use here and must not make a file unreadable.
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(Reason.NOT_A_VIDEO, f"no container format that FFmpeg knows ({cause(error)})") from error
    with container:
        name = container.format.name
        # Image readers, and the one that draws text files, would make a one-frame "video" of anything.
        if name.endswith("_pipe") or name in {"image2", "tty"}:
            raise VideoError(Reason.NOT_A_VIDEO, f"expected a video container, found a still image or text ({name})")
        stream = _film(container)
        # Absent where this FFmpeg has no decoder for the codec; PyAV's type stubs do not say so.
        if getattr(stream, "codec_context", None) is None:
            raise VideoError(Reason.UNKNOWN_CODEC, "this FFmpeg has no decoder for the video stream")
        yield container, stream


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield a stream's packets and, last, an empty one.

    Raises:
        VideoError: the container breaks off.
    """
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        raise VideoError(Reason.CORRUPT_FRAME, f"the container cannot be read to its end ({cause(error)})") from error


def timed_frame(packet: Any) -> list[tuple[int, bool]]:
    """Return the time of the frame in a packet and whether it needs no other frame; nothing without time or if hidden."""
    is_displayed = packet.size and packet.pts is not None and not packet.is_discard
    return [(packet.pts, packet.is_keyframe)] if is_displayed else []


def lead_in(timed: list[tuple[int, bool]], first: int | None) -> list[int]:
    """Return the times, sorted, of frames that need what was cut off before them.

    They are those before the first frame that was displayed, unless the earliest of them is a key frame: that one needs no
    other, and is missing because it is damaged.

    Args:
        timed: from :func:`timed_frame`, of the packets so far.
        first: time of the first frame displayed; None without times.
    """
    early = sorted((time, is_key) for time, is_key in timed if first is not None and time < first)
    return [] if not early or early[0][1] else [time for time, _ in early]


def cause(error: Exception) -> str:
    """Return FFmpeg's words without the file name, which stands elsewhere."""
    return str(getattr(error, "strerror", None) or error)


def _film(container: Any) -> Any:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["none"]
        raise VideoError(Reason.NO_VIDEO_STREAM, f"expected a video stream, found streams: {', '.join(kinds)}")
    best = container.streams.best("video")
    return next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])


class _Entry(NamedTuple):
    """A coded frame in a container's index: its first byte, its bytes, whether it is hidden."""

    pos: int
    size: int
    is_discard: bool


@lru_cache(maxsize=_KEPT_HEADERS)
def _read_header(path: str, size_bytes: int, mtime_ns: int) -> Header:
    del mtime_ns  # a part of the key
    with open_video(Path(path)) as (container, stream):
        # Taken over as values: FFmpeg moves its index when it grows, as it does in decoding.
        entries = [_Entry(entry.pos, entry.size, entry.is_discard) for entry in stream.index_entries]
        _check_index(entries, size_bytes)
        codec = stream.codec_context
        width, height, fps = codec.width, codec.height, float(stream.average_rate or stream.guessed_rate or 0)
        first, lead_in = _first_frame(container, stream)
        matrix = first.side_data.get("DISPLAYMATRIX")
        orientation = Orientation() if matrix is None else Orientation.from_display_matrix(bytes(matrix))
        sample_aspect = Fraction(stream.sample_aspect_ratio or 1)
        displayed = orientation.displayed_size(width, height, sample_aspect)
        displayed_frames = sum(entry.size > 0 and not entry.is_discard for entry in entries)
        hidden = sum(entry.is_discard for entry in entries)
        times_frames = _times_every_frame(Path(path))
        return Header(
            container=container.format.name,
            codec=codec.codec.canonical_name,
            coded_width=width,
            coded_height=height,
            width=displayed[0],
            height=displayed[1],
            orientation=orientation,
            sample_aspect=sample_aspect,
            stream=stream.index,
            fps=fps if fps > 0 else 25.0,
            duration_s=_duration_s(container, stream, lead_in),
            # An index of some frames, as of Matroska, comes without their number. AVI marks pauses by entries of no bytes.
            listed_frames=displayed_frames if stream.frames and not lead_in else 0,
            hidden_frames=hidden,
            lead_in=lead_in,
            times_frames=times_frames,
            # decord counts frames that are hidden or lead in, which matters unless they come last. It takes the first video
            # stream, turns but does not mirror, and reserves memory for as many frames as a header claims, which ends the
            # process if that is a lie.
            by_decord=times_frames
            and not lead_in
            and not any(entry.is_discard for entry in entries[:displayed_frames])
            and stream.frames in {0, len(entries)}
            and not orientation.mirrored
            and stream.index == container.streams.video[0].index,
        )


def _check_index(entries: list[_Entry], size_bytes: int) -> None:
    """Refuse a file that is shorter than its own index says: the mark of an unfinished download or copy."""
    for number, entry in enumerate(entries):
        if entry.pos + entry.size > size_bytes:
            detail = (
                f"coded frame {number} of {len(entries)} should end at byte {entry.pos + entry.size}, "
                f"the file has {size_bytes} bytes"
            )
            raise VideoError(Reason.TRUNCATED, detail)


def _first_frame(container: Any, stream: Any) -> tuple[Any, int]:
    """Decode up to the first frame that is displayed; return it and the lead-in before it.

    It carries the display matrix, which streams do not give out.
    """
    stream.codec_context.thread_count = 1  # several would decode more than the one frame
    timed: list[tuple[int, bool]] = []
    has_key, failure = False, "no data"
    for packet in packets(container, stream):
        timed += timed_frame(packet)
        has_key = has_key or packet.is_keyframe
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            failure = cause(error)
            continue
        if frames:
            if not has_key:
                _check_start(stream, frames[0])
            early = lead_in(timed, frames[0].pts)
            return frames[0], frames[0].pts - early[0] if early else 0
    raise VideoError(Reason.CORRUPT_FRAME, f"frame 0 does not decode, nor does any other ({failure})")


def _check_start(stream: Any, frame: Any) -> None:
    """Refuse a frame that was made from frames that are not there: MPEG-4 decoders put grey in their place."""
    # H.264 can be decoded from points between key frames, and its decoder leaves out what cannot.
    if stream.codec_context.codec.canonical_name != "h264" and frame.pict_type in _NEED_OTHERS:
        detail = "the file begins between key frames: frame 0 needs frames that were cut off before it; cut at a key frame"
        raise VideoError(Reason.NO_KEY_FRAME, detail)


def _duration_s(container: Any, stream: Any, lead_in: int) -> float:
    if stream.duration and stream.time_base:
        return float((stream.duration - lead_in) * stream.time_base)
    whole = (container.duration or 0) / av.time_base
    return whole - float(lead_in * stream.time_base) if lead_in else whole


def _times_every_frame(path: Path) -> bool:
    """Tell from the first bytes whether the container gives each frame its time, so that decord seeks exactly."""
    with path.open("rb") as handle:
        start = handle.read(12)
    is_iso = start[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}
    is_matroska = start[:4] == b"\x1a\x45\xdf\xa3"
    return is_iso or is_matroska
