"""The text tower trained on captions alone.

UMT starts its text tower from a published BERT. Where none is at hand (no network, captions in a language or a world of
their own), :class:`TextTask` makes a substitute from the training captions: masked language modelling, as BERT, and a
contrast that pulls together the captions of one clip, which are paraphrases of each other, since in stage 2 position 0
stands for the whole text. Clips with a caption in common are pulled together, too: else a text would be pushed from itself.

Shapes: B media, M captions, L text length, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.data.captions import Captions, CaptionSource
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.losses import mask_tokens, masked_language_loss, text_keys, video_text_contrastive
from umt_pipeline.models.folders import WEIGHTS_FILE
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import TextTower
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig


class TextObjectivesConfig(Config):
    """What the text tower learns.

    Attributes:
        mask_probability: share of the tokens to predict; 0.15 as in BERT.
        temperature: divisor of the cosines between captions.
    """

    mask_probability: float = Field(0.15, gt=0.0, lt=1.0)
    temperature: float = Field(0.1, gt=0.0)


class TextPretrainingConfig(TextObjectivesConfig):
    """Parameters ``stage2.text_pretraining``.

    Attributes:
        train: the loop.
    """

    train: TrainConfig

    def objectives(self) -> TextObjectivesConfig:
        """Return all but the loop."""
        return TextObjectivesConfig.model_validate(self.model_dump(exclude={"train"}))


class ParaphraseDataset(SampleDataset):
    """Two captions of each medium."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions

    def __len__(self) -> int:
        return len(self._captions.samples)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """Ids [B, 2, L], mask [B, 2, L], media, clip."""
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

    def __init__(self, tower: TextTower, config: TextObjectivesConfig, mask_id: int, kept_ids: tuple[int, ...]) -> None:
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
        alike_B3 = torch.stack((media_B, *text_keys(ids_BL, mask_BL).chunk(2)), dim=1)
        paraphrase = video_text_contrastive(one_BE, other_BE, self.temperature, alike_B3)
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
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        ids_BL, mask_BL = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("ids", "mask"))
        parts: LossParts = model(ids_BL, mask_BL, batch["media"], generator)
        return parts

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]


class TextTowerSpec(RunSpec):
    """A run of the text tower on captions alone.

    Attributes:
        text: sizes of the text encoder.
        embed_dim: E.
        objectives: what is learnt; its own loop is the run's.
        captions: what is read.
    """

    text: TextConfig
    embed_dim: int
    objectives: TextObjectivesConfig
    captions: CaptionSource

    def build(self) -> TextTask:
        captions = self.captions.open()
        tower = TextTower(self.text, self.embed_dim)
        words = captions.tokenizer
        kept = (words.pad_token_id, words.cls_token_id)
        objectives = TextObjectives(tower, self.objectives, words.mask_token_id, kept)
        return TextTask(objectives, ParaphraseDataset(captions))

    def inputs(self) -> dict[str, str]:
        return self.captions.inputs()

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        tower = {name.removeprefix("tower."): tensor for name, tensor in weights.items()}
        save_file(tower, folder / WEIGHTS_FILE)
