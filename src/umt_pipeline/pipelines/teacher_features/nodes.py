"""Nodes that fill the feature stores."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import dtype_of
from umt_pipeline.core.claims import Claims
from umt_pipeline.core.errors import StoreError, VideoError
from umt_pipeline.core.files import linked_copy, read_json, write_json
from umt_pipeline.core.identity import work_folder
from umt_pipeline.core.progress import progress
from umt_pipeline.executors import LOCAL, OfflineParams, open_executor
from umt_pipeline.features.extract import ExtractionPlan, FeatureConfig, make_header, plan_extraction
from umt_pipeline.features.index import views_of
from umt_pipeline.features.manifest import MANIFEST_FILE
from umt_pipeline.features.rejects import OTHER_VIEW, read_rejects
from umt_pipeline.features.reuse import begin_store, drop_damaged, is_begun, kept_precision
from umt_pipeline.features.runner import MakeShards, Progress, extract
from umt_pipeline.features.spread import make_by
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.teacher import Teacher, load_teacher
from umt_pipeline.pipelines.runs import fresh_folder
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.video.decode import Decoder
from umt_pipeline.video.media import Media

logger = logging.getLogger(__name__)

# Unfinished work that nothing was written to for so long is removed when other work is finished.
_ABANDONED_DAYS = 14
# Rejected clips of a finished store that are looked at again.
_REJECTS_TRIED = 20


def extract_features(
    params: TeacherFeaturesParams,
    teacher: Path,
    raw_media: Path,
    videos: pd.DataFrame,
    workspace: Path,
    offline: OfflineParams = LOCAL,
) -> tuple[Path, Path, dict[str, Any]]:
    """Record the teacher's targets for the views of every video and of every image of the wanted splits.

    Args:
        params: what to extract.
        teacher: the teacher's folder.
        raw_media: folder of the video and image files.
        videos: the clean table of videos and images.
        workspace: folder for unfinished work, in which an interrupted extraction, and the records of earlier ones, are found
            again.
        offline: where this is done.

    Returns:
        Copies of the finished store of the videos and of that of the images (without rows where there are none), in the
        workspace, from which the catalog moves them into place; and a report of sizes, speed and the codec's error, with
        that of the images under ``images``.

    Raises:
        ConfigError: the parameters do not fit the teacher or the table; or Ray cannot be reached, or a worker lacks something.
        CheckpointError: the teacher cannot be loaded.
        StoreError: too many files cannot be read, or the disk is full; what is finished will be used by the next attempt.
        DecoderDiedError: a decoding process cannot be started.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = load_teacher(teacher, params.teacher, params.grid).to(device)
    logger.info("teacher: %s", tower.describe())
    with open_executor(offline) as executor:
        make_shards = None if executor is None else partial(make_by, executor)
        if executor is not None and params.precision == "auto":
            logger.warning(
                "teacher_features.precision: auto is decided on this machine (%s), also for workers that have other devices. "
                "Set bf16 or fp32 if they do",
                device,
            )
        store, report = _record(params, tower, raw_media, videos, "video", workspace / "features", make_shards)
        image_store, image_report = _record(
            params.image_config(), tower, raw_media, videos, "image", workspace / "image_features", make_shards
        )
    return store, image_store, {**report, "images": image_report}


def _record(
    config: FeatureConfig,
    tower: Teacher,
    raw_media: Path,
    videos: pd.DataFrame,
    media: Media,
    folder: Path,
    make_shards: MakeShards | None,
) -> tuple[Path, dict[str, Any]]:
    """Extract what no earlier store holds, or take what was finished before.

    Returns a copy of the store (by hard links), and its report.

    Args:
        config: what to extract.
        tower: the teacher.
        raw_media: folder of the video and image files.
        videos: the clean table.
        media: which of its rows.
        folder: holds a folder for each identity. Several runs may work there: on the same store together.
        make_shards: makes the shards; None: this machine.
    """
    plan = plan_extraction(_settled(config, tower, media, folder), tower, videos, media)
    with Claims(folder / ".claims") as claims:
        with claims.only("folder"):
            claims.clear()
            work = work_folder(folder, plan.identity)
            store, report_file = work / "store", work / "report.json"
            finished = report_file.is_file() and _is_whole(store) and not _can_be_completed(store, plan, raw_media)
            if finished:
                report = read_json(report_file)
                logger.info("%s is finished (%d views of %ss): not extracted again", work, report["rows"], media)
                # At once: as soon as another run may, it removes finished stores that it has no use for.
                return _handed_out(folder, work), report
            report_file.unlink(missing_ok=True)
            if not is_begun(store):
                begin_store(store, plan.header, plan.index, [path for path in _stores(folder) if path != store])
        report = _extract(config, tower, plan, raw_media, store, media, make_shards)
        with claims.only("folder"):
            write_json(report_file, report)
            return _handed_out(folder, work), report


def _settled(config: FeatureConfig, tower: Teacher, media: Media, folder: Path) -> FeatureConfig:
    """Return the configuration in the precision of what is there, if it leaves the precision open.

    Near the threshold a device measures now so and now otherwise, and in the other precision all would be extracted again.
    """
    if config.precision != "auto":
        return config
    header = make_header(config, tower.target_dim, tower.weights_sha256, tower.importance, media)
    kept = kept_precision(header, _stores(folder))
    return config if kept is None else config.model_copy(update={"precision": kept})


