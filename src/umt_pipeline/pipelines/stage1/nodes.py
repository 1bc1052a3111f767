"""Node that trains the stage-1 student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.data.mapped import write_table
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.pipelines.runs import exported, train
from umt_pipeline.pipelines.sources import RecordedViews
from umt_pipeline.training.stage1 import Stage1Config, Stage1Spec


def train_student(
    params: Stage1Config, seed: int, views: RecordedViews, workspace: Path
) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Distil the teacher into the student.

    Args:
        params: student, target provider and loop.
        seed: of weights and order.
        views: recorded views and targets.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The student's model folder, the history of the run, and its summary.

    Raises:
        StoreError: the store is incomplete, not what the parameters ask for, or not what teacher and videos give now.
        TrainingError: training failed.
    """
    source = views.source("video", params.targets, params.verify, write_table(workspace, "videos", views.videos))
    manifest = read_manifest(source.store)
    spec = Stage1Spec(
        student=params.student.student_config(manifest),
        source=source,
        teacher=manifest.teacher.id,
        train=params.train,
        seed=seed,
    )
    finished = train("stage1", spec, workspace)
    return exported(finished, workspace, "stage1_model"), finished.history, finished.summary()
