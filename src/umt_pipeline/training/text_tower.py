"""The text tower trained on captions alone.

UMT starts its text tower from a published BERT. Where none is at hand (no network, captions in a language or a world of
their own), :class:`TextTask` makes a substitute from the training captions: masked language modelling, as BERT, and a
contrast that pulls together the captions of one clip, which are paraphrases of each other, since in stage 2 position 0
stands for the whole text.

Shapes: B media, M captions, L text length, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.data.captions import Captions
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.losses import mask_tokens, masked_language_loss, video_text_contrastive
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import TextTower
from umt_pipeline.training.task import LossParts, Task, TrainConfig


class TextPretrainingConfig(Config):
    """Parameters ``stage2.text_pretraining``.

    Attributes:
        mask_probability: share of the tokens to predict; 0.15 as in BERT.
        temperature: divisor of the cosines between captions.
        train: the loop.
    """

    mask_probability: float = Field(0.15, gt=0.0, lt=1.0)
    temperature: float = Field(0.1, gt=0.0)
    train: TrainConfig


class ParaphraseDataset(SampleDataset):
    """Two captions of each medium."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions.samples)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """See :class:`SampleDataset`: ids [B, 2, L], mask [B, 2, L], media, clip."""
        keys = zip(indices_B.tolist(), passes_B.tolist(), strict=True)
        rows_M = np.concatenate([self._captions.draw(index, number, 2) for index, number in keys])
        ids_ML, mask_ML = self._captions.encode(rows_M)
        samples = self._captions.samples
        return {
            "ids": ids_ML.unflatten(0, (-1, 2)),
            "mask": mask_ML.unflatten(0, (-1, 2)),
            "media": samples.numbers("media_id")[indices_B],
            "clip": samples.texts("video_id", indices_B),
        }


class TextObjectives(nn.Module):
    """The text tower with both objectives in one forward pass."""

    def __init__(self, tower: TextTower, config: TextPretrainingConfig, mask_id: int, kept_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.tower = tower
        self.mask_probability, self.temperature = config.mask_probability, config.temperature
        self.mask_id, self.kept_ids = mask_id, kept_ids

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, media_B: Tensor, generator: torch.Generator) -> LossParts:
        """Return the sum of both objectives and each one by itself.

        Args:
            ids_BL: caption tokens; the second half of the batch holds paraphrases of the first half.
            mask_BL: True at tokens.
            media_B: ids of the media of one half.
            generator: for token masks.
        """
        text = self.tower.text
        masked = mask_tokens(
            ids_BL,
            vocab_size=text.config.vocab_size,
            mask_id=self.mask_id,
            kept_ids=self.kept_ids,
            generator=generator,
            probability=self.mask_probability,
        )
        text_BLD, all_BLD = text.read(masked.ids_BL, mask_BL)
        one_BE, other_BE = self.tower.project(text_BLD).chunk(2)
        words = masked_language_loss(text.mlm_logits(all_BLD), masked.labels_BL)
        paraphrase = video_text_contrastive(one_BE, other_BE, self.temperature, media_B)
        parts = {"masked_language": words.detach(), "paraphrase": paraphrase.detach()}
        return LossParts(words + paraphrase, parts)


class TextTask(Task):
    """Text tower and captions."""

    equal_shares = True

    def __init__(self, model: TextObjectives, dataset: ParaphraseDataset) -> None:
        # Cross-attention has nothing to look at yet, so it must stay out of optimiser and DDP.
        for name, parameter in model.named_parameters():
            if ".crossattention." in name:
                parameter.requires_grad_(False)
        self.model: nn.Module = model
        self._dataset = dataset

    def dataset(self) -> ParaphraseDataset:
        """See :class:`Task`."""
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """See :class:`Task`."""
        ids_BL, mask_BL = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("ids", "mask"))
        parts: LossParts = model(ids_BL, mask_BL, batch["media"], generator)
        return parts

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        """See :class:`Task`."""
        return batch["clip"]


def make_task(
    text: dict[str, Any],
    embed_dim: int,
    objectives: dict[str, Any],
    tokenizer: str,
    samples: str,
    captions: str,
    max_length: int,
    clean_captions: bool,
) -> TextTask:
    """Task factory for :class:`umt_pipeline.training.launch.RunSpec`.

    Args:
        text: a :class:`TextConfig` as JSON.
        embed_dim: E.
        objectives: a :class:`TextPretrainingConfig` as JSON.
        tokenizer: folder of the tokenizer.
        samples: file of the samples, from :func:`umt_pipeline.data.captions.captioned_media`.
        captions: file of their captions.
        max_length: L.
        clean_captions: whether captions are cleaned.
    """
    found = Captions(Path(samples), Path(captions), Path(tokenizer), max_length, clean_captions)
    found.warn_of_cuts()
    tower = TextTower(TextConfig.model_validate(text), embed_dim)
    words = found.tokenizer
    kept = (words.pad_token_id, words.cls_token_id)
    config = TextPretrainingConfig.model_validate(objectives)
    return TextTask(TextObjectives(tower, config, words.mask_token_id, kept), ParaphraseDataset(found))
