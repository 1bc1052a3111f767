"""Trained models with the few methods that a notebook wants.

Shapes: n clips or texts, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.models.folders import model_kind
from umt_pipeline.models.video_text import KIND, load_video_text
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import eval_view, load_view


class VideoTextEmbedder:
    """A stage-2 model: unit vectors of clips and of texts, whose products are cosines.

    Args:
        encoder: the model, on the device that it runs on.
    """

    def __init__(self, encoder: VideoTextEncoder) -> None:
        self.encoder = encoder

    @torch.inference_mode()
    def embed_videos(self, paths: Sequence[str | Path]) -> Tensor:
        """Return unit vectors [n, E] on the CPU: of each file, frames evenly spaced over all of it, the square in the middle.

        Raises:
            VideoError: a file cannot be read.
        """
        parts = [self.encoder.encode(self._frames(Path(path))) for path in paths]
        return torch.cat([features[f"{self.encoder.name}/embedding"].float().cpu() for features in parts])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [n, E] on the CPU; a text longer than the model's limit is cut."""
        return self.encoder.encode_text(texts)[2].float().cpu()

    def _frames(self, path: Path) -> Tensor:
        # However short: what is asked of a corpus is asked when it is ingested.
        found = probe(path, VideoRules(min_frames=1, min_side=1))
        view = eval_view(self.encoder.view, found.num_frames, found.height, found.width)
        device = next(self.encoder.model.parameters()).device
        return torch.from_numpy(np.ascontiguousarray(load_view(path, view))).unsqueeze(0).to(device)


def load(folder: str | Path, precision: AskedPrecision = "auto") -> VideoTextEmbedder:
    """Load a stage-2 model folder onto the GPU if there is one.

    Args:
        folder: of the model.
        precision: what it runs in; ``auto``: bf16 where it is measured to pay on this device.

    Raises:
        CheckpointError: the folder is no complete model of video and text.
    """
    path = Path(folder)
    if (kind := model_kind(path)) != KIND:
        raise CheckpointError(
            f"{path} is a model of kind {kind!r}, expected {KIND!r}: take the folder of stage 2 or of retrieval. The video "
            "encoder of any model is loaded by umt_pipeline.models.vision.load_vision"
        )
    model, tokenizer = load_video_text(path)
    device = default_device()
    used = resolve_precision(precision, device)
    return VideoTextEmbedder(VideoTextEncoder("model", model.to(device).eval(), tokenizer, precision=used))
