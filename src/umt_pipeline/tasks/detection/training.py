"""Fine-tuning a video encoder for action detection: what does each person do at a key frame?

A sample is a key frame: the frames around it, the boxes of its people, the actions of each. Actions do not exclude each other,
so each has a binary cross-entropy of its own.

Shapes: B key frames, T frames, S side of a view, M boxes, V tokens, P values per patch, C actions.

Source: the published action detection code and scripts of Unmasked Teacher for AVA: T frames ``stride`` apart, annotated boxes
only (``detected`` adds a person detector's, as others do).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.replacement import read_or_replace, unreadable_share
from umt_pipeline.data.samples import Batch, Sample, SampleDataset, stack_samples
from umt_pipeline.models.flops import encoder_macs, training_flops
from umt_pipeline.models.folders import load_weights, weights_sha256
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import Positions, VideoViT, ViTConfig
from umt_pipeline.tasks.detection.boxes import BOX, FRAME, best_overlaps
from umt_pipeline.tasks.detection.model import Detector, DetectorConfig, save_detector
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.box_views import BoxAugment, KeyFrameClip, apply_box_view, draw_box_view
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.reader import read_frames

_PERSON = [*FRAME, *BOX, "person"]


class DetectedBoxes(Config):
    """Which of a person detector's boxes are trained on too, with the actions of the person whom they show.

    Attributes:
        score: lowest one.
        iou: lowest overlap with an annotated box.
    """

    score: float = Field(0.9, ge=0, le=1)
    iou: float = Field(0.75, gt=0, le=1)


class DetectionRecipe(Config):
    """Fine-tuning but for its loop; the defaults are the published ones of UMT-B.

    Attributes:
        clip: frames and sizes.
        augment: what is done to a view and its boxes.
        detected: which detected boxes are trained on; None: annotated ones only, as published.
        drop_path: stochastic depth of the last block.
        start_s: where in the film the media files begin, in seconds: 900 if AVA's were cut to what is annotated.
        pool: what the head reads of a box (:class:`umt_pipeline.tasks.detection.model.DetectorConfig`).
    """

    clip: KeyFrameClip = KeyFrameClip()
    augment: BoxAugment = BoxAugment()
    detected: DetectedBoxes | None = None
    drop_path: float = Field(0.2, ge=0, lt=1)
    start_s: float = Field(0.0, ge=0)
    pool: Literal["mean", "attention"] = "mean"

    def model_for(self, start: ViTConfig, classes: int, interpolate: bool) -> DetectorConfig:
        """Return the detector's configuration for these clips.

        Args:
            start: of the encoder to start from, or whose size to copy.
            classes: C.
            interpolate: keep its position table, interpolated where the clips have another size.

        Raises:
            ConfigError: the clips' size is not a multiple of the patch size.
        """
        positions: Positions = "interpolated" if interpolate else "own"
        vision = start.for_clips(self.clip.frames, self.clip.size, drop_path=self.drop_path, positions=positions)
        return DetectorConfig(vision=vision, classes=classes, pool=self.pool)


class DetectionConfig(DetectionRecipe):
    """Fine-tuning with its loop, whose ``batch_size`` counts key frames."""

    train: TrainConfig

    def recipe(self) -> DetectionRecipe:
        """Return all but the loop: what the samples and the loss depend on."""
        return DetectionRecipe.model_validate(self.model_dump(exclude={"train"}))


def key_frames(videos: pd.DataFrame, boxes: pd.DataFrame, split: str, recipe: DetectionRecipe) -> pd.DataFrame:
    """Return a row per key frame of a split that has annotated boxes.

    Args:
        videos: the clean video table.
        boxes: a table ``RawBoxes``, whose ``video`` is the video table's ``path``.
        split: the split.
        recipe: where the files begin, and which detected boxes are taken.

    Returns:
        Columns video_id, path, num_frames, height, width, key (number of the key frame in its file), timestamp_s, boxes (M
        lists of 4 numbers) and labels (M lists of actions, each maybe empty).

    Raises:
        ConfigError: the split has no annotated box.
        TableError: a key frame lies outside its file.
    """
    rows = videos[(videos["split"] == split) & (videos["media"] == "video")].set_index("path")
    own = boxes[boxes["video"].isin(rows.index)]
    people = _people(own[own["source"] == "annotated"])
    if people.empty:
        raise ConfigError(
            f"table boxes: expected annotated boxes of videos of split {split!r}, found none among {len(boxes)} rows; is "
            f"`video` the path in the media folder? The first video of the split is {next(iter(rows.index), None)!r}"
        )
    if recipe.detected is not None:
        found = _detected(own[own["source"] == "detected"], people, recipe.detected)
        people = pd.concat([people, found], ignore_index=True)
    people = people.assign(boxes=pd.Series(people[BOX].to_numpy(np.float64).tolist(), index=people.index))
    frames = people.groupby(FRAME)[["boxes", "labels"]].agg(list).reset_index()
    return locate(frames, rows, recipe.start_s)


def key_numbers(timestamp_s: pd.Series, fps: pd.Series, start_s: float) -> pd.Series:
    """Return the numbers of key frames in files that begin at ``start_s`` of the film; outside a file they are too."""
    return ((timestamp_s - start_s) * fps).round().astype(np.int64)


def locate(frames: pd.DataFrame, videos: pd.DataFrame, start_s: float) -> pd.DataFrame:
    """Find key frames in their files.

    Args:
        frames: columns video and timestamp_s, and any others.
        videos: rows of the clean video table, by ``path``, which is what ``video`` names.
        start_s: where in the film the files begin.

    Returns:
        video_id, path, num_frames, height, width, key (number of the key frame in its file), timestamp_s and the other columns.

    Raises:
        TableError: a key frame lies outside its file.
    """
    found = frames.join(videos[["video_id", "num_frames", "height", "width", "fps"]], on="video")
    found["key"] = key_numbers(found["timestamp_s"], found["fps"], start_s)
    outside = found[(found["key"] < 0) | (found["key"] >= found["num_frames"])]
    if len(outside):
        row = outside.iloc[0]
        raise TableError(
            f"table boxes: {len(outside)} of {len(found)} key frames lie outside their files: {row['timestamp_s']} s of "
            f"{row['video']!r} would be frame {row['key']} of {row['num_frames']}, if the file begins at start_s "
            f"{start_s} s of the film. Set start_s, or leave these boxes out"
        )
    others = [column for column in frames.columns if column not in FRAME]
    columns = ["video_id", "path", "num_frames", "height", "width", "key", "timestamp_s", *others]
    return found.rename(columns={"video": "path"})[columns]


def action_names(frames: pd.DataFrame) -> tuple[str, ...]:
    """Return the actions of training key frames in the head's order, which is the alphabet's.

    Raises:
        ConfigError: there is none.
    """
    names = sorted({label for people in frames["labels"] for labels in people for label in labels})
    if not names:
        raise ConfigError(f"table boxes: expected at least one action in {len(frames)} training key frames, found none")
    return tuple(names)


class KeyFrames(SampleDataset):
    """Key frames, decoded and augmented: ``(index, pass)`` gives one view, whatever thread or process asks.

    Args:
        frames: table from :func:`key_frames`.
        classes: actions in the head's order.
        media_root: folder that the table's paths are relative to.
        config: frames and augmentation.
    """

    def __init__(self, frames: MappedTable, classes: Sequence[str], media_root: Path, config: DetectionRecipe) -> None:
        self._frames = frames
        self._numbers = {name: index for index, name in enumerate(classes)}
        self._media_root = media_root
        self._config = config

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """As :meth:`read`; a key frame that cannot be read is replaced, boxes and all."""
        return read_or_replace(self.read, *key, range(len(self)), "key frames")[0]

    def read(self, index: int, number: int) -> Sample:
        """Return frames uint8 [T,S,S,3], boxes float32 [M,4], labels bool [M,C] and clip; M may be 0 after the crop.

        Raises:
            VideoError: the file cannot be read or is not what the table says.
        """
        row, config = self._frames.row(index), self._config
        boxes_M4 = np.array(row["boxes"], dtype=np.float64).reshape(-1, 4)
        name = (row["video_id"], row["key"], number)
        size = (row["key"], row["num_frames"], row["height"], row["width"])
        shown = draw_box_view(config.clip, config.augment, name, boxes_M4, *size)
        distinct, inverse_T = np.unique(shown.view.frame_indices, return_inverse=True)
        frames_THWC = read_frames(self._media_root / row["path"], distinct.tolist())[inverse_T]
        labels_MC = np.zeros((len(shown.kept_M), len(self._numbers)), dtype=bool)
        for index, person in enumerate(shown.kept_M):
            labels_MC[index, [self._numbers[label] for label in row["labels"][person]]] = True
        clip = f"{row['video_id']}@{row['timestamp_s']}"
        return {"frames": apply_box_view(frames_THWC, shown), "boxes": shown.boxes_M4, "labels": labels_MC, "clip": clip}

    def collate(self, samples: list[Sample]) -> Batch:
        """Frames, boxes [B,M,4] and labels [B,M,C] filled up to the largest M, bool ``held`` [B,M]."""
        most = max(1, *(len(sample["boxes"]) for sample in samples))
        return stack_samples([_filled(sample, most) for sample in samples])


class DetectionTask(Task):
    """A detector and its key frames."""

    def __init__(self, model: Detector, dataset: KeyFrames) -> None:
        self.model: nn.Module = model
        self._encoder = model.encoder
        self._config = model.config
        self._dataset = dataset

    def dataset(self) -> KeyFrames:
        return self._dataset

    def encoder(self) -> VideoViT:
        return self._encoder

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """Per key frame the sum over its boxes of the mean over all actions.

        The published loss is the sum over a rank's boxes, which is this times the rank's key frames; a factor that AdamW does
        not see.
        """
        del generator
        patches_BVP = normalise_patches(patchify(batch["frames"], self._encoder.config.patch_size))
        logits_BMC = model(patches_BVP, batch["boxes"]).float()
        losses_BMC = F.binary_cross_entropy_with_logits(logits_BMC, batch["labels"].float(), reduction="none")
        losses_BM = torch.where(batch["held"], losses_BMC.mean(dim=-1), 0.0)
        parts = {"boxes": batch["held"].float().sum(dim=1).mean(), **unreadable_share(batch)}
        return LossParts(losses_BM.sum(dim=1).mean(), parts)

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]

    def flops_per_clip(self, batch: Batch) -> float:
        """Encoder and head; RoIAlign is no matrix product."""
        vision, boxes = self._encoder.config, batch["boxes"].shape[1]
        tokens, dim = vision.frames * vision.patches_per_frame, vision.dim
        macs = encoder_macs(vision, tokens) + boxes * dim * self._config.classes
        if self._config.pool == "attention":
            # Keys and values once per clip; query, attention and projection once per box.
            macs += 2 * tokens * dim**2 + boxes * (2 * dim**2 + 2 * tokens * dim)
        return float(training_flops(macs))


class DetectionSpec(RunSpec):
    """A run of fine-tuning.

    Attributes:
        model: sizes of the detector.
        start: a model folder of any kind that holds a video encoder of the same sizes, or None: from scratch.
        classes: actions in the head's order.
        recipe: frames and augmentation.
        frames: mapped table from :func:`key_frames`.
        media_root: folder of the video files.
    """

    model: DetectorConfig
    start: Path | None
    classes: tuple[str, ...]
    recipe: DetectionRecipe
    frames: Path
    media_root: Path

    def build(self) -> DetectionTask:
        encoder, pool = (None, None) if self.start is None else load_vision(self.start)
        detector = Detector.create(self.model, encoder, pool)
        return DetectionTask(detector, KeyFrames(MappedTable(self.frames), self.classes, self.media_root, self.recipe))

    def inputs(self) -> dict[str, str]:
        return {"key frames": sha256_file(self.frames), "start": "" if self.start is None else weights_sha256(self.start)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        detector = Detector(self.model)
        load_weights(detector, weights, source="trained detector")
        save_detector(folder, detector, self.classes, {**facts, "inputs": self.inputs()})


def _people(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per box, in the order of the table, its actions as a list ``labels``."""
    named = rows.assign(labels=rows["label"].map(lambda label: [label] if label else []))
    people = named.groupby(_PERSON, sort=False)["labels"].agg(lambda lists: sorted(set().union(*lists)))
    return people.reset_index()


def _detected(rows: pd.DataFrame, people: pd.DataFrame, rule: DetectedBoxes) -> pd.DataFrame:
    """Return the detected boxes that show an annotated person, with the actions of the person whom they overlap most."""
    sure = rows[rows["score"] >= rule.score].drop_duplicates([*FRAME, *BOX]).reset_index(drop=True)
    return best_overlaps(sure, people, rule.iou).sort_values("index")[[*_PERSON, "labels"]]


def _filled(sample: Sample, most: int) -> Sample:
    """Add whole frames as boxes, which ``held`` says do not count."""
    count = len(sample["boxes"])
    boxes_M4 = np.tile(np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32), (most, 1))
    boxes_M4[:count] = sample["boxes"]
    labels_MC = np.zeros((most, sample["labels"].shape[1]), dtype=bool)
    labels_MC[:count] = sample["labels"]
    return {**sample, "boxes": boxes_M4, "labels": labels_MC, "held": np.arange(most) < count}
