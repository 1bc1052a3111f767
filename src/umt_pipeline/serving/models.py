"""Trained models with the few methods that a notebook wants.

Shapes: n clips or texts, P pairs of a clip and a text, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.evaluation.encoders import ClipEncoder, VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.models.folders import model_kind
from umt_pipeline.models.video_text import KIND, load_video_text
from umt_pipeline.serving.files import load_frames


class VideoTextEmbedder:
    """A stage-2 model: unit vectors of clips and of texts, whose products are cosines, and how well pairs match.

    Args:
        encoder: the model, on the device that it runs on.
    """

    def __init__(self, encoder: VideoTextEncoder) -> None:
        self.encoder = encoder

    def embed_videos(self, paths: Sequence[str | Path]) -> Tensor:
        """Return unit vectors [n, E] on the CPU: of each file, frames evenly spaced over all of it, the square in the middle.

        Raises:
            VideoError: a file cannot be read.
        """
        return encode_files(self.encoder, paths, f"{self.encoder.name}/embedding")

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [n, E] on the CPU; a text longer than the model's limit is cut."""
        return self.encoder.encode_text(texts)[2].float().cpu()

    @torch.inference_mode()
    def match(self, paths: Sequence[str | Path], texts: Sequence[str]) -> Tensor:
        """Return how well each clip and its text belong together [P], by the matching head that re-ranks in the evaluation.

        Args:
            paths: P files.
            texts: P texts; text i stands beside clip i.

        Returns:
            The head's logits, on the CPU: higher is better; 0 is no border between right and wrong.

        Raises:
            ValueError: there are not as many texts as clips.
            VideoError: a file cannot be read.
        """
        if len(paths) != len(texts):
            raise ValueError(f"expected a text beside each clip, found {len(paths)} clips and {len(texts)} texts")
        files, row_P = np.unique([str(path) for path in paths], return_inverse=True)
        encoder = replace(self.encoder, keep_tokens=True)
        tokens_SVD = encode_files(encoder, files.tolist(), f"{encoder.name}/tokens")
        tokens_ULD, mask_UL, _ = encoder.encode_text(texts)
        score = encoder.pair_scorer(tokens_ULD, mask_UL, tokens_SVD)
        # Pairs of one clip stand together: the scorer reads few clips at a time.
        order_P = np.argsort(row_P, kind="stable")
        scores_P = np.empty(len(texts), dtype=np.float32)
        scores_P[order_P] = score(order_P, row_P[order_P])
        return torch.from_numpy(scores_P)


@torch.inference_mode()
def encode_files(encoder: ClipEncoder, paths: Sequence[str | Path], name: str) -> Tensor:
    """Return one of an encoder's features of each file, float32 [n, ...], on the CPU.

    Raises:
        VideoError: a file cannot be read.
    """
    device = default_device()
    parts = []
    for path in paths:
        frames = torch.from_numpy(np.ascontiguousarray(load_frames(path, encoder.view))).unsqueeze(0).to(device)
        parts.append(encoder.encode(frames)[name].float().cpu())
    return torch.cat(parts)


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
