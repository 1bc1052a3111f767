"""The pipeline ``stage1``: feature store → student."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.stage1.nodes import train_student


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                train_student,
                inputs=[
                    "params:stage1",
                    "params:teacher_features",
                    "params:seed",
                    "feature_store",
                    "teacher",
                    "videos",
                    "raw_media",
                    "workspace",
                ],
                outputs=["stage1_model", "stage1_history", "stage1_metrics"],
            ),
        ]
    )
