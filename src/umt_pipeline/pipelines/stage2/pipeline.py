"""The pipeline ``stage2``: student and captions → video-text model, and its control from scratch."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.stage2.nodes import make_tokenizer, summarise, train_control, train_video_text

_DATA = ["feature_store", "teacher", "captions", "videos", "raw_media", "workspace"]


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(make_tokenizer, inputs=["params:stage2", "feature_store", "captions", "workspace"], outputs="tokenizer"),
            Node(
                train_video_text,
                inputs=["params:stage2", "params:seed", "stage1_model", "tokenizer", *_DATA],
                outputs=["stage2_model", "stage2_history", "stage2_summary"],
            ),
            Node(
                train_control,
                inputs=["params:stage2", "params:seed", "stage1_model", "tokenizer", *_DATA],
                outputs=["stage2_control_model", "stage2_control_history", "stage2_control_summary"],
            ),
            Node(summarise, inputs=["stage2_summary", "stage2_control_summary"], outputs="stage2_metrics"),
        ]
    )
