"""Node that trains the stage-1 student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.data.mapped import write_table
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.source import TargetSource
from umt_pipeline.features.verify import require_settings, verify_store
from umt_pipeline.pipelines.runs import exported, train
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage1 import Stage1Config, Stage1Spec


def train_student(
    params: Stage1Config,
    features: TeacherFeaturesParams,
    seed: int,
    feature_store: Path,
    teacher: Path,
    videos: pd.DataFrame,
    raw_media: Path,
    workspace: Path,
) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Distil the teacher into the student.

    Args:
        params: student, target provider and loop.
        features: what the feature store is expected to be.
        seed: of weights and order.
        feature_store: recorded views and targets.
        teacher: the teacher's folder, read online and to verify the store.
        videos: the clean video table, likewise.
        raw_media: folder of the video files, likewise.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The student's model folder, the history of the run, and its summary.

    Raises:
        StoreError: the store is incomplete, not what the parameters ask for, or not what teacher and videos give now.
        TrainingError: training failed.
    """
    require_settings(feature_store, features, teacher)
    if params.targets == "cached":
        verify_store(feature_store, params.verify, teacher, videos, raw_media, features.workers)
    manifest = read_manifest(feature_store)
    source = TargetSource(
        store=feature_store,
        targets=params.targets,
        teacher=teacher,
        clips=write_table(workspace, "videos", videos),
        media_root=raw_media,
    )
    student = params.student.student_config(manifest)
    spec = Stage1Spec(student=student, source=source, teacher=manifest.teacher.id, train=params.train, seed=seed)
    finished = train("stage1", spec, workspace)
    return exported(finished, workspace, "stage1_model"), finished.history, finished.summary()
