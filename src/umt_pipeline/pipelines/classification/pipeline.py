"""The pipeline ``classification``: encoder and labels → classifiers, their control from scratch, their test, and its page."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.classification.nodes import evaluate_classifiers, fine_tune, gather_tasks, train_control
from umt_pipeline.pipelines.classification.reporting import report_classification


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    run = ["params:classification", "params:seed", "classification_data", "workspace"]
    return Pipeline(
        [
            Node(
                gather_tasks,
                inputs=[
                    "params:classification",
                    "videos",
                    "labels",
                    "raw_media",
                    "stage1_model",
                    "stage2_model",
                    "workspace",
                ],
                outputs="classification_data",
            ),
            Node(fine_tune, inputs=run, outputs=["classification_model", "classification_history", "fine_tuning_summary"]),
            Node(
                train_control,
                inputs=run,
                outputs=["classification_control_model", "classification_control_history", "control_summary"],
            ),
            Node(
                evaluate_classifiers,
                inputs=[
                    "params:classification",
                    "params:seed",
                    "classification_data",
                    "classification_model",
                    "fine_tuning_summary",
                    "classification_control_model",
                    "control_summary",
                ],
                outputs=[
                    "classification_metrics",
                    "classification_records",
                    "classification_predictions",
                    "classification_confusion",
                ],
            ),
            Node(
                report_classification,
                inputs=[
                    "params:classification",
                    "classification_data",
                    "classification_metrics",
                    "classification_records",
                    "classification_predictions",
                    "classification_confusion",
                    "classification_history",
                    "classification_control_history",
                ],
                outputs="classification_report",
            ),
        ]
    )
