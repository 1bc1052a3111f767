"""What a captioned clip costs in stage 2: multiply-accumulates of the video-text model, by objective.

As in :mod:`umt_pipeline.models.flops`, only matrix products count. Of these the ones with the rest of the batch are left
out: contrastive similarities, and those that negatives are drawn from, 3 G E for a batch of G. At UMT-B's 2048 they are
below 0.02 % of a sample.

Letters: V visible tokens per clip, Z vision width, L text tokens, D text width, E embedding width, Y vocabulary size, K
aligned layers, C width of the targets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

from umt_pipeline.models.flops import encoder_macs, transformer_macs
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig

# Of each sample: the right pair, its text with a wrong clip, its clip with a wrong text.
MATCHING_PAIRS = 3


class Weights(Protocol):
    """The weight of each objective; 0 leaves it out. See :class:`umt_pipeline.training.objectives.ObjectiveWeights`."""

    @property
    def contrastive(self) -> float:
        """Video and caption close in the common space."""

    @property
    def matching(self) -> float:
        """Right pairs told from wrong ones."""

    @property
    def masked_language(self) -> float:
        """Hidden words read from the video."""

    @property
    def alignment(self) -> float:
        """Tokens like the teacher's."""


@dataclass(frozen=True)
class VideoTextMacs:
    """MACs of one sample's way forward, by what it is for.

    Args:
        encoders: video encoder on V tokens and text layers on L, which every objective needs.
        contrastive: pooling, and both projections into the common space.
        matching: fusion layers on three pairs, and the head. The clip's keys and values, which all passes of a sample
            share, are counted here, and the pooled vector that they are made of where there is no contrast that has it.
        masked_language: text layers and fusion layers on the corrupted caption, and the word head. Without matching, the
            keys and values are counted here.
        alignment: the heads that tokens of K layers go through.
    """

    encoders: int
    contrastive: int
    matching: int
    masked_language: int
    alignment: int

    def parts(self) -> dict[str, int]:
        """Return each part by name."""
        return asdict(self)

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts().values())

    def share(self) -> dict[str, float]:
        """Return each part's share of the total, by name."""
        return {name: macs / self.total for name, macs in self.parts().items()}


def video_text_macs(config: VideoTextConfig, visible: int, length: int, weights: Weights) -> VideoTextMacs:
    """Return the MACs of one sample's way forward in a training step.

    The way back is twice that, as :func:`umt_pipeline.models.flops.training_flops` counts it.

    Args:
        config: sizes.
        visible: V; an image, fewer frames or the unmasked phase have another number.
        length: L, padding included: padded tokens are computed too.
        weights: an objective of weight 0 costs nothing. Where only the negatives of matching want the embeddings, these
            come without a way back and are not counted. In the unmasked phase the weight of alignment is to be 0. The pooled
            vector that fusion reads is the contrast's, and counted there; a contrast by frame has none, and the pool of the
            clip is not counted then.
    """
    text, dim = config.text, config.vision.dim
    text_layers = transformer_macs(length, text.dim, text.mlp_dim, text.fusion_layer)
    pool = pool_macs(dim, visible) if config.pool == "attention" else 0
    projections = (dim + text.dim) * config.embed_dim
    fusion = fusion_macs(text, visible, length)
    clip = clip_macs(text, visible) + (pool if config.fuse_pooled and not weights.contrastive else 0)
    matching = MATCHING_PAIRS * (fusion + 2 * text.dim) + clip
    words = length * text.dim * (text.dim + text.vocab_size)
    masked_language = text_layers + fusion + words + (0 if weights.matching else clip)
    return VideoTextMacs(
        encoders=encoder_macs(config.vision, visible) + text_layers,
        contrastive=pool + projections if weights.contrastive else 0,
        matching=matching if weights.matching else 0,
        masked_language=masked_language if weights.masked_language else 0,
        alignment=config.align_layers * visible * dim * config.target_dim if weights.alignment else 0,
    )


def fusion_macs(text: TextConfig, visible: int, length: int) -> int:
    """One text through the fusion layers, the clip's keys and values given: BERT's layer, and attention to the clip."""
    layers = text.layers - text.fusion_layer
    query_and_output, attention = 2 * length * text.dim**2, 2 * length * visible * text.dim
    return transformer_macs(length, text.dim, text.mlp_dim, layers) + layers * (query_and_output + attention)


def pool_macs(dim: int, visible: int) -> int:
    """One clip through :class:`umt_pipeline.models.pooling.AttentionPool`."""
    return 2 * visible * dim**2 + 2 * visible * dim + dim**2


def clip_macs(text: TextConfig, visible: int) -> int:
    """Keys and values of one clip, projected once in each fusion layer."""
    return (text.layers - text.fusion_layer) * 2 * visible * text.vision_dim * text.dim