def _stores(folder: Path) -> list[Path]:
    """Return where stores may have been begun or finished, of whatever settings."""
    return [path / "store" for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _extract(
    config: FeatureConfig,
    tower: Teacher,
    plan: ExtractionPlan,
    raw_media: Path,
    store: Path,
    media: Media,
    make_shards: MakeShards | None,
) -> dict[str, Any]:
    """Extract, say how it goes on, and return the report."""
    device = next(tower.parameters()).device
    devices = (config.nproc or torch.cuda.device_count()) if device.type == "cuda" else 1
    # Before the work begins: beside it, it would be too low. Of an executor's machines it is not known.
    peak = None if make_shards else devices * matmul_peak(device, dtype_of(plan.header.precision))
    with progress(f"teacher features, {media}s", len(plan.index), "view") as show:
        report = extract(
            config, tower, plan, raw_media, store, lambda news: show(news.done, _in_words(news, peak)), make_shards
        )
    made_per_second = report["clip_views_per_second"]
    macs = tower.macs(plan.header.frames, plan.header.visible_per_frame)
    if macs is not None and peak is not None and made_per_second:
        report["mfu"] = round(2 * macs * made_per_second / peak, 4)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report.get("time_shares", {}).items())
    logger.info(
        "teacher features: %d views of %d %ss (%d found by content, %d rejected), %.1f MB, %.1f views/s; time: %s",
        report["rows"],
        report["clips"],
        media,
        report["rows_found"],
        report["rows_rejected"],
        report["store_bytes"] / 1e6,
        made_per_second,
        shares or "none",
    )
    return report


def _in_words(news: Progress, peak: float | None) -> str:
    """Say how well the devices are used, of what they do at best, and what is waited for."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in news.shares().items())
    rate = news.flops_per_second
    return f"time: {shares}" if rate is None or peak is None else f"MFU {rate / peak:.1%}, time: {shares}"


def _can_be_completed(store: Path, plan: ExtractionPlan, raw_media: Path) -> bool:
    """Whether a file can be read now that could not be when a store was finished; its records are then an earlier store's."""
    rejects = [reject for reject in read_rejects(store).to_pylist() if reject["reason"] != OTHER_VIEW]
    first = {reject["video_id"]: reject["row"] for reject in reversed(rejects)}
    rows = sorted(first.values())[:_REJECTS_TRIED]
    files = [raw_media / plan.paths[row].as_py() for row in rows]
    views = views_of(plan.index.take(pa.array(rows, pa.int64())), plan.header.view.size)
    # In another process: a file may be rejected because it crashes the one that decodes it.
    wanted = ((row, [(file, view)]) for row, file, view in zip(rows, files, views, strict=True))
    with Decoder(1) as decoder, closing(decoder.decode(wanted)) as decoded:
        back = next((row for row, [answer] in decoded if not isinstance(answer, VideoError)), None)
    if back is None:
        return False
    logger.info("feature store: %s can be read now: its clip is extracted", plan.paths[back])
    earlier = store.parent.with_name(f"{store.parent.name}-{uuid.uuid4().hex[:12]}")
    earlier.mkdir()
    store.rename(earlier / "store")
    return True


def _is_whole(store: Path) -> bool:
    """Whether a finished store is as it was written, to the byte; what is not is removed, and extraction goes on from there.

    Its copy in the catalog is made of the same files: what was changed there was changed here too, and verification before
    training then says that the store must be made again.
    """
    if not (store / MANIFEST_FILE).is_file():
        return False  # a repair was interrupted
    try:
        FeatureStore(store).verify()
    except StoreError as error:
        logger.warning("%s", error)
        try:
            drop_damaged(store)
        except StoreError:
            shutil.rmtree(store, ignore_errors=True)
        return False
    return True


def _handed_out(folder: Path, work: Path) -> Path:
    """Return a copy of a finished store (by hard links), and remove what it makes superfluous."""
    _collect(folder, work)
    # Under a name of its own: another run may be about to hand out the same.
    copy = fresh_folder(folder.parent, f"{folder.name}-{uuid.uuid4().hex[:12]}")
    linked_copy(work / "store", copy)
    return copy


def _collect(folder: Path, work: Path) -> None:
    """Remove what a finished store makes superfluous: other finished ones, and work that was long abandoned.

    An unfinished store of other settings, or of other clips, is somebody's hours: it stays while it may be gone on with. So do
    copies that a run is about to hand over.
    """
    for leftover in work.glob(".store.*.part"):
        shutil.rmtree(leftover)
    oldest = time.time() - _ABANDONED_DAYS * 24 * 3600
    for other in [*folder.iterdir(), *folder.parent.glob(f"outbox/{folder.name}-*")]:
        if other == work or not other.is_dir() or other.name.startswith("."):
            continue
        # A folder's own time changes with each shard that is put into it.
        places = (other, other / "store", other / "store" / "shards")
        latest = max(path.stat().st_mtime for path in places if path.exists())
        if (other / "report.json").is_file() or latest < oldest:
            shutil.rmtree(other)
