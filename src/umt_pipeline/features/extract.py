"""What is extracted: settings, the plan of a store, and the teacher's part in a batch.

Views, masks and the composition of the teacher's batches depend on the configuration alone, so a store's bytes do not depend
on who makes which shard (:mod:`umt_pipeline.features.shards`), on the number of processes that do
(:mod:`umt_pipeline.features.runner`) or on how often they were interrupted.

Legend: B clip views of a batch, T frames, S side of the view in pixels, N patches per frame, V visible patches per view (v of
them sampled), P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field, model_validator

from umt_pipeline import __version__
from umt_pipeline.compute.names import AskedPrecision, Precision
from umt_pipeline.compute.precision import autocast, resolve_precision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, StoreError, VideoError
from umt_pipeline.core.identity import OPERATIONAL, PACKAGE, Identity, code_key, settings_of
from umt_pipeline.features.index import noise_keys, plan_fingerprint, plan_rows, texts_of_clips
from umt_pipeline.features.manifest import StoreHeader, StoreSettings, TeacherIdentity
from umt_pipeline.features.targets import TargetBatch, draw_targets, mask_noise
from umt_pipeline.features.writer import UnfinishedStore
from umt_pipeline.masking import Importance, MaskConfig, MaskKind, visible_count
from umt_pipeline.models.teacher import Teacher, TeacherConfig
from umt_pipeline.video.decode import Decoder
from umt_pipeline.video.media import Media
from umt_pipeline.video.views import counter_generator

logger = logging.getLogger(__name__)

# The modules that decide what a record is.
RECORDING = ("features.extract", "features.shards")
# Packages that read the files. Pillow reads images and resizes the frames of both.
_DECODERS: dict[Media, tuple[str, ...]] = {"video": ("decord2", "av"), "image": ()}


class ImageMask(Config):
    """How the visible patches of an image are chosen.

    Args:
        kind: None: as for videos.
        ratio: hidden share. 0.5 as published: an image has no other frame that shows what is hidden.
    """

    kind: MaskKind | None = None
    ratio: float = Field(0.5, ge=0, lt=1)


class ImageConfig(Config):
    """What of the extraction is different for images, which get a store of their own.

    Args:
        views: recorded views per image; None: as for videos.
        mask: kind and hidden share.
    """

    views: int | None = Field(None, ge=0)
    mask: ImageMask = ImageMask()


class FeatureConfig(StoreSettings):
    """What is extracted and how it is stored.

    Attributes:
        teacher: which teacher, how many of its layers, which normalisation.
        images: what is different for images; see :meth:`image_config`.
        batch_size: clip views per teacher batch.
        precision: what the teacher runs in; what ``auto`` takes on this device is part of what a store is known by.
        workers: decoding processes of each process that runs a teacher; null: its share of the cores, 0: decode in that
            process.
        nproc: processes on this machine, each with a teacher; null: one per CUDA device, one on a CPU.
        max_rejected_share: a larger share of clips that ingestion accepted and that cannot be read now ends the run.
    """

    teacher: TeacherConfig = TeacherConfig()
    images: ImageConfig = ImageConfig()
    batch_size: int = Field(16, ge=1)
    precision: AskedPrecision = "auto"
    workers: Annotated[int | None, OPERATIONAL] = Field(None, ge=0)
    nproc: Annotated[int | None, OPERATIONAL] = Field(None, ge=1)
    max_rejected_share: Annotated[float, OPERATIONAL] = Field(0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> FeatureConfig:
        if self.view.size % self.patch_size:
            raise ValueError(f"view.size ({self.view.size}) must be a multiple of patch_size ({self.patch_size})")
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"splits: expected each split once, found {list(self.splits)}")
        if not 0 <= self.mask.ratio < 1:
            raise ValueError(f"mask.ratio must be at least 0 and below 1, found {self.mask.ratio}")
        return self

    @property
    def grid(self) -> int:
        """Patches along one side of a view."""
        return self.view.size // self.patch_size

    def image_config(self) -> FeatureConfig:
        """Return the configuration of the images' store: the same with one frame per view, and ``images`` applied."""
        images = self.images
        return self.model_copy(
            update={
                "view": self.view.model_copy(update={"frames": 1}),
                "views": self.views if images.views is None else images.views,
                "mask": MaskConfig(kind=images.mask.kind or self.mask.kind, ratio=images.mask.ratio),
            }
        )


