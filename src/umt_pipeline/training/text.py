"""Captions as training data, and the text tower trained on captions alone.

UMT starts its text tower from a published BERT. Where none is at hand (no network, captions in a language or a world of
their own), :class:`TextTask` makes a substitute from the training captions: masked language modelling, as BERT, and a
contrast that pulls together the captions of one clip, which are paraphrases of each other, since in stage 2 position 0
stands for the whole text.

Shapes: B clips, M captions, L text length, E embedding width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.config import Config
from umt_pipeline.errors import ConfigError
from umt_pipeline.losses import mask_tokens, masked_language_loss, video_text_contrastive
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import clean_caption, encode_batch, load_tokenizer
from umt_pipeline.models.video_text import TextTower
from umt_pipeline.training.task import Batch, LossParts, SampleDataset, Task, TrainConfig
from umt_pipeline.video.views import counter_generator, counter_hash

logger = logging.getLogger(__name__)


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


class Captions:
    """The usable captions of some clips as token ids.

    Args:
        table: columns caption_id, video_id, caption.
        clip_ids: whose captions; a clip without a usable one is left out.
        tokenizer: folder of the tokenizer.
        max_length: longest text; the ids are padded to the longest caption that there is.

    Raises:
        ConfigError: no clip has a caption.
    """

    def __init__(self, table: pd.DataFrame, clip_ids: Sequence[str], tokenizer: Path, max_length: int) -> None:
        kept = usable_captions(table, clip_ids)
        if kept.empty:
            raise ConfigError("stage2: none of the training clips has a caption; check table captions")
        ids_ML, mask_ML = encode_batch(load_tokenizer(tokenizer), kept["caption"].tolist(), max_length)
        lengths_M = mask_ML.sum(dim=1)
        longest = int(lengths_M.max())
        if full := int((lengths_M == max_length).sum()):
            message = "stage2: %d of %d captions fill text.max_length (%d tokens), longer ones are cut: raise it or vocab_size"
            logger.warning(message, full, len(kept), max_length)
        self.ids_ML, self.mask_ML = ids_ML[:, :longest], mask_ML[:, :longest]
        self.rows = {str(clip): np.asarray(rows) for clip, rows in kept.groupby("video_id").indices.items()}
        self.clip_ids = tuple(clip for clip in clip_ids if clip in self.rows)

    def draw(self, clip: str, epoch: int, count: int) -> np.ndarray:
        """Return ``count`` rows of a clip's captions, different ones if it has so many, by a hash of (clip, epoch)."""
        rows = self.rows[clip]
        return counter_generator("caption", clip, epoch).permutation(np.resize(rows, max(count, len(rows))))[:count]


def media_id(clip: str) -> int:
    """Return the number that says that two samples show the same clip."""
    return counter_hash(clip) >> 1


def usable_captions(captions: pd.DataFrame, clip_ids: Sequence[str]) -> pd.DataFrame:
    """Return the captions of the given clips that are not empty after cleaning, in order of video and caption id."""
    kept = captions[captions["video_id"].isin(set(clip_ids))]
    kept = kept[kept["caption"].map(lambda text: bool(clean_caption(text)))]
    return kept.sort_values(["video_id", "caption_id"], ignore_index=True)


class ParaphraseDataset(SampleDataset):
    """Two captions of each clip."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions.clip_ids)

    def batch(self, indices: np.ndarray, epoch: int) -> Batch:
        """See :class:`SampleDataset`: ids [B, 2, L], mask [B, 2, L], media, clip."""
        clips = [self._captions.clip_ids[index] for index in indices]
        rows_B2 = torch.from_numpy(np.stack([self._captions.draw(clip, epoch, 2) for clip in clips]))
        media_B = torch.tensor([media_id(clip) for clip in clips])
        return {
            "ids": self._captions.ids_ML[rows_B2],
            "mask": self._captions.mask_ML[rows_B2],
            "media": media_B,
            "clip": clips,
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
            media_B: ids of the clips of one half.
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
    captions: str,
    clips: list[str],
    max_length: int,
) -> TextTask:
    """Task factory for :class:`umt_pipeline.training.launch.RunSpec`.

    Args:
        text: a :class:`TextConfig` as JSON.
        embed_dim: E.
        objectives: a :class:`TextPretrainingConfig` as JSON.
        tokenizer: folder of the tokenizer.
        captions: Parquet file of the caption table.
        clips: whose captions.
        max_length: L.
    """
    words = load_tokenizer(Path(tokenizer))
    dataset = ParaphraseDataset(Captions(pd.read_parquet(captions), clips, Path(tokenizer), max_length))
    tower = TextTower(TextConfig.model_validate(text), embed_dim)
    kept = (words.pad_token_id, words.cls_token_id)
    config = TextPretrainingConfig.model_validate(objectives)
    return TextTask(TextObjectives(tower, config, words.mask_token_id, kept), dataset)
