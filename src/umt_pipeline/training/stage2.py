"""Stage 2: video and text learn from each other, while the student stays aligned with the teacher (UMT section 3.3).

Shapes: B clips, V visible tokens, P values per patch, L text length, M captions, K aligned layers, C teacher output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.config import Config
from umt_pipeline.errors import ConfigError
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.features.provider import ClipDataset, TargetProvider
from umt_pipeline.losses import (
    alignment_loss,
    hard_negatives,
    mask_tokens,
    masked_language_loss,
    matching_loss,
    video_text_contrastive,
)
from umt_pipeline.models.student import load_student
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import VideoViT
from umt_pipeline.training.stage1 import StudentSize, Targets, open_provider
from umt_pipeline.training.task import Batch, LossParts, SampleDataset, Task, TrainConfig
from umt_pipeline.training.text import Captions, TextPretrainingConfig, media_id
from umt_pipeline.video.pixels import normalise_patches, patchify

MASKED, UNMASKED = "masked", "unmasked"


class TextSize(Config):
    """Size of the text and fusion encoder; see :class:`umt_pipeline.models.text.TextConfig`.

    ``pretrained`` names a BERT checkpoint (local folder or hub id), which then decides the vocabulary too; without it a
    WordPiece vocabulary of at most ``vocab_size`` is trained on the training captions. ``lr_scale`` multiplies the
    learning rate of the text layers and their projection, which know something already where all else is new.
    """

    dim: int
    layers: int
    fusion_layer: int
    heads: int
    mlp_dim: int
    max_length: int = Field(32, ge=3)
    max_positions: int = Field(512, ge=3)
    vocab_size: int = 30522
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    pretrained: str | None = None
    lr_scale: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_length > self.max_positions:
            raise ValueError(f"max_length {self.max_length} is above max_positions {self.max_positions}")
        return self

    def text_config(self, vocab_size: int, vision_dim: int) -> TextConfig:
        """Return the text encoder's configuration for a vocabulary and a video encoder."""
        sizes = self.model_dump(exclude={"max_length", "vocab_size", "lr_scale"})
        return TextConfig(vocab_size=vocab_size, vision_dim=vision_dim, **sizes)


class ObjectiveWeights(Config):
    """Weight of each objective; the published recipe has 1 everywhere. 0 leaves the objective out."""

    contrastive: float = Field(1.0, ge=0.0)
    matching: float = Field(1.0, ge=0.0)
    masked_language: float = Field(1.0, ge=0.0)
    alignment: float = Field(1.0, ge=0.0)


class Stage2Config(Config):
    """Parameters ``stage2``.

    Attributes:
        text: size of the text and fusion encoder.
        text_pretraining: train the text tower on the captions alone first; null where ``text.pretrained`` names a BERT, or
            to start from random weights.
        embed_dim: width of the common space of the contrastive objective.
        temperature: its initial temperature.
        pool: ``mean`` or ``attention``; see :class:`VideoTextConfig`.
        fuse_positions: see :class:`VideoTextConfig`; false in the paper.
        weights: weight of each objective.
        targets: ``cached`` or ``online``, as in stage 1.
        verify: as in stage 1.
        train: the loop.
        control: also train the same model from scratch at the same budget: what shows what stage 1 is worth.
        unmasked_epochs: the last so many epochs see every patch, as evaluation does, and are not aligned with the teacher;
            0 in the paper. Needs a store with ``pixels: frames``, or online targets.
    """

    text: TextSize
    text_pretraining: TextPretrainingConfig | None = None
    embed_dim: int
    temperature: float = 0.07
    pool: Literal["mean", "attention"] = "mean"
    fuse_positions: bool = False
    weights: ObjectiveWeights = ObjectiveWeights()
    targets: Targets = "cached"
    verify: float = Field(0.01, ge=0.0, le=1.0)
    train: TrainConfig
    control: bool = True
    unmasked_epochs: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text_pretraining is not None and self.text.pretrained is not None:
            raise ValueError(
                f"text.pretrained is {self.text.pretrained!r}, so text_pretraining must be null: the text tower starts from one"
            )
        if self.unmasked_epochs and (self.train.epochs is None or self.unmasked_epochs > self.train.epochs):
            raise ValueError(
                f"unmasked_epochs {self.unmasked_epochs} must not be more than train.epochs, which is {self.train.epochs}"
            )
        return self

    @property
    def masked_epochs(self) -> int | None:
        """The first epoch without a mask; None if there is none."""
        return int(self.train.epochs - self.unmasked_epochs) if self.train.epochs and self.unmasked_epochs else None

    def model_for(self, vision: StudentSize, header: StoreHeader, vocab_size: int) -> VideoTextConfig:
        """Return the model's configuration for a feature store and a vocabulary.

        Raises:
            ConfigError: the last epochs are to be unmasked, but the store holds visible patches only.
        """
        if self.unmasked_epochs and self.targets == "cached" and header.pixels != "frames":
            raise ConfigError(
                f"stage2.unmasked_epochs is {self.unmasked_epochs}, but the feature store holds {header.pixels} pixels: set "
                "teacher_features.pixels to frames and run teacher_features again, or set stage2.unmasked_epochs to 0"
            )
        student = vision.student_config(header)
        aligned = self.weights.alignment > 0.0
        return VideoTextConfig(
            vision=student.vision,
            text=self.text.text_config(vocab_size, student.vision.dim),
            embed_dim=self.embed_dim,
            temperature=self.temperature,
            pool=self.pool,
            fuse_positions=self.fuse_positions,
            align_layers=student.align_layers if aligned else 0,
            target_dim=student.target_dim if aligned else 0,
        )


