"""Node that trains the stage-1 student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.files import sha256_file
from umt_pipeline.features.manifest import MANIFEST_FILE, read_manifest
from umt_pipeline.features.verify import require_settings, verify_store
from umt_pipeline.models.folders import load_weights, save_model
from umt_pipeline.models.student import KIND, Student
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage1 import Stage1Config


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
    config = params.student.student_config(manifest)
    table, table_key = write_table(workspace, "videos", videos)
    kwargs = {
        "student": config.model_dump(mode="json"),
        "store": str(feature_store),
        "targets": params.targets,
        "teacher": str(teacher),
        "clips": str(table),
        "media_root": str(raw_media),
    }
    inputs = [sha256_file(feature_store / MANIFEST_FILE), table_key]
    finished = train("stage1", "umt_pipeline.training.stage1:make_task", kwargs, inputs, params.train, seed, workspace)
    student = Student(config)
    load_weights(student, finished.weights(), source=str(finished.folder))
    folder = fresh_folder(workspace, "stage1_model")
    facts = {
        "steps": finished.steps,
        "store_manifest_sha256": inputs[0],
        "seed": seed,
        "teacher": manifest.teacher.id,
    }
    save_model(folder, student, config, KIND, facts)
    return folder, finished.history, finished.summary()
