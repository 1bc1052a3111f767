"""Small videos for tests. Each frame shows its own number as 8 black or white bars, so that a mix-up is seen."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

BARS = 8


def numbered_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Return uint8 RGB [H,W,3] that shows ``number`` (0 to 255)."""
    bits = [(number >> bit) & 1 for bit in range(BARS)]
    row = np.repeat(np.array(bits, dtype=np.uint8) * 219 + 18, -(-width // BARS))[:width]
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def number_shown(frame: np.ndarray) -> int:
    """Return the number that a frame of :func:`numbered_frame` shows."""
    width = frame.shape[1]
    centres = [int((bar + 0.5) * -(-width // BARS)) for bar in range(BARS)]
    return sum(int(frame[:, centre].mean() > 127) << bit for bit, centre in enumerate(centres))


def write_video(
    path: Path,
    num_frames: int = 12,
    height: int = 48,
    width: int = 64,
    fps: int = 24,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    first_number: int = 0,
) -> Path:
    """Write numbered frames; the suffix decides the container. Another ``first_number`` gives another content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        for number in range(first_number, first_number + num_frames):
            picture = numbered_frame(number % 256, height, width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path
