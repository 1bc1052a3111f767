"""Write a video once more in a form that training reads fast: small, upright, key frames close together, no sound.

A training step reads a few frames spread over a whole clip. Of a large file with a key frame every ten seconds a decoder has
to decode nearly everything to give eight of them; of the prepared form it decodes a few small frames each.

What is kept: every displayed frame under its number, unless `fps` lowers the rate, and its time, so that a table of frames or
seconds stays right (with `fps` one of seconds only); the picture as displayed, and its colours: matrix and range stay what
they were, nothing is converted that need not be. What goes: resolution above the short side, sound, other streams, metadata,
turning and stretching, which are applied.

H W pixels.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import staged_file
from umt_pipeline.video.container import Header, cause, lead_in, open_video, packets, read_header, timed_frame
from umt_pipeline.video.decoders import Display
from umt_pipeline.video.media import Reason
from umt_pipeline.video.orientation import Orientation

CODEC = "libx264"
# The same layout, of limited and of full range.
PIXELS = ("yuv420p", "yuvj420p")
# Measured (docs/benchmarks_prepare.md). `fastdecode` leaves out what costs decoding time: CABAC, the loop filter. Frames that
# refer to later ones (B) would save a tenth of the bytes and cost a tenth of the speed, and the file would need an edit list.
# Slower presets take three times as long for files of the same size. Without `mbtree`, which in one run of a hundred gives
# other bytes for the same small frames (x264 165), a file's prepared form is always the same.
ENCODING = {"preset": "veryfast", "tune": "fastdecode", "bf": "0", "mbtree": "0"}
# The index before the frames, so that opening a file reads one piece of it.
MUXING = {"movflags": "+faststart"}

# FFmpeg's numbers of what relates brightness and colour differences to red, green and blue.
_MATRIX_RGB, _MATRIX_UNKNOWN = 0, 2


class PreparedForm(Config):
    """What a prepared video is like.

    Attributes:
        short_side: pixels of its shorter side at most; smaller videos are not enlarged.
        fps: frames per second at most; None: all frames are kept. A file with more on average gets a constant rate of so
            many: at each tick the frame that a player would show then.
        gop: frames from one key frame to the next at most: fewer make files larger and jumping faster.
        crf: x264's constant quality; 18 cannot be told from the source by eye, 23 is x264's own default.
    """

    short_side: int = Field(default=320, ge=16)
    fps: float | None = Field(default=None, gt=0.0)
    gop: int = Field(default=12, ge=1)
    crf: int = Field(default=20, ge=0, le=51)


@dataclass(frozen=True)
class Transcoded:
    """What was written.

    Attributes:
        num_frames: frames.
        duration_s: seconds from the first frame to the end of the last.
        width: pixels per row.
        height: rows.
    """

    num_frames: int
    duration_s: float
    width: int
    height: int


def transcode(source: Path, target: Path, form: PreparedForm) -> Transcoded:
    """Write a video in the prepared form: H.264 in MP4, whatever the name of ``target`` says.

    The same source gives the same bytes with the same version of the encoder. Memory does not grow with the length.

    Args:
        source: a video file.
        target: written whole or not at all.
        form: what it becomes.

    Raises:
        VideoError: the source does not decode to its end, or cannot be read; nothing is written.
        OSError: the target cannot be written, for example because the disk is full.
    """
    with source_errors():
        header = read_header(source)
    size = prepared_size(header.width, header.height, form.short_side)
    shown = _timed(displayed_frames(source, header), header.fps)
    if form.fps is not None and header.fps > form.fps:
        shown = _at_rate(shown, Fraction(form.fps).limit_denominator(1001))
    with staged_file(target) as staged:
        return _encode(shown, staged, header, size, form)


def is_prepared(source: Path, form: PreparedForm) -> bool:
    """Tell by header and index whether a file has the form already: encoding it again would only lose quality.

    Raises:
        VideoError: the file is no video, cannot be read, or is shorter than its index says.
    """
    with source_errors():
        return _is_prepared(source, form)


def _is_prepared(source: Path, form: PreparedForm) -> bool:
    header = read_header(source)
    with open_video(source) as (container, stream):
        fits = (
            "mp4" in header.container.split(",")
            and header.codec == "h264"
            and stream.codec_context.pix_fmt in PIXELS
            and header.orientation == Orientation()
            and header.sample_aspect == 1
            and (header.width, header.height) == prepared_size(header.width, header.height, form.short_side)
            and (form.fps is None or header.fps <= form.fps)
            and not header.hidden_frames
            and len(container.streams) == 1
        )
        keys = [number for number, entry in enumerate(stream.index_entries) if entry.is_keyframe]
        gaps = [later - key for key, later in pairwise([*keys, len(stream.index_entries)])]
    return fits and keys[:1] == [0] and max(gaps) <= form.gop


def prepared_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return (width, height) of a prepared video: even, since four pixels share a colour, and never more than displayed."""
    scale = Fraction(min(short_side, width, height), min(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: Fraction) -> int:
    return max(2, math.floor(side / 2 + Fraction(1, 4)) * 2)


@contextmanager
def source_errors() -> Iterator[None]:
    """Tell errors of reading a source from those of writing its prepared form: FFmpeg's are ``OSError`` both.

    Raises:
        VideoError: the source cannot be read.
        MemoryError: FFmpeg has not enough of it.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        raise VideoError(Reason.UNREADABLE_FILE, f"the file cannot be read ({error.strerror or error})") from error


def displayed_frames(path: Path, header: Header) -> Iterator[Any]:
    """Yield each displayed frame of a video, in order, as PyAV decodes it: neither stretched nor turned.

    Raises:
        VideoError: a frame is damaged, missing, or of another size than the first one, or the file cannot be read.
    """
    display = Display(header)
    timed: list[tuple[int, bool]] = []
    first: int | None = None
    count = 0
    with source_errors(), open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1  # the cores are shared out by files
        for packet in packets(container, stream):
            timed += timed_frame(packet)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                detail = f"frame {count} or one shortly after it does not decode ({cause(error)})"
                raise VideoError(Reason.CORRUPT_FRAME, detail) from error
            for frame in frames:
                display.check(frame, count)
                if frame.is_corrupt:
                    raise VideoError(Reason.CORRUPT_FRAME, f"frame {count} is damaged")
                first = frame.pts if count == 0 else first
                count += 1
                yield frame
        listed = sum(entry.size > 0 and not entry.is_discard for entry in stream.index_entries)
    # One may be missing at the end: the last packet of DivX files belongs to the frame before it.
    if not count or count < listed - len(lead_in(timed, first)) - 1:
        raise VideoError(Reason.CORRUPT_FRAME, f"expected {listed or 'some'} frames, as the index lists, found {count}")


@dataclass(frozen=True)
class _Shown:
    """A decoded frame, and when it is shown, in seconds from the first one; ``unit`` is a step of the clock."""

    frame: Any
    start: Fraction
    duration: Fraction
    unit: Fraction


def _timed(frames: Iterator[Any], fps: float) -> Iterator[_Shown]:
    """Give each frame its time: the file's, or one frame after the one before where the file has none, or goes back."""
    usual = 1 / Fraction(fps).limit_denominator(10_000)
    first: Fraction | None = None
    start, earliest = Fraction(0), Fraction(0)
    for frame in frames:
        unit = frame.time_base or Fraction(1, 90_000)
        if frame.pts is None:
            start = earliest
        else:
            first = frame.pts * unit if first is None else first
            start = max(frame.pts * unit - first, earliest)
        duration = frame.duration * unit if frame.duration else usual
        # At the least the smallest step of the file's clock: x264 wants each frame later than the one before.
        earliest = start + (usual if frame.pts is None else unit)
        yield _Shown(frame, start, duration, unit)


def _at_rate(shown: Iterator[_Shown], fps: Fraction) -> Iterator[_Shown]:
    """Yield, at each tick of a clock of ``fps``, the frame that is shown then; from the first to the end of the last."""
    tick = 0
    before: _Shown | None = None
    for now in shown:
        while before is not None and tick / fps < now.start:
            yield _Shown(before.frame, tick / fps, 1 / fps, 1 / fps)
            tick += 1
        before = now
    while before is not None and tick / fps < before.start + before.duration:
        yield _Shown(before.frame, tick / fps, 1 / fps, 1 / fps)
        tick += 1


class _Painter:
    """Turns decoded frames into frames of the prepared form.

    By FFmpeg's filters, as the reader makes its pictures, so that interlaced and 10-bit frames are taken as it takes them.
    Matrix and range of the colours stay what they are and go along with each frame.

    Args:
        header: of the file that the frames are from.
        size: (width, height) of the prepared video.
    """

    def __init__(self, header: Header, size: tuple[int, int]) -> None:
        self._orientation = header.orientation
        self._size = size
        self._before_turning = size[::-1] if header.orientation.transposed else size
        self._kind: tuple[Any, ...] = ()
        self._filters: Any = None

    def paint(self, frame: Any) -> Any:
        """Return a frame scaled and turned, in 8 bits, as a picture of its own."""
        kind = (frame.format.name, frame.colorspace, frame.color_range, frame.time_base)
        if kind != self._kind:
            self._kind, self._filters = kind, self._graph(frame)
        self._filters.vpush(frame)
        scaled = self._filters.vpull()
        return scaled if self._orientation == Orientation() else self._turned(scaled)

    def _graph(self, frame: Any) -> Any:
        width, height = self._before_turning
        time_base = frame.time_base or Fraction(1, 25)  # filters want one; the picture gets its time later
        graph = av.filter.Graph()
        # The source's colours are told, or the filters would convert them to those that they take for granted.
        source = graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={time_base}"
            f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        )
        scale = graph.add("scale", f"{width}:{height}:flags=area+accurate_rnd")
        graph.link_nodes(source, scale, graph.add("format", "|".join(PIXELS)), graph.add("buffersink")).configure()
        return graph

    def _turned(self, frame: Any) -> Any:
        width, height = self._before_turning
        packed: NDArray[np.uint8] = frame.to_ndarray().reshape(-1)  # brightness, then two planes of a quarter of its size
        area = width * height
        planes = (
            packed[:area].reshape(height, width),
            packed[area : area * 5 // 4].reshape(height // 2, width // 2),
            packed[area * 5 // 4 :].reshape(height // 2, width // 2),
        )
        rows = np.concatenate([self._orientation.turn(plane[None, :, :, None]).ravel() for plane in planes])
        turned = av.VideoFrame.from_ndarray(rows.reshape(-1, self._size[0]), format=frame.format.name)
        turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
        turned.color_primaries, turned.color_trc = frame.color_primaries, frame.color_trc
        return turned


def _encode(shown: Iterator[_Shown], target: Path, header: Header, size: tuple[int, int], form: PreparedForm) -> Transcoded:
    num_frames, end = 0, Fraction(0)
    painter, stream = _Painter(header, size), None
    with av.open(str(target), "w", format="mp4", options=MUXING) as container:
        for now in shown:
            picture = painter.paint(now.frame)
            if stream is None:
                stream = _add_stream(container, picture, now, form)
            picture.time_base, picture.pts = now.unit, round(now.start / now.unit)
            picture.duration = max(1, round(now.duration / now.unit))
            picture.pict_type = 0  # else the encoder repeats the source's choice of key frames
            container.mux(stream.encode(picture))
            num_frames, end = num_frames + 1, now.start + now.duration
        if stream is not None:
            container.mux(stream.encode(None))
    return Transcoded(num_frames, float(end), *size)


def _add_stream(container: Any, picture: Any, shown: _Shown, form: PreparedForm) -> Any:
    options = ENCODING | {"g": str(form.gop), "crf": str(form.crf)}
    stream = container.add_stream(CODEC, rate=(1 / shown.duration).limit_denominator(10_000), options=options)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, picture.format.name
    codec = stream.codec_context
    codec.time_base = shown.unit
    codec.thread_count = 1  # the cores are shared out by files, and several threads give other bytes
    # RGB has no matrix; the filter made brightness and differences by the one that every reader takes where none is named.
    codec.colorspace = _MATRIX_UNKNOWN if picture.colorspace == _MATRIX_RGB else picture.colorspace
    codec.color_range = picture.color_range
    codec.color_primaries, codec.color_trc = picture.color_primaries, picture.color_trc
    return stream
