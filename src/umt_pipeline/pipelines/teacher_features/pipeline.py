"""The pipeline ``teacher_features``: videos and images → teacher → feature stores."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.numbers import numbers_of, put_together
from umt_pipeline.pipelines.teacher_features.nodes import extract_features
from umt_pipeline.pipelines.teacher_features.teacher_nodes import get_teacher, plan_teacher


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                plan_teacher,
                inputs=[
                    "params:teacher_features",
                    "params:seed",
                    "raw_media",
                    "videos",
                    "captions",
                    "labels",
                    "workspace",
                ],
                outputs=["teacher_runs", "teacher_sentences"],
                name="plan_teacher",
            ),
            Node(
                get_teacher,
                inputs=[
                    "params:teacher_features",
                    "teacher_runs",
                    "teacher_sentences",
                    "raw_media",
                    "videos",
                    "labels",
                    "workspace",
                ],
                outputs=["teacher", "teacher_history", "teacher_metrics", "teacher_took"],
                name="get_teacher",
            ),
            Node(
                extract_features,
                inputs=["params:teacher_features", "teacher", "raw_media", "videos", "workspace", "params:offline"],
                outputs=["feature_store", "image_store", "feature_report", "features_took"],
                name="extract_features",
            ),
            Node(
                put_together,
                inputs={"teacher": "teacher_took", "features": "features_took"},
                outputs="teacher_features_times",
                name="time_teacher_features",
            ),
            Node(
                numbers_of,
                inputs={"teacher": "teacher_metrics", "features": "feature_report"},
                outputs="teacher_features_numbers",
                name="tell_teacher_features_numbers",
            ),
        ]
    )