@dataclass(frozen=True)
class ExtractionPlan:
    """What will be in the store, known before anything is decoded.

    Args:
        header: what all records have in common.
        index: one line per row, in order: :func:`umt_pipeline.features.index.plan_schema`.
        paths: the file of each row, relative to the media folder.
        identity: what the store's content depends on; by it a finished or interrupted extraction is found again.
    """

    header: StoreHeader
    index: pa.Table
    paths: pa.Array
    identity: Identity


def plan_extraction(
    config: FeatureConfig, teacher: Teacher, videos: pd.DataFrame, media: Media = "video"
) -> ExtractionPlan:
    """Draw every view of every clip of the wanted splits.

    Args:
        config: what to extract; for images :meth:`FeatureConfig.image_config`.
        teacher: as loaded for ``config``, on the device it is to run on, which decides the precision that ``auto`` takes;
            only its sizes and identity are read.
        videos: the clean table of videos and images.
        media: which of them.

    Raises:
        ConfigError: the teacher's grid is not the student's, or a split has no video where videos are wanted.
    """
    if teacher.grid != config.grid:
        raise ConfigError(
            f"view.size {config.view.size} with patch_size {config.patch_size} gives a grid of {config.grid} patches, "
            f"the teacher was loaded for a grid of {teacher.grid}"
        )
    precision = resolve_precision(config.precision, next(teacher.parameters()).device)
    header = make_header(config, teacher.target_dim, teacher.weights_sha256, teacher.importance, media, precision)
    clips = select_clips(videos, config.splits, media)
    index = plan_rows(config.view, config.dataset_id, config.views, clips)
    paths = texts_of_clips(clips["path"], config.views)
    identity = _identity(config.model_copy(update={"precision": precision}), header, index)
    return ExtractionPlan(header, index, paths, identity)


def select_clips(videos: pd.DataFrame, splits: tuple[str, ...], media: Media = "video") -> pd.DataFrame:
    """Return the clips of the splits: split by split as listed, in each in the order of the table.

    Args:
        videos: the clean table of videos and images.
        splits: which splits.
        media: videos or images. Images are an addition that a corpus may lack: there may be none of them.

    Raises:
        ConfigError: videos are wanted, and a split has none.
    """
    known = videos[videos["media"] == media]
    parts = [known[known["split"] == split] for split in splits]
    for split, part in zip(splits, parts, strict=True):
        if part.empty and media == "video":
            found = ", ".join(sorted(map(str, known["split"].unique()))) or f"{len(videos) or 'no'} images and no video"
            raise ConfigError(f"splits: expected videos in split {split!r}, found {found}")
    return pd.concat(parts, ignore_index=True)


def make_header(
    config: FeatureConfig,
    target_dim: int,
    weights_sha256: str,
    importance: Importance = "class_attention",
    media: Media = "video",
    precision: Precision = "fp32",
) -> StoreHeader:
    """Return what all records will have in common.

    Args:
        config: what is extracted.
        target_dim: width of the teacher's output.
        weights_sha256: of the teacher's weights; what is only planned, without weights, leaves it empty.
        importance: what the teacher's importance of patches is read from.
        media: what the clips are, which decides the packages that decode them.
        precision: what the teacher runs in, resolved; what is only planned leaves it.
    """
    patches = config.grid**2
    source = config.teacher.source
    packages = ("torch", "pillow", *_DECODERS[media], *config.codec.packages)
    own = {name: getattr(config, name) for name in StoreSettings.model_fields}
    return StoreHeader(
        **{**own, "codec": config.codec.for_width(target_dim)},
        grid=config.grid,
        frames=config.view.frames,
        visible_per_frame=patches if config.mask.kind == "none" else visible_count(patches, config.mask.ratio),
        layers=config.teacher.layers,
        layer_interval=config.teacher.interval,
        target_dim=target_dim,
        teacher=TeacherIdentity(
            source=source,
            id=f"{source}@{weights_sha256[:12]}",
            weights_sha256=weights_sha256,
            normalisation=config.teacher.normalisation,
            importance=importance,
        ),
        precision=precision,
        versions={PACKAGE: __version__, **{name: version(name) for name in packages}},
        code=recording_code(),
    )


