"""Nodes that fill the feature stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from umt_pipeline.features.extract import FeatureConfig, extract, plan_extraction
from umt_pipeline.models.teacher import Teacher, load_teacher
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.video.media import Media

logger = logging.getLogger(__name__)


def extract_features(
    params: TeacherFeaturesParams, teacher: Path, raw_media: Path, videos: pd.DataFrame, workspace: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Record the teacher's targets for the views of every video and of every image of the wanted splits.

    Args:
        params: what to extract.
        teacher: the teacher's folder.
        raw_media: folder of the video and image files.
        videos: the clean table of videos and images.
        workspace: folder for unfinished work, in which an interrupted extraction is found again.

    Returns:
        The finished store of the videos and that of the images (without rows where there are none), in the workspace, from
        which the catalog moves them into place; and a report of sizes, speed and the codec's error, with that of the images
        under ``images``.

    Raises:
        ConfigError: the parameters do not fit the teacher or the table.
        CheckpointError: the teacher cannot be loaded.
        StoreError: a file cannot be read, or the disk is full; what is finished will be used by the next attempt.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = load_teacher(teacher, params.teacher, params.grid).to(device)
    logger.info("teacher: %s", tower.describe())
    store, report = _record(params, tower, raw_media, videos, "video", workspace / "features")
    image_store, image_report = _record(
        params.image_config(), tower, raw_media, videos, "image", workspace / "image_features"
    )
    return store, image_store, {**report, "images": image_report}


def _record(
    config: FeatureConfig, tower: Teacher, raw_media: Path, videos: pd.DataFrame, media: Media, folder: Path
) -> tuple[Path, dict[str, Any]]:
    plan = plan_extraction(config, tower, videos, media)
    store = folder / plan.fingerprint
    # disable=None: a bar with the time left where a terminal is attached, nothing otherwise.
    with tqdm(total=len(plan.index), desc=f"teacher features, {media}s", unit="view", disable=None) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = extract(config, tower, plan, raw_media, store, on_progress)
    logger.info(
        "teacher features: %d views of %d %ss, %.1f MB, %.1f views/s",
        report["rows"],
        report["clips"],
        media,
        report["store_bytes"] / 1e6,
        report["clip_views_per_second"],
    )
    return store, report
