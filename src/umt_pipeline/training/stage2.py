"""Stage 2: video and text learn from each other, while the student stays aligned with the teacher (UMT section 3.3).

Shapes: B clips, V visible tokens, P values per patch, L text length, M captions, K aligned layers, C teacher output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

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
from umt_pipeline.models.student import Student
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import clean_caption, encode_batch, load_tokenizer
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.training.stage1 import StudentSize, Targets, open_provider
from umt_pipeline.training.task import Batch, LossParts, SampleDataset, Task, TrainConfig
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import counter_generator, counter_hash

MASKED, UNMASKED = "masked", "unmasked"


class TextSize(Config):
    """Size of the text and fusion encoder; see :class:`umt_pipeline.models.text.TextConfig`.

    ``pretrained`` names a BERT checkpoint (local folder or hub id), which then decides the vocabulary too; without it a
    WordPiece vocabulary of at most ``vocab_size`` is trained on the training captions.
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_length > self.max_positions:
            raise ValueError(f"max_length {self.max_length} is above max_positions {self.max_positions}")
        return self

    def text_config(self, vocab_size: int, vision_dim: int) -> TextConfig:
        """Return the text encoder's configuration for a vocabulary and a video encoder."""
        sizes = self.model_dump(exclude={"max_length", "vocab_size"})
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
        embed_dim: width of the common space of the contrastive objective.
        temperature: its initial temperature.
        weights: weight of each objective.
        targets: ``cached`` or ``online``, as in stage 1.
        train: the loop.
        control: also train the same model from scratch at the same budget: what shows what stage 1 is worth.
        unmasked_epochs: the last so many epochs see every patch, as evaluation does, and are not aligned with the teacher;
            0 in the paper. Needs a store with ``pixels: frames``, or online targets.
    """

    text: TextSize
    embed_dim: int
    temperature: float = 0.07
    weights: ObjectiveWeights = ObjectiveWeights()
    targets: Targets = "cached"
    train: TrainConfig
    control: bool = True
    unmasked_epochs: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
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
            align_layers=student.align_layers if aligned else 0,
            target_dim=student.target_dim if aligned else 0,
        )


class CaptionedDataset(SampleDataset):
    """Clips of a target provider with one of their captions, drawn by a counter hash of (clip, epoch).

    Args:
        clips: the provider's data set; clips without a caption are left out.
        caption_clips: the clip of each caption.
        ids_ML: token ids of each caption.
        mask_ML: True at tokens.
        masked_epochs: from this epoch on the batches' phase is ``unmasked``; None: never.

    Raises:
        ConfigError: no clip has a caption.
    """

    def __init__(
        self,
        clips: ClipDataset,
        caption_clips: Sequence[str],
        ids_ML: Tensor,
        mask_ML: Tensor,
        masked_epochs: int | None = None,
    ) -> None:
        self._clips = clips
        self._masked_epochs = masked_epochs
        rows: dict[str, list[int]] = {}
        for row, clip in enumerate(caption_clips):
            rows.setdefault(clip, []).append(row)
        self._places = np.array([place for place, clip in enumerate(clips.clip_ids) if clip in rows], dtype=np.int64)
        if not len(self._places):
            raise ConfigError("stage2: none of the training clips has a caption; check table captions")
        self._rows = [rows[clips.clip_ids[place]] for place in self._places]
        self._ids_ML, self._mask_ML = ids_ML, mask_ML
        self._media_ids = np.array([counter_hash(clips.clip_ids[place]) >> 1 for place in self._places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def _text(self, index: int, epoch: int) -> dict[str, Any]:
        rows, clip = self._rows[index], self._clips.clip_ids[self._places[index]]
        row = rows[int(counter_generator("caption", clip, epoch).integers(len(rows)))]
        return {"ids": self._ids_ML[row], "mask": self._mask_ML[row], "media": self._media_ids[index]}

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
        video = model.encode_video_aligned(patches_BVP, visible_BV)
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
            match_M2, words = model.match_and_mlm(text_BLD, mask_BL, video.tokens_BVD, negatives, masked_BLD)
            parts["matching"], parts["matching_skipped"] = matching_loss(match_M2, negatives.valid_B)
            total = total + weights.matching * parts["matching"]
            if words is not None:
                parts["masked_language"] = masked_language_loss(words, masked.labels_BL)
                total = total + weights.masked_language * parts["masked_language"]
        if video.aligned_KBVC is not None:
            # Times zero, not left out: DDP waits for a gradient of every parameter.
            unaligned = 0.0 * video.aligned_KBVC.sum()
            parts["alignment"] = unaligned if targets_KBVC is None else alignment_loss(video.aligned_KBVC, targets_KBVC)
            total = total + weights.alignment * parts["alignment"]
        return LossParts(total, {name: part.detach() for name, part in parts.items()})


class Stage2Task(Task):
    """Video-text model, captions and a target provider."""

    def __init__(self, model: Objectives, provider: TargetProvider, dataset: CaptionedDataset) -> None:
        self.model: nn.Module = model
        self.provider = provider
        self._dataset = dataset

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


def usable_captions(captions: pd.DataFrame, clip_ids: Sequence[str]) -> pd.DataFrame:
    """Return the captions of the given clips that are not empty after cleaning, in order of video and caption id."""
    kept = captions[captions["video_id"].isin(set(clip_ids))]
    kept = kept[kept["caption"].map(lambda text: bool(clean_caption(text)))]
    return kept.sort_values(["video_id", "caption_id"], ignore_index=True)


def make_task(
    model: dict[str, Any],
    weights: dict[str, Any],
    student: str | None,
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
        student: stage-1 model folder, or None to train from scratch.
        tokenizer: folder of the tokenizer.
        captions: Parquet file of the caption table.
        max_length: L.
        masked_epochs: the first epoch without a mask; None if there is none.
        provider: arguments of :func:`umt_pipeline.training.stage1.open_provider`.
    """
    from umt_pipeline.models.student import load_student

    config = VideoTextConfig.model_validate(model)
    network = build_model(config, load_student(Path(student)) if student is not None else None)
    words = load_tokenizer(Path(tokenizer))
    opened = open_provider(**provider)
    clips = opened.dataset()
    table = usable_captions(pd.read_parquet(captions), clips.clip_ids)
    ids_ML, mask_ML = encode_batch(words, table["caption"].tolist(), max_length)
    dataset = CaptionedDataset(clips, table["video_id"].tolist(), ids_ML, mask_ML, masked_epochs)
    kept = (words.pad_token_id, words.cls_token_id)
    objectives = Objectives(network, ObjectiveWeights.model_validate(weights), words.mask_token_id, kept)
    return Stage2Task(objectives, opened, dataset)


def build_model(config: VideoTextConfig, student: Student | None) -> VideoTextModel:
    """Make the model that stage 2 starts from: around a stage-1 student, or from scratch (the control)."""
    return VideoTextModel.create(config) if student is None else VideoTextModel.from_student(student, config)
