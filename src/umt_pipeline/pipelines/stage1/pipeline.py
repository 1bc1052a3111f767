"""The pipeline ``stage1``: feature store → student."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.numbers import numbers_table
from umt_pipeline.pipelines.sources import gather_views
from umt_pipeline.pipelines.stage1.nodes import plan_student, train_student


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                gather_views,
                inputs=["params:teacher_features", "teacher", "videos", "raw_media", "feature_store"],
                outputs="stage1_views",
                name="gather_stage1_views",
            ),
            Node(
                plan_student,
                inputs=["params:stage1", "params:seed", "stage1_views", "workspace"],
                outputs="stage1_runs",
                name="plan_student",
            ),
            Node(
                train_student,
                inputs=["stage1_runs", "workspace"],
                outputs=["stage1_model", "stage1_history", "stage1_metrics", "stage1_times"],
                name="train_student",
            ),
            Node(numbers_table, inputs="stage1_metrics", outputs="stage1_numbers", name="tell_stage1_numbers"),
        ]
    )
