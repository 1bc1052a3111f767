"""Extraction: for each recorded view of each clip, decode, run the teacher, draw the mask, store.

Videos are decoded in worker processes, the teacher runs in the calling process. Views, masks and the composition of the
teacher's batches depend on the configuration alone, so the store's bytes do not depend on the number of workers or on
how often extraction was interrupted.

Legend: B clip views of a batch, T frames, S side of the view in pixels, N patches per frame, V visible patches per view (v of
them sampled), P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator

from umt_pipeline import __version__
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, StoreError, VideoError
from umt_pipeline.core.identity import OPERATIONAL, PACKAGE, Identity, code_key, fingerprint, settings_of
from umt_pipeline.features.codecs import Coder, cosine_error
from umt_pipeline.features.manifest import StoreHeader, StoreSettings, TeacherIdentity
from umt_pipeline.features.targets import TargetBatch, draw_targets, mask_noise
from umt_pipeline.features.writer import FeatureStoreWriter
from umt_pipeline.masking import Importance, MaskConfig, MaskKind, visible_count
from umt_pipeline.models.teacher import Teacher, TeacherConfig
from umt_pipeline.video.decode import decode_batches
from umt_pipeline.video.media import Media
from umt_pipeline.video.views import View, counter_generator, make_view

logger = logging.getLogger(__name__)

# Packages that read the files. Pillow reads images and resizes the frames of both.
_DECODERS: dict[Media, tuple[str, ...]] = {"video": ("decord2", "av"), "image": ()}

OnProgress = Callable[[int, int], None]


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
        workers: decoding processes; null: one per core, 0: decode in the calling process.
    """

    teacher: TeacherConfig = TeacherConfig()
    images: ImageConfig = ImageConfig()
    batch_size: int = Field(16, ge=1)
    workers: Annotated[int | None, OPERATIONAL] = Field(None, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    nproc: Annotated[int | None, OPERATIONAL] = Field(None, ge=1)

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
        index: one line per row, in order.
        paths: the video file of each row, relative to the media folder.
        identity: what the store's content depends on; by it a finished or interrupted extraction is found again.
    """

    header: StoreHeader
    index: pd.DataFrame
    paths: tuple[str, ...]
    identity: Identity

    def take(self, rows: np.ndarray) -> ExtractionPlan:
        """Return a plan of these rows alone, of the same identity."""
        index = self.index.iloc[rows].reset_index(drop=True)
        return replace(self, index=index, paths=tuple(self.paths[row] for row in rows))


def plan_extraction(
    config: FeatureConfig, teacher: Teacher, videos: pd.DataFrame, media: Media = "video"
) -> ExtractionPlan:
    """Draw every view of every clip of the wanted splits.

    Args:
        config: what to extract; for images :meth:`FeatureConfig.image_config`.
        teacher: as loaded for ``config``; only its sizes and identity are read.
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
    header = make_header(config, teacher.target_dim, teacher.weights_sha256, teacher.importance, media)
    clips = select_clips(videos, config.splits, media)
    records: list[dict[str, Any]] = []
    for clip in clips.to_dict("records"):
        size = (int(clip["num_frames"]), int(clip["height"]), int(clip["width"]))
        for number in range(config.views):
            view = make_view(config.view, config.dataset_id, clip["video_id"], number, *size)
            record = {"video_id": clip["video_id"], "split": clip["split"], "view_number": number}
            records.append({**record, **view.to_dict(), "video_sha256": clip["sha256"], "path": clip["path"]})
    columns = ["video_id", "split", "view_number", "frame_indices", "crop", "flip", "size", "video_sha256", "path"]
    index = pd.DataFrame(records, columns=columns)
    paths = tuple(index.pop("path"))
    return ExtractionPlan(header, index, paths, _identity(config, header, index))


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


def extract(
    config: FeatureConfig,
    teacher: Teacher,
    plan: ExtractionPlan,
    media_root: Path,
    folder: Path,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Any]:
    """Fill a store, or go on with one that was interrupted.

    Args:
        config: what to extract.
        teacher: on the device it is to run on.
        plan: from :func:`plan_extraction` with the same arguments.
        media_root: folder that the plan's paths are relative to.
        folder: becomes the store; keep it between attempts. :func:`umt_pipeline.features.reuse.begin_store` may have put
            records of earlier stores there.
        on_progress: called with (rows done, rows in all) after each batch.

    Returns:
        Report: rows, and how many of them were found in earlier stores or were there from an interrupted call; dead rows,
        clips, views, bytes per clip view by array, seconds, clip views extracted per second, and the codec's cosine error
        (1 - cosine), measured on the first batch of each shard that this call made.

    Raises:
        StoreError: a file that ingestion accepted cannot be read now, or the disk is full. Finished shards stay.
    """
    start = time.perf_counter()
    writer = FeatureStoreWriter(folder, plan.header, plan.index)
    resumed = writer.rows_done - writer.rows_found
    todo = plan.take(np.concatenate([np.empty(0, dtype=np.int64), *writer.missing]))
    logger.info(
        "feature store: %d views wanted, %d found by content, %d there already, %d to extract (of %d clips)",
        writer.rows,
        writer.rows_found,
        resumed,
        len(todo.index),
        todo.index["video_id"].nunique(),
    )
    coder = writer.coder(lambda: _learn(config, teacher, plan, media_root)).to(next(teacher.parameters()).device)
    errors: list[torch.Tensor] = []
    shards = [len(rows) for rows in writer.missing]
    first_of_shards = set(accumulate(shards, initial=0))
    for rows, frames_BTSS3 in _decoded(todo, media_root, _batches(shards, config.batch_size), config.workers):
        batch = _run_teacher(config, teacher, todo, rows, frames_BTSS3)
        encoded = coder.encode(batch.targets_KBVC.transpose(0, 1))
        if rows.start in first_of_shards:
            errors.append(_codec_error(coder, batch, encoded))
        pixels = batch.patches_BVP.cpu().numpy() if config.pixels == "visible" else frames_BTSS3
        assert batch.attention_BTN is not None
        writer.append(
            {
                "pixels": pixels,
                "attention": batch.attention_BTN.cpu().numpy(),
                "visible": batch.visible_BV.int().cpu().numpy(),
                **encoded,
            }
        )
        on_progress(writer.rows_done, writer.rows)
    manifest = writer.close()
    counts = {"rows_found": writer.rows_found, "rows_resumed": resumed, "rows_dead": manifest.rows_dead}
    return _report(plan, counts, time.perf_counter() - start, errors)


def make_header(
    config: FeatureConfig,
    target_dim: int,
    weights_sha256: str,
    importance: Importance = "class_attention",
    media: Media = "video",
) -> StoreHeader:
    """Return what all records will have in common.

    Args:
        config: what is extracted.
        target_dim: width of the teacher's output.
        weights_sha256: of the teacher's weights; what is only planned, without weights, leaves it empty.
        importance: what the teacher's importance of patches is read from.
        media: what the clips are, which decides the packages that decode them.
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
        versions={PACKAGE: __version__, **{name: version(name) for name in packages}},
        code=code_key("features.extract"),
    )


def _identity(config: FeatureConfig, header: StoreHeader, index: pd.DataFrame) -> Identity:
    # What is different for images is applied to the configuration of their own store.
    settings = {path: value for path, value in settings_of(config).items() if path.partition(".")[0] != "images"}
    contents = {"teacher": header.teacher.weights_sha256, "rows": fingerprint(index.to_dict("split"))}
    return Identity(settings, {**contents, **header.package_versions()}, header.code)


def _batches(shards: Iterable[int], batch_size: int) -> Iterator[range]:
    # Batches begin anew with each shard: a batch then has the same rows, and the teacher's matrix products the same
    # shapes and rounding, wherever extraction was resumed.
    shard_start = 0
    for rows in shards:
        shard_end = shard_start + rows
        for start in range(shard_start, shard_end, batch_size):
            yield range(start, min(start + batch_size, shard_end))
        shard_start = shard_end


def _run_teacher(
    config: FeatureConfig, teacher: Teacher, plan: ExtractionPlan, rows: range, frames_BTSS3: np.ndarray
) -> TargetBatch:
    device = next(teacher.parameters()).device
    keys = plan.index.iloc[rows.start : rows.stop][["video_id", "view_number"]].itertuples(index=False)
    size = (config.view.frames, config.grid**2)
    noise_BTN = np.stack([mask_noise(config.dataset_id, str(clip), int(number), *size) for clip, number in keys])
    frames = torch.from_numpy(frames_BTSS3).to(device)
    return draw_targets(teacher, config.mask, config.patch_size, frames, torch.from_numpy(noise_BTN).to(device))


def _learn(config: FeatureConfig, teacher: Teacher, plan: ExtractionPlan, media_root: Path) -> torch.Tensor:
    """Run the teacher on a sample of the rows and let the codec learn from its targets."""
    codec = plan.header.codec
    start = time.perf_counter()
    # From the whole store, not from its beginning: corpora often come sorted by class.
    drawn = counter_generator(codec.kind, config.dataset_id).permutation(len(plan.index))[: codec.sampled_rows()]
    sample = plan.take(np.sort(drawn))
    rows = len(sample.index)
    # Of each row as many tokens as are needed, evenly spread over its frames.
    per_row = min(plan.header.frames * plan.header.visible_per_frame, -(-codec.sampled_tokens // rows))
    tokens: list[torch.Tensor] = []
    for chosen, frames_BTSS3 in _decoded(sample, media_root, _batches([rows], config.batch_size), config.workers):
        targets_KBVC = _run_teacher(config, teacher, sample, chosen, frames_BTSS3).targets_KBVC
        indices_v = torch.linspace(0, targets_KBVC.shape[2] - 1, per_row, device=targets_KBVC.device).round().long()
        tokens.append(targets_KBVC[:, :, indices_v].flatten(1, 2).cpu())
    learnt = codec.learn(torch.cat(tokens, dim=1))
    seconds = time.perf_counter() - start
    logger.info("feature store: codec %s learnt from %d rows x %d tokens in %.1f s", codec.kind, rows, per_row, seconds)
    return learnt


def _codec_error(coder: Coder, batch: TargetBatch, encoded: dict[str, np.ndarray]) -> torch.Tensor:
    device = batch.targets_KBVC.device
    decoded = coder.decode({name: torch.from_numpy(array).to(device) for name, array in encoded.items()})
    return cosine_error(batch.targets_KBVC.transpose(0, 1), decoded).flatten().cpu()


def _report(
    plan: ExtractionPlan, counts: dict[str, int], seconds: float, errors: list[torch.Tensor]
) -> dict[str, Any]:
    rows = len(plan.index)
    sizes = plan.header.row_bytes()
    report: dict[str, Any] = {
        "rows": rows,
        **counts,
        "clips": int(plan.index["video_id"].nunique()),
        "views": plan.header.views,
        "codec": plan.header.codec.kind,
        "bytes_per_clip_view": {**sizes, "total": sum(sizes.values())},
        "store_bytes": (rows + counts["rows_dead"]) * sum(sizes.values()),
        "seconds": round(seconds, 3),
        "clip_views_per_second": round((rows - counts["rows_found"] - counts["rows_resumed"]) / seconds, 3),
    }
    if errors:
        error = torch.cat(errors)
        report["codec_cosine_error"] = {"mean": float(error.mean()), "max": float(error.max()), "tokens": len(error)}
    return report


def _decoded(
    plan: ExtractionPlan, media_root: Path, batches: Iterator[range], workers: int | None
) -> Iterator[tuple[range, np.ndarray]]:
    views = [View.from_dict(record) for record in plan.index.to_dict("records")]
    try:
        yield from decode_batches([media_root / path for path in plan.paths], views, batches, workers)
    except VideoError as error:
        raise StoreError(
            f"a file that ingestion accepted cannot be read now: {error}. Finished shards are kept; restore the "
            "file, or run ingestion again"
        ) from error
