"""The pipeline ``detection``: encoder and boxes → a detector of actions, its control from scratch, their test, and its page."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.detection.box_table import read_boxes
from umt_pipeline.pipelines.detection.nodes import fine_tune, gather_key_frames, train_control
from umt_pipeline.pipelines.detection.reporting import report_detection
from umt_pipeline.pipelines.detection.testing import evaluate_detectors


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    run = ["params:detection", "params:seed", "detection_data", "workspace"]
    return Pipeline(
        [
            Node(
                read_boxes,
                inputs=["params:detection", "raw_boxes", "videos", "rejects"],
                outputs=["boxes", "box_rejects", "box_report"],
            ),
            Node(
                gather_key_frames,
                inputs=["params:detection", "boxes", "videos", "raw_media", "stage1_model", "stage2_model", "workspace"],
                outputs="detection_data",
            ),
            Node(fine_tune, inputs=run, outputs=["detection_model", "detection_history", "detection_summary"]),
            Node(
                train_control,
                inputs=run,
                outputs=["detection_control_model", "detection_control_history", "detection_control_summary"],
            ),
            Node(
                evaluate_detectors,
                inputs=[
                    "params:detection",
                    "params:seed",
                    "detection_data",
                    "box_report",
                    "detection_model",
                    "detection_summary",
                    "detection_control_model",
                    "detection_control_summary",
                ],
                outputs=["detection_metrics", "detection_records", "detection_predictions", "detection_picture"],
            ),
            Node(
                report_detection,
                inputs=[
                    "params:detection",
                    "detection_data",
                    "detection_metrics",
                    "detection_records",
                    "detection_predictions",
                    "detection_picture",
                    "detection_history",
                    "detection_control_history",
                ],
                outputs="detection_report",
            ),
        ]
    )
