"""The evaluation pipeline: measure, then show."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.evaluation.nodes import evaluate_models, write_report


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                evaluate_models,
                inputs=[
                    "params:evaluation",
                    "params:seed",
                    "raw_media",
                    "videos",
                    "captions",
                    "labels",
                    "teacher",
                    "feature_store",
                    "stage1_model",
                    "stage2_model",
                    "stage2_control_model",
                    "workspace",
                ],
                outputs=["metrics", "records", "retrieval_examples"],
                name="evaluate_models",
            ),
            Node(
                write_report,
                inputs={
                    "params": "params:evaluation",
                    "parameters": "parameters",
                    "raw_media": "raw_media",
                    "videos": "videos",
                    "captions": "captions",
                    "labels": "labels",
                    "feature_store": "feature_store",
                    "metrics": "metrics",
                    "records": "records",
                    "retrieval_examples": "retrieval_examples",
                    "rejects": "rejects",
                    "ingestion_report": "ingestion_report",
                    "teacher_history": "teacher_history",
                    "teacher_metrics": "teacher_metrics",
                    "feature_report": "feature_report",
                    "stage1_history": "stage1_history",
                    "stage1_metrics": "stage1_metrics",
                    "stage2_history": "stage2_history",
                    "stage2_control_history": "stage2_control_history",
                    "stage2_metrics": "stage2_metrics",
                },
                outputs="report",
                name="write_report",
            ),
        ]
    )
