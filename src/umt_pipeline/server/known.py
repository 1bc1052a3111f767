"""What a model says of a clip and a text that never change: the same as when it was loaded, or something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.serving.models import Model

KNOWN_TEXT = "a white square moves to the right"
# Far above what a product of matrices may differ by from one time to the next, far below what another clip differs by.
TOLERANCE = 1e-3
_FRAMES, _SIDE = 16, 96


def write_known_clip(path: Path) -> None:
    """Write a video of a square that moves."""
    with av.open(str(path), "w", format="mp4") as container:
        # In every FFmpeg, and decoded by the same means as all other files.
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = _SIDE
        stream.pix_fmt, stream.time_base, stream.thread_count = "yuv420p", Fraction(1, 8), 1
        for number in range(_FRAMES):
            picture_HWC = np.full((_SIDE, _SIDE, 3), 40, dtype=np.uint8)
            picture_HWC[36:60, 4 * number : 4 * number + 24] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class Known:
    """What a model said when it was loaded.

    Attributes:
        clip: the file.
        said: numbers by what was asked.
    """

    clip: Path
    said: dict[str, np.ndarray]

    @classmethod
    def of(cls, model: Model, clip: Path) -> Known:
        """Ask a model, which says then what it will be held to."""
        return cls(clip, _said(model, clip))

    def problems(self, model: Model) -> list[str]:
        """Ask again, from the file on, and return what is different; nothing: the model is as it was."""
        try:
            now = _said(model, self.clip)
        except Exception as error:  # whatever it is, the model does not work any more
            return [f"the known clip and text: {type(error).__name__}: {error}"]
        found = []
        for name, before in self.said.items():
            # NaN is no number that is near enough.
            if now[name].shape != before.shape or not (worst := float(np.abs(now[name] - before).max())) <= TOLERANCE:
                found.append(f"{name}: expected what was said at the start, to {TOLERANCE:g}, found it {worst:g} off")
        return found


def _said(model: Model, clip: Path) -> dict[str, np.ndarray]:
    said: dict[str, np.ndarray] = {}
    if (embedder := model.embedder) is not None:
        frames_TSSC = np.ascontiguousarray(clip_of(clip, embedder.view))
        said["the known clip's vector"] = embedder.encode_clips(torch.from_numpy(frames_TSSC)[None]).numpy()
        if embedder.reads_text:
            said["the known text's vector"] = embedder.encode_texts([KNOWN_TEXT]).numpy()
    if model.classifiers is not None:
        said |= {f"the known clip's {task}": shares_1C for task, shares_1C in model.classify([clip]).all().items()}
    if model.answerer is not None:
        said["the answers about the known clip"] = np.array([one.log_probability for one in model.ask(clip, KNOWN_TEXT)])
    return said
