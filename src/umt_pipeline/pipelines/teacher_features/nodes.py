"""Nodes that fill the feature store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from umt_pipeline.features.extract import extract, plan_extraction
from umt_pipeline.models.teacher import load_teacher
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams

logger = logging.getLogger(__name__)


def extract_features(
    params: TeacherFeaturesParams, teacher: Path, raw_media: Path, videos: pd.DataFrame, workspace: Path
) -> tuple[Path, dict[str, Any]]:
    """Record the teacher's targets for V views of every clip of the wanted splits.

    Args:
        params: what to extract.
        teacher: the teacher's folder.
        raw_media: folder of the video files.
        videos: the clean video table.
        workspace: folder for unfinished work, in which an interrupted extraction is found again.

    Returns:
        The finished store, in the workspace, from which the catalog moves it into place; and a report
        of sizes, speed and the codec's error.

    Raises:
        ConfigError: the parameters do not fit the teacher or the table.
        CheckpointError: the teacher cannot be loaded.
        StoreError: a video cannot be read, or the disk is full; what is finished will be used by the next attempt.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = load_teacher(teacher, params.teacher, params.grid).to(device)
    logger.info("teacher: %s", tower.describe())
    plan = plan_extraction(params, tower, videos)
    folder = workspace / "features" / plan.fingerprint
    # disable=None: a bar with the time left where a terminal is attached, nothing otherwise.
    with tqdm(total=len(plan.index), desc="teacher features", unit="view", disable=None) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = extract(params, tower, plan, raw_media, folder, on_progress)
    logger.info(
        "teacher features: %d views of %d clips, %.1f MB, %.1f views/s",
        report["rows"],
        report["clips"],
        report["store_bytes"] / 1e6,
        report["clip_views_per_second"],
    )
    return folder, report
