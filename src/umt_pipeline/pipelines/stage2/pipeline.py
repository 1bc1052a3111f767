"""The pipeline ``stage2``: student and captions → video-text model, and its control from scratch."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.numbers import numbers_table, put_together
from umt_pipeline.pipelines.sources import gather_views
from umt_pipeline.pipelines.stage2.nodes import (
    gather_data,
    make_tokenizer,
    plan_text,
    pretrain_text,
    train_control,
    train_video_text,
)


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                make_tokenizer,
                inputs=["params:stage2", "videos", "captions", "workspace"],
                outputs="tokenizer",
                name="make_tokenizer",
            ),
            Node(
                gather_views,
                inputs=["params:teacher_features", "teacher", "videos", "raw_media", "feature_store", "image_store"],
                outputs="stage2_views",
                name="gather_stage2_views",
            ),
            Node(
                gather_data,
                inputs=[
                    "params:stage2",
                    "params:seed",
                    "stage2_views",
                    "tokenizer",
                    "stage1_model",
                    "captions",
                    "workspace",
                ],
                outputs="stage2_run",
                name="gather_stage2_data",
            ),
            Node(
                plan_text,
                inputs=["params:stage2", "stage2_run"],
                outputs="text_runs",
                name="plan_text",
            ),
            Node(
                pretrain_text,
                inputs=["params:stage2", "stage2_run", "text_runs", "workspace"],
                outputs=["stage2_runs", "text_summary", "text_took"],
                name="pretrain_text",
            ),
            Node(
                train_video_text,
                inputs=["stage2_runs", "workspace"],
                outputs=["stage2_model", "stage2_history", "stage2_summary", "stage2_took"],
                name="train_video_text",
            ),
            Node(
                train_control,
                inputs=["stage2_runs", "workspace"],
                outputs=["stage2_control_model", "stage2_control_history", "stage2_control_summary", "stage2_control_took"],
                name="train_stage2_control",
            ),
            Node(
                put_together,
                inputs={"text": "text_summary", "stage2": "stage2_summary", "control": "stage2_control_summary"},
                outputs="stage2_metrics",
                name="summarise_stage2",
            ),
            Node(
                put_together,
                inputs={"text": "text_took", "stage2": "stage2_took", "control": "stage2_control_took"},
                outputs="stage2_times",
                name="time_stage2",
            ),
            Node(numbers_table, inputs="stage2_metrics", outputs="stage2_numbers", name="tell_stage2_numbers"),
        ]
    )