class CaptionedDataset(SampleDataset):
    """Clips of a target provider with one of their captions, drawn by a counter hash of (clip, epoch).

    Args:
        clips: the provider's data set; clips without a caption are left out.
        captions: those of the clips.
        masked_epochs: from this epoch on the batches' phase is ``unmasked``; None: never.
    """

    def __init__(self, clips: ClipDataset, captions: Captions, masked_epochs: int | None = None) -> None:
        self._clips, self._captions = clips, captions
        self._masked_epochs = masked_epochs
        places = [place for place, clip in enumerate(clips.clip_ids) if clip in captions.rows]
        self._places = np.array(places, dtype=np.int64)
        self._media_ids = np.array([media_id(clips.clip_ids[place]) for place in places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def _text(self, index: int, epoch: int) -> dict[str, Any]:
        row = int(self._captions.draw(self._clips.clip_ids[self._places[index]], epoch, 1)[0])
        media = self._media_ids[index]
        return {"ids": self._captions.ids_ML[row], "mask": self._captions.mask_ML[row], "media": media}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """See :class:`SampleDataset`: the provider's sample, ids [L], mask [L], media, phase."""
        index, epoch = key
        sample = {**self._clips[int(self._places[index]), epoch], **self._text(index, epoch)}
        return {**sample, "phase": self._phase(epoch)}

    def _phase(self, epoch: int) -> str:
        return UNMASKED if self._masked_epochs is not None and epoch >= self._masked_epochs else MASKED

    def batch(self, indices: np.ndarray, epoch: int) -> Batch | None:
        """See :class:`SampleDataset`; None if the provider reads clips one by one."""
        batch = self._clips.batch(self._places[indices], epoch)
        if batch is None:
            return None
        texts = [self._text(int(index), epoch) for index in indices]
        return {
            **batch,
            "ids": torch.stack([text["ids"] for text in texts]),
            "mask": torch.stack([text["mask"] for text in texts]),
            "media": torch.from_numpy(self._media_ids[indices]),
            "phase": [self._phase(epoch)] * len(indices),
        }


class Objectives(nn.Module):
    """The model with all four objectives in one forward pass, so that DDP sees one call."""

    def __init__(self, model: VideoTextModel, weights: ObjectiveWeights, mask_id: int, kept_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.mask_id = mask_id
        self.kept_ids = kept_ids

    def forward(
        self,
        patches_BVP: Tensor,
        visible_BV: Tensor,
        targets_KBVC: Tensor | None,
        ids_BL: Tensor,
        mask_BL: Tensor,
        media_B: Tensor,
        generator: torch.Generator,
    ) -> LossParts:
        """Return the weighted sum of the objectives and each one by itself.

        Args:
            patches_BVP: normalised visible patches.
            visible_BV: their positions.
            targets_KBVC: the teacher's unit vectors there; None in the unmasked phase, which is not aligned.
            ids_BL: caption tokens.
            mask_BL: True at tokens.
            media_B: int64 ids, equal for samples of the same video.
            generator: for hard negatives and token masks.
        """
        model, weights = self.model, self.weights
        video = model.encode_video_aligned(patches_BVP, visible_BV, aligned=targets_KBVC is not None)
        text_BLD, text_BE = model.encode_text(ids_BL, mask_BL)
        temperature = model.temperature
        parts = {"temperature": temperature.detach()}
        total = patches_BVP.new_zeros((), dtype=torch.float32)
        if weights.contrastive:
            parts["contrastive"] = video_text_contrastive(video.embedding_BE, text_BE, temperature, media_B)
            total = total + weights.contrastive * parts["contrastive"]
        if weights.matching or weights.masked_language:
            similarity_BB = video.embedding_BE.detach() @ text_BE.detach().T / temperature.detach()
            negatives = hard_negatives(similarity_BB, media_B, generator)
            masked = mask_tokens(
                ids_BL,
                vocab_size=model.config.text.vocab_size,
                mask_id=self.mask_id,
                kept_ids=self.kept_ids,
                generator=generator,
            )
            masked_BLD = model.text.encode(masked.ids_BL, mask_BL) if weights.masked_language else None
            fused_BVD = model.fusion_tokens(video.tokens_BVD, visible_BV)
            match_M2, words = model.match_and_mlm(text_BLD, mask_BL, fused_BVD, negatives, masked_BLD)
            parts["matching"], parts["matching_skipped"] = matching_loss(match_M2, negatives.valid_B)
            total = total + weights.matching * parts["matching"]
            if words is not None:
                parts["masked_language"] = masked_language_loss(words, masked.labels_BL)
                total = total + weights.masked_language * parts["masked_language"]
        if model.heads is not None:
            if video.aligned_KBVC is not None and targets_KBVC is not None:
                parts["alignment"] = alignment_loss(video.aligned_KBVC, targets_KBVC)
            else:
                # Times zero, not left out: DDP waits for a gradient of every parameter.
                parts["alignment"] = 0.0 * torch.cat([weight.flatten() for weight in model.heads.parameters()]).sum()
            total = total + weights.alignment * parts["alignment"]
        return LossParts(total, {name: part.detach() for name, part in parts.items()})


class Stage2Task(Task):
    """Video-text model, captions and a target provider.

    Args:
        model: the model with its objectives.
        provider: where targets come from.
        dataset: clips with captions.
        text_lr_scale: factor on the learning rate of the text layers and the text projection.
    """

    def __init__(
        self, model: Objectives, provider: TargetProvider, dataset: CaptionedDataset, text_lr_scale: float = 1.0
    ) -> None:
        self.model: nn.Module = model
        self.provider = provider
        self._dataset = dataset
        self._encoder = model.model.vision
        self._text_lr_scale = text_lr_scale
        text_layers = range(model.model.config.text.fusion_layer)
        layers = [f"text.layers.{layer}." for layer in text_layers]
        self._text_names = tuple(f"model.{name}" for name in ("text.embeddings.", *layers, "text_proj."))

    def lr_scale(self, name: str) -> float:
        """See :class:`Task`."""
        return self._text_lr_scale if name.startswith(self._text_names) else 1.0

    def encoder(self) -> VideoViT:
        """See :class:`Task`."""
        return self._encoder

    def dataset(self) -> CaptionedDataset:
        """See :class:`Task`."""
        return self._dataset

    def setup(self, device: torch.device) -> None:
        """See :class:`Task`."""
        self.provider.setup(device)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """See :class:`Task`."""
        targets_KBVC: Tensor | None
        # A batch never spans two epochs, so its first sample speaks for all.
        if batch["phase"][0] == UNMASKED:
            patches_BVP = patchify(self.provider.frames(batch), self.provider.header.patch_size)
            B, V = patches_BVP.shape[:2]
            visible_BV, targets_KBVC = torch.arange(V, device=patches_BVP.device).expand(B, V), None
        else:
            target = self.provider.targets(batch)
            patches_BVP, visible_BV, targets_KBVC = target.patches_BVP, target.visible_BV, target.targets_KBVC
        parts: LossParts = model(
            normalise_patches(patches_BVP),
            visible_BV,
            targets_KBVC,
            batch["ids"],
            batch["mask"],
            batch["media"],
            generator,
        )
        return parts

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        """See :class:`Task`."""
        return batch["clip"]


def make_task(
    model: dict[str, Any],
    weights: dict[str, Any],
    student: str | None,
    text_tower: str | None,
    text_lr_scale: float,
    tokenizer: str,
    captions: str,
    max_length: int,
    masked_epochs: int | None,
    **provider: Any,
) -> Stage2Task:
    """Task factory for :class:`umt_pipeline.training.launch.RunSpec`.

    Args:
        model: a :class:`VideoTextConfig` as JSON.
        weights: :class:`ObjectiveWeights` as JSON.
        student: stage-1 model folder, or None to train the video encoder from scratch.
        text_tower: folder of a text tower trained on captions alone, or None.
        text_lr_scale: factor on the learning rate of the text layers and the text projection.
        tokenizer: folder of the tokenizer.
        captions: Parquet file of the caption table.
        max_length: L.
        masked_epochs: the first epoch without a mask; None if there is none.
        provider: arguments of :func:`umt_pipeline.training.stage1.open_provider`.
    """
    network = VideoTextModel.create(
        VideoTextConfig.model_validate(model),
        student=None if student is None else load_student(Path(student)),
        text_tower=None if text_tower is None else Path(text_tower),
    )
    words = load_tokenizer(Path(tokenizer))
    opened = open_provider(**provider)
    clips = opened.dataset()
    table = Captions(pd.read_parquet(captions), clips.clip_ids, Path(tokenizer), max_length)
    kept = (words.pad_token_id, words.cls_token_id)
    objectives = Objectives(network, ObjectiveWeights.model_validate(weights), words.mask_token_id, kept)
    return Stage2Task(objectives, opened, CaptionedDataset(clips, table, masked_epochs), text_lr_scale)