def recording_code() -> str:
    """Return the key of the code that decides what a record is."""
    return code_key(*RECORDING)


def _identity(config: FeatureConfig, header: StoreHeader, index: pa.Table) -> Identity:
    # What is different for images is applied to the configuration of their own store.
    settings = {path: value for path, value in settings_of(config).items() if path.partition(".")[0] != "images"}
    contents = {"teacher": header.teacher.weights_sha256, "rows": plan_fingerprint(index)}
    return Identity(settings, {**contents, **header.package_versions()}, header.code)


def batches_of(rows: int, batch_size: int) -> Iterator[range]:
    """Return the rows of each of the teacher's batches in a shard.

    They begin anew with each shard: a batch then has the same rows, and the teacher's matrix products the same shapes and
    rounding, whoever makes the shard and wherever extraction was resumed.
    """
    for start in range(0, rows, batch_size):
        yield range(start, min(start + batch_size, rows))


def run_teacher_on(
    config: FeatureConfig, precision: Precision, teacher: Teacher, lines: pa.Table, frames_BTSS3: torch.Tensor
) -> TargetBatch:
    """Run the teacher on a batch of views and draw their masks; on CUDA without waiting for the device.

    Args:
        config: what is extracted.
        precision: of the store.
        teacher: on its device.
        lines: of the index, one per view.
        frames_BTSS3: their frames, uint8, on the host; copied while the host goes on if they are in pinned memory.
    """
    device = next(teacher.parameters()).device
    size = (config.view.frames, config.grid**2)
    noise = [mask_noise(config.dataset_id, clip, number, *size) for clip, number in noise_keys(lines)]
    noise_BTN = torch.from_numpy(np.stack(noise))
    if device.type == "cuda":
        noise_BTN = noise_BTN.pin_memory()
    frames, noise_BTN = (tensor.to(device, non_blocking=True) for tensor in (frames_BTSS3, noise_BTN))
    with autocast(precision, device):
        return draw_targets(teacher, config.mask, config.patch_size, frames, noise_BTN)


def learn_codec(config: FeatureConfig, teacher: Teacher, store: UnfinishedStore, media_root: Path) -> torch.Tensor:
    """Run the teacher on a sample of a store's rows and let the codec learn from its targets.

    Rows whose file cannot be read are left out.

    Args:
        config: what is extracted.
        teacher: on the device it is to run on.
        store: as begun.
        media_root: folder of the media.

    Raises:
        StoreError: none of the sample can be read.
    """
    codec = store.header.codec
    start = time.perf_counter()
    # From the whole store, not from its beginning: corpora often come sorted by class.
    drawn = counter_generator(codec.kind, config.dataset_id).permutation(store.rows)[: codec.sampled_rows()]
    drawn = np.sort(drawn)
    # Of each row as many tokens as are needed, evenly spread over its frames.
    per_row = min(store.header.frames * store.header.visible_per_frame, -(-codec.sampled_tokens // len(drawn)))
    tokens: list[torch.Tensor] = []
    batches = (drawn[rows.start : rows.stop] for rows in batches_of(len(drawn), config.batch_size))
    with Decoder(config.workers) as decoder:
        for rows, answers in decoder.decode((rows, store.files(rows, media_root)) for rows in batches):
            read = [number for number, answer in enumerate(answers) if not isinstance(answer, VideoError)]
            if not read:
                continue
            frames_BTSS3 = torch.from_numpy(np.stack([answer for answer in answers if not isinstance(answer, VideoError)]))
            batch = run_teacher_on(config, store.header.precision, teacher, store.lines(rows[read]), frames_BTSS3)
            targets_KBVC = batch.targets_KBVC
            indices_v = torch.linspace(0, targets_KBVC.shape[2] - 1, per_row, device=targets_KBVC.device).round().long()
            tokens.append(targets_KBVC[:, :, indices_v].flatten(1, 2).cpu())
    if not tokens:
        raise StoreError(
            f"feature store {store.folder}: none of {len(drawn)} files that ingestion accepted can be read now. Is the folder "
            f"of media {media_root} still there, and the same?"
        )
    learnt = codec.learn(torch.cat(tokens, dim=1))
    seconds = time.perf_counter() - start
    logger.info("feature store: codec %s learnt from %d rows x %d tokens in %.1f s", codec.kind, len(drawn), per_row, seconds)
    return learnt
