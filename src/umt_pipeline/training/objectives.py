"""The objectives of stage 2 in one forward pass: contrast, matching, masked language, alignment (UMT section 3.3).

Shapes: B clips or images, V visible tokens, P values per patch, L text length, K aligned layers, C teacher output width, M = 3B
matching pairs, S vocabulary size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.losses import (
    HardNegatives,
    alignment_loss,
    hard_negatives,
    mask_tokens,
    masked_language_loss,
    matching_loss,
    pair_logits,
    text_keys,
    video_text_contrastive,
)
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.training.task import LossParts


class ObjectiveWeights(Config):
    """Weight of each objective; the published recipe has 1 everywhere. 0 leaves the objective out, and what only it trains.

    Without contrastive there are no embeddings to tell hard negatives by: matching then draws them uniformly.

    On the authors' GPUs the contrastive gradient was 16 (UMT-B) or 32 (UMT-L) times smaller than its weight says, see
    :func:`umt_pipeline.losses.video_text_contrastive`: a weight of 1/16 or 1/32 gives the same on any number of processes.
    """

    contrastive: float = Field(1.0, ge=0.0)
    matching: float = Field(1.0, ge=0.0)
    masked_language: float = Field(1.0, ge=0.0)
    alignment: float = Field(1.0, ge=0.0)


class Texts(NamedTuple):
    """The captions of a batch.

    Attributes:
        ids_BL: tokens.
        mask_BL: True at tokens.
        media_B: int64 ids of what they describe, equal for samples of the same medium.
    """

    ids_BL: Tensor
    mask_BL: Tensor
    media_B: Tensor


class Objectives(nn.Module):
    """The model with all objectives in one forward pass, so that DDP sees one call.

    What no objective trains is frozen: DDP waits for a gradient of every parameter that is not.

    Args:
        model: the model.
        weights: of the objectives.
        mask_id: id of [MASK].
        kept_ids: ids of tokens that are never masked.
        parity: as published: the contrastive gradient (see :func:`umt_pipeline.losses.video_text_contrastive`), and that only
            samples of the same medium are alike. Else those of the same text are, too: neither is a negative of the other.
        pool: what of a clip a caption is compared with: one embedding of the whole ``clip``, or that of each ``frame``.
    """

    def __init__(
        self,
        model: VideoTextModel,
        weights: ObjectiveWeights,
        mask_id: int,
        kept_ids: tuple[int, ...],
        parity: bool = False,
        pool: Literal["clip", "frame"] = "clip",
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.mask_id = mask_id
        self.kept_ids = kept_ids
        self.parity = parity
        self.pool = pool
        _freeze_untrained(model, weights)

    def forward(
        self,
        patches_BVP: Tensor,
        visible_BV: Tensor,
        targets_KBVC: Tensor | None,
        texts: Texts,
        generator: torch.Generator,
        clip_size: tuple[int, int] | None = None,
    ) -> LossParts:
        """Return the weighted sum of the objectives and each one by itself.

        Args:
            patches_BVP: normalised visible patches.
            visible_BV: their positions.
            targets_KBVC: the teacher's unit vectors there; None in the unmasked phase, which is not aligned.
            texts: the captions.
            generator: for hard negatives and token masks.
            clip_size: see :meth:`VideoViT.positions`.
        """
        model, weights = self.model, self.weights
        model.clamp_temperature_()
        video = model.encode_video_aligned(patches_BVP, visible_BV, targets_KBVC is not None, clip_size, self.pool)
        text_BLD, text_BE = model.encode_text(texts.ids_BL, texts.mask_BL)
        parts = {"temperature": model.temperature.detach()}
        total = patches_BVP.new_zeros((), dtype=torch.float32)
        ids_BN = self._sample_ids(texts)
        if weights.contrastive:
            parts["contrastive"] = video_text_contrastive(
                video.embedding_BE, text_BE, model.temperature, ids_BN, parity=self.parity
            )
            total = total + weights.contrastive * parts["contrastive"]
        if weights.matching or weights.masked_language:
            video_BVD = model.fusion_tokens(video.tokens_BVD, visible_BV, clip_size, video.pooled_BD)
            similarity_BB = pair_logits(video.embedding_BE, text_BE, parts["temperature"])
            if not weights.contrastive:
                # Nothing trains the embeddings, so they cannot tell which pairs are hard: any is as likely.
                similarity_BB = torch.zeros_like(similarity_BB)
            negatives = hard_negatives(similarity_BB, ids_BN, generator) if weights.matching else None
            parts |= self._fused(video_BVD, text_BLD, negatives, texts, generator)
            total = total + sum(
                weight * parts[name]
                for name, weight in (("matching", weights.matching), ("masked_language", weights.masked_language))
                if weight
            )
        if model.heads is not None:
            if video.aligned_KBVC is not None and targets_KBVC is not None:
                parts["alignment"] = alignment_loss(video.aligned_KBVC, targets_KBVC)
            else:
                # Times zero, not left out: DDP waits for a gradient of every parameter.
                parts["alignment"] = 0.0 * torch.cat([weight.flatten() for weight in model.heads.parameters()]).sum()
            total = total + weights.alignment * parts["alignment"]
        return LossParts(total, {name: part.detach() for name, part in parts.items()})

    def _sample_ids(self, texts: Texts) -> Tensor:
        """The ids by which samples are alike, see :mod:`umt_pipeline.losses`; of the texts before any token is masked."""
        if self.parity:
            return texts.media_B
        return torch.stack((texts.media_B, text_keys(texts.ids_BL, texts.mask_BL)), dim=1)

    def _fused(
        self, video_BVD: Tensor, text_BLD: Tensor, negatives: HardNegatives | None, texts: Texts, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The objectives of the fusion layers, in one pass through them."""
        model, weights = self.model, self.weights
        masked, masked_BLD = None, None
        if weights.masked_language:
            masked = mask_tokens(
                texts.ids_BL,
                vocab_size=model.config.text.vocab_size,
                mask_id=self.mask_id,
                kept_ids=self.kept_ids,
                generator=generator,
            )
            masked_BLD = model.text.encode(masked.ids_BL, texts.mask_BL)
        match_M2, words_BLS = model.match_and_mlm(text_BLD, texts.mask_BL, video_BVD, negatives, masked_BLD)
        parts: dict[str, Tensor] = {}
        if negatives is not None and match_M2 is not None:
            parts["matching"], parts["matching_skipped"] = matching_loss(match_M2, negatives.valid_B)
        if masked is not None and words_BLS is not None:
            parts["masked_language"] = masked_language_loss(words_BLS, masked.labels_BL)
        return parts


def _freeze_untrained(model: VideoTextModel, weights: ObjectiveWeights) -> None:
    text, fused = model.text, weights.matching or weights.masked_language
    unused: list[nn.Module | nn.Parameter | None] = []
    if not weights.contrastive:
        unused += [model.vision_proj, model.text_proj, model.temp]
    if not weights.contrastive and not (fused and model.config.fuse_pooled):
        unused += [model.pool_norm, model.attention_pool]
    if not weights.matching:
        unused.append(model.match_head)
    if not weights.masked_language:
        unused += [text.mlm_transform, text.mlm_bias]
    if not fused:
        unused += text.layers[model.config.text.fusion_layer :]
    if not fused and not weights.contrastive:
        unused.append(text)
    for part in unused:
        if part is not None:
            part.requires_grad_(False)
