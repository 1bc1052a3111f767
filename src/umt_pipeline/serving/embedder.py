"""What embedding, index, search and server ask of a model, whatever its kind.

Shapes: B clips, T frames, H W pixels, U texts, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import ClipEncoder, TeacherEncoder, VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.video.views import ViewConfig

# Pixels that a CPU encodes at once, a clip of 8 frames of 224 pixels: the hidden layers of larger batches are too large for its
# caches and for the memory that an allocator keeps, and each would be had from the system anew.
CPU_PIXELS = 8 * 224 * 224


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Embedder:
    """A model that turns clips, and maybe texts, into unit vectors whose products are cosines.

    Args:
        kind: of the model: ``stage2``, ``retrieval``, ``stage1``, ``encoder`` (a bare one), ``teacher``, ``open_clip``.
        encoder: the model, on the device that it runs on.
        feature: which of what it gives is the embedding.
    """

    kind: str
    encoder: ClipEncoder
    feature: str

    @cached_property
    def key(self) -> str:
        """A SHA-256 of its weights, sizes, view and precision: two models of one key give the same vectors."""
        identity = self.encoder.identity
        if isinstance(self.encoder, TeacherEncoder):
            # Where it was loaded from is no part of what it computes: an index is searched from other folders, too.
            config = {name: value for name, value in identity["config"].items() if name != "source"}
            identity = identity | {"config": config}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def view(self) -> ViewConfig:
        """The number and size of frames that it reads of a clip."""
        return self.encoder.view

    @cached_property
    def dim(self) -> int:
        """E."""
        frames = torch.zeros(1, self.view.frames, self.view.size, self.view.size, 3, dtype=torch.uint8)
        return int(self.encode_clips(frames).shape[1])

    @property
    def reads_text(self) -> bool:
        """Whether it embeds texts, so that clips can be found by them."""
        if isinstance(self.encoder, TeacherEncoder):
            return self.encoder.teacher.text_model is not None
        return isinstance(self.encoder, VideoTextEncoder)

    @property
    def matches(self) -> bool:
        """Whether it has a matching head, which re-ranks."""
        return isinstance(self.encoder, VideoTextEncoder)

    @torch.inference_mode()
    def encode_clips(self, frames_BTHWC: Tensor) -> Tensor:
        """Return unit vectors, float32 [B, E] on the CPU, of uint8 frames in the model's view."""
        device = default_device()
        if device.type != "cpu":
            return self._encoded(frames_BTHWC.to(device)).cpu()
        pixels = self.view.frames * self.view.size**2
        # What is encoded in milliseconds takes longer if it waits for a thread beside those that decode.
        with _threads(1 if pixels * len(frames_BTHWC) < CPU_PIXELS else torch.get_num_threads()):
            return torch.cat([self._encoded(part) for part in frames_BTHWC.split(max(1, CPU_PIXELS // pixels))])

    def _encoded(self, frames_BTHWC: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self.encoder.encode(frames_BTHWC)[self.feature].float(), dim=1)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors, float32 [U, E] on the CPU; a text longer than the model's limit is cut.

        Raises:
            ConfigError: the model reads no text.
        """
        if isinstance(self.encoder, VideoTextEncoder):
            vectors_UE = self.encoder.encode_text(texts)[2].float().cpu()
        elif isinstance(self.encoder, TeacherEncoder) and self.reads_text:
            vectors_UE = torch.from_numpy(self.encoder.encode_text(texts)).float()
        else:
            raise ConfigError(f"a model of kind {self.kind!r} reads no text: expected one of stage 2, retrieval or a CLIP")
        return torch.nn.functional.normalize(vectors_UE, dim=1)

    @property
    def temperature(self) -> float:
        """The divisor of cosines that a model with a matching head learnt.

        Raises:
            ConfigError: the model has no matching head.
        """
        return self._matcher.temperature

    def match(self, frames_BTHWC: Tensor, texts: Sequence[str]) -> Tensor:
        """Return how well each clip and its text belong together, float32 [B]: the logit of a match in :meth:`match_logits`."""
        return self.match_logits(frames_BTHWC, texts)[:, 1]

    @torch.inference_mode()
    def match_logits(self, frames_BTHWC: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the matching head's logits of clips and texts, float32 [B, 2] on the CPU: no match, match.

        Args:
            frames_BTHWC: uint8 frames of B clips.
            texts: B texts; text i stands beside clip i.

        Raises:
            ConfigError: the model has no matching head.
            ValueError: there are not as many texts as clips.
        """
        encoder = replace(self._matcher, keep_tokens=True)
        if len(texts) != len(frames_BTHWC):
            raise ValueError(f"expected a text beside each clip, found {len(frames_BTHWC)} clips and {len(texts)} texts")
        tokens_BVD = encoder.encode(frames_BTHWC.to(default_device()))[f"{encoder.name}/tokens"]
        tokens_ULD, mask_UL, _ = encoder.encode_text(texts)
        pair_B = np.arange(len(texts))
        return torch.from_numpy(encoder.pair_scorer(tokens_ULD, mask_UL, tokens_BVD)(pair_B, pair_B))

    @property
    def _matcher(self) -> VideoTextEncoder:
        if not isinstance(self.encoder, VideoTextEncoder):
            raise ConfigError(f"a model of kind {self.kind!r} has no matching head: expected one of stage 2 or retrieval")
        return self.encoder
