"""The evaluation pipeline: measure, then show."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.evaluation.nodes import (
    evaluate_models,
    evaluation_headline,
    gather_models,
    gather_prepared,
    gather_tables,
    gather_trained,
    write_report,
)
from umt_pipeline.pipelines.numbers import numbers_table


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                gather_tables,
                inputs=["raw_media", "videos", "captions", "labels"],
                outputs="evaluation_data",
                name="gather_tables",
            ),
            Node(
                gather_models,
                inputs=["teacher", "feature_store", "stage1_model", "stage2_model", "stage2_control_model"],
                outputs="evaluated_models",
                name="gather_models",
            ),
            Node(
                evaluate_models,
                inputs=["params:evaluation", "params:seed", "evaluation_data", "evaluated_models", "workspace"],
                outputs=["metrics", "records", "evaluation_evidence", "retrieval_examples", "evaluation_times"],
                name="evaluate_models",
            ),
            Node(
                gather_prepared,
                inputs=["rejects", "ingestion_report", "feature_report", "teacher_features_times", "feature_store"],
                outputs="prepared",
                name="gather_prepared",
            ),
            Node(
                gather_trained,
                inputs=[
                    "teacher_history",
                    "teacher_metrics",
                    "stage1_history",
                    "stage1_metrics",
                    "stage2_history",
                    "stage2_control_history",
                    "stage2_metrics",
                    "teacher_features_times",
                    "stage1_times",
                    "stage2_times",
                ],
                outputs="trained",
                name="gather_trained",
            ),
            Node(
                write_report,
                inputs=[
                    "params:evaluation",
                    "parameters",
                    "evaluation_data",
                    "prepared",
                    "trained",
                    "records",
                    "retrieval_examples",
                    "evaluation_evidence",
                    "evaluation_times",
                ],
                outputs="report",
                name="write_report",
            ),
            Node(numbers_table, inputs="metrics", outputs="evaluation_numbers", name="tell_evaluation_numbers"),
            Node(
                evaluation_headline,
                inputs=["params:evaluation", "records"],
                outputs="headline",
                name="tell_evaluation_headline",
            ),
        ]
    )
