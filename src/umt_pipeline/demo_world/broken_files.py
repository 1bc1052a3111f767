"""Files that a folder of videos and images contains sooner or later, made on purpose."""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from umt_pipeline.video.media import Reason


def write_broken_files(folder: Path, good_clip: Path, seed: int) -> list[tuple[str, str]]:
    """Write one file for each common way of being broken.

    Args:
        folder: where to write; it exists.
        good_clip: an H.264 MP4 file of at least a dozen frames that some of the broken files are made of.
        seed: decides random content.

    Returns:
        (file name, reason for which ingestion must reject it) of each file, in a fixed order.
    """
    rng = np.random.default_rng(seed)
    index_first, index_last = _remuxed(good_clip, index_first=True), _remuxed(good_clip, index_first=False)
    contents = {
        # An interrupted download: opens, then fails.
        ("truncated.mp4", Reason.TRUNCATED): index_first[: len(index_first) * 2 // 3],
        # An interrupted recording: the index, written last, is missing.
        ("no_index.mp4", Reason.NOT_A_VIDEO): index_last[: index_last.index(b"mdat") + 100],
        ("corrupt_middle.mp4", Reason.CORRUPT_FRAME): _corrupt_middle(index_first),
        ("empty.mp4", Reason.EMPTY_FILE): b"",
        ("text_renamed.mp4", Reason.NOT_A_VIDEO): b"This is the text of an error page, saved as a video.\n" * 20,
        ("picture_renamed.mp4", Reason.NOT_A_VIDEO): _picture(rng),
        ("audio_only.mp4", Reason.NO_VIDEO_STREAM): _audio(rng),
        ("too_small.mp4", Reason.TOO_SMALL): _video(rng, side=16, num_frames=24),
        ("too_short.mp4", Reason.TOO_SHORT): _video(rng, side=64, num_frames=1),
        ("truncated.jpg", Reason.TRUNCATED): _picture(rng)[:-1000],
    }
    for (name, _), content in contents.items():
        (folder / name).write_bytes(content)
    return [(name, str(reason)) for name, reason in contents]


def _remuxed(clip: Path, index_first: bool) -> bytes:
    """Copy the clip's packets into a new MP4 with its index before or after them."""
    options = {"movflags": "+faststart"} if index_first else {}
    with tempfile.TemporaryDirectory() as folder:  # to put the index first, FFmpeg reads the file that it wrote
        target = Path(folder) / "remuxed.mp4"
        with av.open(str(clip)) as source, av.open(str(target), "w", options=options) as sink:
            stream = sink.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    sink.mux(packet)
        return target.read_bytes()


def _corrupt_middle(content: bytes) -> bytes:
    """Overwrite the coded frames of the middle third: with ones, so that no length in them makes sense."""
    with av.open(io.BytesIO(content)) as container:
        entries = [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]
    damaged = bytearray(content)
    for position, size in entries[len(entries) // 3 : len(entries) * 2 // 3]:
        damaged[position : position + size] = b"\xff" * size
    return bytes(damaged)


def _picture(rng: np.random.Generator) -> bytes:
    target = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(target, "JPEG")
    return target.getvalue()


def _audio(rng: np.random.Generator) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            samples = rng.uniform(-0.1, 0.1, (1, 1024)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def _video(rng: np.random.Generator, side: int, num_frames: int) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        # One thread and a preset without look-ahead, as for the clips: the same bytes, run after run.
        stream.options = {"preset": "superfast"}
        stream.thread_count = 1
        for _ in range(num_frames):
            picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()
