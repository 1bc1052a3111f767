"""Videos with scenes of their own, and a model that sees which: its vectors are made of the colours of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.video.views import ViewConfig

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "white": (230, 230, 230)}
FPS = 8
VIEW = ViewConfig(frames=4, size=16)


def write_film(path: Path, scenes: Sequence[tuple[str, float]], gop: int = 8, codec: str = "libx264", seed: int = 0) -> Path:
    """Write a video of scenes: colours, and how many seconds each is seen. Another ``seed`` is another content."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": str(gop), "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 48, 32, "yuv420p", 1
        for colour, seconds in scenes:
            for _ in range(round(seconds * FPS)):
                noise = rng.integers(-12, 12, (32, 48, 3))
                picture = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True)
class ColourEncoder:
    """Gives the mean colour of a clip, and of its first and last frame."""

    name: str = "colours"
    view: ViewConfig = VIEW
    precision: Any = "fp32"

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        colours_BTC = frames_BTHWC.float().mean(dim=(2, 3)) - 110
        return {"vector": torch.cat([colours_BTC.mean(dim=1), colours_BTC[:, 0], colours_BTC[:, -1]], dim=1)}


def colour_embedder(name: str = "colours") -> Embedder:
    """Return the model; of another name it has another key."""
    return Embedder("stage1", ColourEncoder(name), "vector")
