"""Fine-tuning a video encoder for classification: the published recipe on labelled clips.

Every clip is decoded once per epoch and shown ``repeats`` times, each time augmented anew; batches are mixed (mixup,
cutmix), labels are softened, the loss is cross-entropy with soft targets.

Shapes: M clips of a micro-batch, R repeats, B = M * R views, T frames, S side of a view, N patches per frame, V = T * N,
P values per patch, C classes.

Source: the published fine-tuning code and scripts of Unmasked Teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.replacement import read_or_replace, unreadable_share
from umt_pipeline.data.samples import Batch, Sample, SampleDataset, stack_samples
from umt_pipeline.models.flops import encoder_macs, training_flops
from umt_pipeline.models.folders import load_weights, model_kind, weights_sha256
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import Positions, VideoViT, ViTConfig
from umt_pipeline.tasks.classification.model import (
    KIND,
    Classifier,
    ClassifierConfig,
    load_classes,
    load_classifier,
    remap_head,
    save_classifier,
)
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.augment import AugmentConfig, apply_augmentation, draw_augmentation
from umt_pipeline.video.pixels import normalise_frames, patchify
from umt_pipeline.video.reader import read_frames
from umt_pipeline.video.views import counter_hash


class MixConfig(Config):
    """How the clips of a batch are mixed with each other, in timm's terms; a clip's partner is its mirror in the batch.

    Attributes:
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix, whose box is the same in all frames; 0: none.
        probability: of mixing a batch at all.
        switch: probability of cutmix where both are on.
    """

    mixup: float = Field(0.8, ge=0)
    cutmix: float = Field(1.0, ge=0)
    probability: float = Field(1.0, ge=0, le=1)
    switch: float = Field(0.5, ge=0, le=1)

    @property
    def on(self) -> bool:
        """Whether batches are mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


