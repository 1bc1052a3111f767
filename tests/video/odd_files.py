"""Videos that are not upright, square and alone in their file, for tests; each made of pictures that tell their sides apart."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.video.boxes import box, boxes
from tests.video_files import numbered_frame

ONE = 1 << 16  # in a display matrix
FPS = 24
# What is done to a coded picture -> the display matrix (a, b, c, d) that says so, and the same in numpy.
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "upright": ((ONE, 0, 0, ONE), lambda frames: frames),
    "90": ((0, ONE, -ONE, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "180": ((-ONE, 0, 0, -ONE), lambda frames: np.rot90(frames, 2, (1, 2))),
    "270": ((0, -ONE, ONE, 0), lambda frames: np.rot90(frames, 1, (1, 2))),
    "mirrored": ((-ONE, 0, 0, ONE), lambda frames: frames[:, :, ::-1]),
    "mirrored, 90": ((0, -ONE, -ONE, 0), lambda frames: np.rot90(frames[:, :, ::-1], -1, (1, 2))),
    "mirrored, 180": ((ONE, 0, 0, -ONE), lambda frames: frames[:, ::-1]),
    "mirrored, 270": ((0, ONE, ONE, 0), lambda frames: np.rot90(frames[:, :, ::-1], 1, (1, 2))),
}


def matrix(a: int, b: int, c: int, d: int) -> tuple[int, ...]:
    """Return a whole display matrix."""
    return a, b, 0, c, d, 0, 0, 0, 1 << 30


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return different smooth pictures [T,H,W,3] without symmetry, in pale colours: those are coded at half the size."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        small = Image.fromarray((rng.integers(40, 216, (4, 5, 1)) + rng.integers(-20, 21, (4, 5, 3))).astype(np.uint8))
        drawn.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
    return np.stack(drawn)


def write_pictures(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    *,
    turn: tuple[int, ...] | None = None,
    sample_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """Write frames [T,H,W,3 or 4], at 24 per second or at given times in 24ths of a second."""
    with av.open(str(path), "w") as container:
        # Without look-ahead x264 writes the same bytes, run after run.
        preset = {"preset": "superfast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=FPS, options=preset | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = pix_fmt, 1
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if turn is not None:
            stream.set_display_matrix(turn)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_streams(path: Path, firsts: Sequence[int], default: int, num_frames: int = 12) -> Path:
    """Write several streams of numbered frames, each beginning with its own number; one is the default."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for index, _ in enumerate(firsts):
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.disposition = av.stream.Disposition.default if index == default else av.stream.Disposition(0)
            streams.append(stream)
        for number in range(num_frames):
            for stream, first in zip(streams, firsts, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(first + number), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def write_with_cover(path: Path, num_frames: int = 12) -> Path:
    """Write an MP4 of numbered frames whose cover picture comes before the film."""
    with av.open(str(path), "w") as container:
        film, cover = container.add_stream("libx264", rate=FPS), container.add_stream("png", rate=1)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        cover.width, cover.height, cover.pix_fmt = 128, 128, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        for number in range(num_frames):
            container.mux(film.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        container.mux(film.encode(None))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frame(255, 128, 128), format="rgb24")))
        container.mux(cover.encode(None))
    data = path.read_bytes()
    # The writer puts the tags with the cover behind the tracks; other writers put them before.
    (_, track, track_end), (_, tags, tags_end) = [
        found for found in boxes(data, *box(data, b"moov")) if found[0] in {b"trak", b"udta"}
    ]
    moved = data[: track - 8] + data[tags - 8 : tags_end] + data[track - 8 : track_end] + data[tags_end:]
    path.write_bytes(moved)
    return path


def with_edits(data: bytes, edits: Sequence[tuple[int, int | None]]) -> bytes:
    """Replace the edit list of a track whose index comes last.

    Args:
        data: an MP4 with an edit list of one edit that shows everything.
        edits: (frames shown, number of the first one); None: nothing is shown for as long.
    """
    start, stop = box(data, b"moov", b"trak", b"edts")
    (scale,) = struct.unpack_from(">I", data, box(data, b"moov", b"trak", b"mdia", b"mdhd")[0] + 12)
    (film_scale,) = struct.unpack_from(">I", data, box(data, b"moov", b"mvhd")[0] + 12)
    (begin,) = struct.unpack_from(">i", data, start + 8 + 12)
    rows = [(frames * film_scale // FPS, -1 if first is None else begin + first * scale // FPS) for frames, first in edits]
    body = struct.pack(">II", 0, len(rows)) + b"".join(struct.pack(">IiHH", *row, 1, 0) for row in rows)
    changed = bytearray(data[:start] + struct.pack(">I4s", 8 + len(body), b"elst") + body + data[stop:])
    for path in ((b"moov",), (b"moov", b"trak"), (b"moov", b"trak", b"edts")):
        place = box(data, *path)[0] - 8
        (size,) = struct.unpack_from(">I", changed, place)
        struct.pack_into(">I", changed, place, size + 8 + len(body) - (stop - start))
    return bytes(changed)


def cut(source: Path, target: Path, skipped: int) -> Path:
    """Copy a video without its first coded frames, wherever that is in a group of pictures."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(reader.demux(reader.streams.video[0])):
            if number >= skipped and packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    return target
