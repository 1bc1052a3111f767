"""Nodes that say what the stage-1 student's training is, and train it."""

from __future__ import annotations

from pathlib import Path

from umt_pipeline.data.mapped import write_table
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.pipelines.runs import NamedRuns, TrainedModel, train, trained_model
from umt_pipeline.pipelines.sources import RecordedViews
from umt_pipeline.training.stage1 import Stage1Config, Stage1Spec


def plan_student(params: Stage1Config, seed: int, views: RecordedViews, workspace: Path) -> NamedRuns:
    """Check the feature store and settle the run.

    Args:
        params: student, target provider and loop.
        seed: of weights and order.
        views: recorded views and targets.
        workspace: folder for unfinished work, with the table that online training maps.

    Raises:
        StoreError: the store is incomplete, not what the parameters ask for, or not what teacher and videos give now.
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
    return {"stage1": spec}


def train_student(runs: NamedRuns, workspace: Path) -> TrainedModel:
    """Distil the teacher into the student.

    Args:
        runs: from :func:`plan_student`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The student's model folder, the history of the run, its summary, and what it took.

    Raises:
        TrainingError: training failed.
    """
    return trained_model(train("stage1", runs["stage1"], workspace), workspace, "stage1_model")