class Recipe(Config):
    """Fine-tuning but for its loop; the defaults are the published ones.

    Attributes:
        clip: frames, their size, and how they are sampled.
        augment: what is done to a view.
        mix: mixup and cutmix.
        label_smoothing: share of a target that is spread over all classes.
        repeats: R, views of a clip in a batch (the published ``num_sample``). The effective batch, which the published
            learning rates are scaled by, is ``train.batch_size`` times this.
        drop_path: stochastic depth of the last block.
        dropout: before the head.
        init_scale: factor on the head's first weights.
        pool: how tokens become one vector.
    """

    clip: ClipConfig = ClipConfig()
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    repeats: int = Field(2, ge=1)
    drop_path: float = Field(0.1, ge=0, lt=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    init_scale: float = Field(0.001, gt=0)
    pool: Literal["mean", "attention"] = "mean"

    def model_for(self, start: ViTConfig, classes: int, interpolate: bool) -> ClassifierConfig:
        """Return the classifier's configuration for these clips.

        Args:
            start: of the encoder to start from, or whose size to copy.
            classes: C.
            interpolate: keep its position table, interpolated where the clips have another size.

        Raises:
            ConfigError: the clips' size is not a multiple of the patch size.
        """
        positions: Positions = "interpolated" if interpolate else "own"
        vision = start.for_clips(self.clip.frames, self.clip.size, drop_path=self.drop_path, positions=positions)
        rest = {"dropout": self.dropout, "init_scale": self.init_scale, "pool": self.pool}
        return ClassifierConfig.model_validate({"vision": vision, "classes": classes, **rest})


class ClassificationConfig(Recipe):
    """Fine-tuning with its loop, whose ``batch_size`` counts clips."""

    train: TrainConfig

    @model_validator(mode="after")
    def _even(self) -> ClassificationConfig:
        shares = self.train.nproc * self.train.accumulate
        if self.mix.on and self.repeats % 2 and self.train.batch_size % (2 * shares):
            raise ValueError(
                f"`mix` needs an even number of views in each micro-batch: train.batch_size {self.train.batch_size} / "
                f"(nproc x accumulate = {shares}) x repeats {self.repeats} is odd or no whole number; change one of them, or "
                "set mix.probability to 0"
            )
        return self

    def recipe(self) -> Recipe:
        """Return all but the loop: what the samples and the loss depend on."""
        return Recipe.model_validate(self.model_dump(exclude={"train"}))


def labelled_clips(videos: pd.DataFrame, labels: pd.DataFrame, task: str, split: str) -> tuple[pd.DataFrame, int]:
    """Return the videos of a split that have a label of a task, with a column ``label``, and how many have none.

    Images do not count.

    Raises:
        ConfigError: the label table has no such task, or the split no video.
    """
    tasks = sorted(labels["task"].unique())
    if task not in tasks:
        raise ConfigError(f"table labels has no task {task!r}, only {', '.join(map(repr, tasks)) or 'none at all'}")
    rows = videos[(videos["split"] == split) & (videos["media"] == "video")]
    if rows.empty:
        raise ConfigError(f"table videos has no video in split {split!r}, only in {sorted(videos['split'].unique())}")
    label_of = labels[labels["task"] == task].set_index("video_id")["label"]
    rows = rows.assign(label=rows["video_id"].map(label_of))
    known = rows["label"].notna()
    columns = ["video_id", "path", "num_frames", "height", "width", "label"]
    return rows.loc[known, columns].reset_index(drop=True), int((~known).sum())


def class_names(clips: pd.DataFrame, task: str) -> tuple[str, ...]:
    """Return the classes of labelled training clips in the head's order, which is the alphabet's.

    Raises:
        ConfigError: there are fewer than two.
    """
    classes = sorted(clips["label"].unique())
    if len(classes) < 2:
        raise ConfigError(
            f"task {task!r}: expected training clips of at least two classes, found {len(clips)} clips of "
            f"{', '.join(map(repr, classes)) or 'none'}; label more clips or leave the task out"
        )
    return tuple(classes)


class LabelledClips(SampleDataset):
    """Labelled clips, decoded and augmented: ``(index, pass)`` gives R views, whatever thread or process asks.

    Args:
        clips: table from :func:`labelled_clips`.
        classes: labels in the head's order.
        media_root: folder that the table's paths are relative to.
        config: frames, augmentation and repeats.
    """

    def __init__(self, clips: MappedTable, classes: Sequence[str], media_root: Path, config: Recipe) -> None:
        self._clips = clips
        self._numbers = {name: index for index, name in enumerate(classes)}
        self._media_root = media_root
        self._config = config

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """As :meth:`read`; a clip that cannot be read is replaced, with its label, by another."""
        return read_or_replace(self.read, *key, range(len(self)), "labelled clips")[0]

    def read(self, index: int, number: int) -> Sample:
        """Return frames uint8 [R,T,S,S,3], label, clip.

        Raises:
            VideoError: the file cannot be read or is not what the table says.
        """
        row, config = self._clips.row(index), self._config
        size = row["num_frames"], row["height"], row["width"]
        drawn = [
            draw_augmentation(config.clip, config.augment, row["video_id"], number, repeat, *size)
            for repeat in range(config.repeats)
        ]
        distinct, inverse_T = np.unique(drawn[0].view.frame_indices, return_inverse=True)
        frames_THWC = read_frames(self._media_root / row["path"], distinct.tolist())[inverse_T]
        frames_RTSSC = np.stack([apply_augmentation(frames_THWC, augmentation) for augmentation in drawn])
        return {"frames": frames_RTSSC, "label": self._numbers[row["label"]], "clip": row["video_id"]}

    def collate(self, samples: list[Sample]) -> Batch:
        """Frames uint8 [B,T,S,S,3], label int64 [B], and M clips."""
        batch = stack_samples(samples)
        batch["frames"] = batch["frames"].flatten(0, 1)
        batch["label"] = batch["label"].repeat_interleave(self._config.repeats)
        return batch


class ClassificationTask(Task):
    """A classifier and its labelled clips."""

    def __init__(self, model: Classifier, dataset: LabelledClips, config: Recipe) -> None:
        self.model: nn.Module = model
        self._encoder = model.encoder
        self._classes = model.config.classes
        self._dataset = dataset
        self._config = config

    def dataset(self) -> LabelledClips:
        return self._dataset

    def encoder(self) -> VideoViT:
        return self._encoder

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """Cross-entropy with the mixed labels.

        Raises:
            TrainingError: the batch is to be mixed and has an odd number of views.
        """
        frames_BTCSS, target_BC = self._mixed(batch, generator)
        patches_BVP = patchify(frames_BTCSS.movedim(2, -1), self._encoder.config.patch_size)
        return LossParts(F.cross_entropy(model(patches_BVP).float(), target_BC), unreadable_share(batch))

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]

    def flops_per_clip(self, batch: Batch) -> float:
        """All repeats of a clip."""
        del batch
        vision = self._encoder.config
        macs = encoder_macs(vision, vision.frames * vision.patches_per_frame) + vision.dim * self._classes
        return float(self._config.repeats * training_flops(macs))

    def _mixed(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return normalised frames [B,T,3,S,S] and soft targets [B,C]."""
        # Imported where it is needed: timm and torchvision bring torch's compiler, which takes two seconds.
        from timm.data.mixup import Mixup, mixup_target

        frames_BTCSS = normalise_frames(batch["frames"])
        config, smoothing = self._config.mix, self._config.label_smoothing
        if not config.on:
            return frames_BTCSS, mixup_target(batch["label"], self._classes, 1.0, smoothing)
        if len(frames_BTCSS) % 2:
            raise TrainingError(
                f"mixup and cutmix pair the views of a batch, found {len(frames_BTCSS)} in one (are there fewer training "
                "clips than `train.batch_size`?); make it even, or set `mix.probability: 0`"
            )
        mix = Mixup(
            config.mixup,
            config.cutmix,
            prob=config.probability,
            switch_prob=config.switch,
            label_smoothing=smoothing,
            num_classes=self._classes,
        )
        # The generator's seed tells step and rank, the first clip tells the micro-batch; neither waits for the device.
        with _numpy_seeded(counter_hash("mix", generator.initial_seed(), batch["clip"][0])):
            # timm wants images: time becomes channels, so that box and share are the same for all frames of a clip.
            mixed, target_BC = mix(frames_BTCSS.flatten(1, 2), batch["label"])
        return mixed.unflatten(1, frames_BTCSS.shape[1:3]), target_BC


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Give timm's mixup, which draws from NumPy's global state, a state of its own, and put the old one back."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def start_classifier(
    config: ClassifierConfig, start: Path | None, classes: Sequence[str], head_map: dict[str, str] | None
) -> Classifier:
    """Make the classifier that training begins with.

    Args:
        config: its sizes.
        start: a model folder of any kind that holds a video encoder of the same sizes, or None: from scratch.
        classes: labels in the head's order.
        head_map: None for a fresh head. Else ``start`` is a classifier whose head (and norm before it) is taken over by
            labels: new label -> its label; labels that the map does not name are called the same there.

    Raises:
        CheckpointError: ``start`` does not fit.
        ConfigError: ``head_map`` names labels that are not there, or ``start`` is no classifier.
    """
    if head_map is None:
        encoder, pool = (None, None) if start is None else load_vision(start)
        return Classifier.create(config, encoder, pool)
    if start is None or model_kind(start) != KIND:
        raise ConfigError(f"head_map takes over a classifier's head, but training starts from {start or 'scratch'}")
    surplus = sorted(set(head_map) - set(classes))
    if surplus:
        raise ConfigError(f"head_map names labels that no training clip has: {', '.join(map(repr, surplus[:8]))}")
    known = remap_head(load_classifier(start), load_classes(start), {name: head_map.get(name, name) for name in classes})
    model = Classifier(config)
    load_weights(model, known.state_dict(), source=str(start))
    return model


class ClassificationSpec(RunSpec):
    """A run of fine-tuning.

    Attributes:
        model: sizes of the classifier.
        start: see :func:`start_classifier`, as ``head_map``.
        classes: labels in the head's order.
        recipe: frames, augmentation, mixing.
        clips: mapped table from :func:`labelled_clips`.
        media_root: folder of the video files.
    """

    model: ClassifierConfig
    start: Path | None
    classes: tuple[str, ...]
    head_map: dict[str, str] | None = None
    recipe: Recipe
    clips: Path
    media_root: Path

    def build(self) -> ClassificationTask:
        classifier = start_classifier(self.model, self.start, self.classes, self.head_map)
        dataset = LabelledClips(MappedTable(self.clips), self.classes, self.media_root, self.recipe)
        return ClassificationTask(classifier, dataset, self.recipe)

    def inputs(self) -> dict[str, str]:
        return {"clips": sha256_file(self.clips), "start": "" if self.start is None else weights_sha256(self.start)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        classifier = Classifier(self.model)
        load_weights(classifier, weights, source="trained classifier")
        save_classifier(folder, classifier, self.classes, {**facts, "inputs": self.inputs()})
