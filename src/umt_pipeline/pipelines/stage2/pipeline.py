"""The pipeline ``stage2``: student and captions → video-text model, and its control from scratch."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.stage2.nodes import (
    gather_data,
    make_tokenizer,
    pretrain_text,
    summarise,
    train_control,
    train_video_text,
)


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(make_tokenizer, inputs=["params:stage2", "videos", "captions", "workspace"], outputs="tokenizer"),
            Node(
                gather_data,
                inputs=[
                    "params:stage2",
                    "params:teacher_features",
                    "params:seed",
                    "tokenizer",
                    "stage1_model",
                    "feature_store",
                    "image_store",
                    "teacher",
                    "captions",
                    "videos",
                    "raw_media",
                    "workspace",
                ],
                outputs="stage2_run",
            ),
            Node(
                pretrain_text,
                inputs=["params:stage2", "stage2_run", "workspace"],
                outputs=["stage2_run_with_text", "text_summary"],
            ),
            Node(
                train_video_text,
                inputs=["stage2_run_with_text", "workspace"],
                outputs=["stage2_model", "stage2_history", "stage2_summary"],
            ),
            Node(
                train_control,
                inputs=["params:stage2", "stage2_run_with_text", "workspace"],
                outputs=["stage2_control_model", "stage2_control_history", "stage2_control_summary"],
            ),
            Node(summarise, inputs=["text_summary", "stage2_summary", "stage2_control_summary"], outputs="stage2_metrics"),
        ]
    )
