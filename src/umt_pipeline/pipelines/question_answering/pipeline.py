"""The pipeline ``question_answering``: questions and a stage-2 model → answers, chosen captions, and a page about them."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.question_answering.asking import ask
from umt_pipeline.pipelines.question_answering.nodes import fine_tune, fine_tune_control, gather_questions
from umt_pipeline.pipelines.question_answering.question_table import read_questions
from umt_pipeline.pipelines.question_answering.reporting import report_answers


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    run = ["params:question_answering", "params:seed", "question_data", "workspace"]
    return Pipeline(
        [
            Node(
                read_questions,
                inputs=["params:question_answering", "raw_questions", "videos", "rejects"],
                outputs=["questions", "question_rejects", "question_report"],
            ),
            Node(
                gather_questions,
                inputs=[
                    "params:question_answering",
                    "questions",
                    "videos",
                    "raw_media",
                    "stage2_model",
                    "stage2_control_model",
                    "workspace",
                ],
                outputs="question_data",
            ),
            Node(
                fine_tune,
                inputs=run,
                outputs=["question_answering_model", "question_answering_history", "question_answering_summary"],
            ),
            Node(
                fine_tune_control,
                inputs=run,
                outputs=[
                    "question_answering_control_model",
                    "question_answering_control_history",
                    "question_answering_control_summary",
                ],
            ),
            Node(
                ask,
                inputs=[
                    "params:question_answering",
                    "params:seed",
                    "question_data",
                    "question_report",
                    "question_answering_model",
                    "question_answering_summary",
                    "question_answering_control_model",
                    "question_answering_control_summary",
                ],
                outputs=["question_answering_metrics", "question_answering_records", "question_answering_predictions"],
            ),
            Node(
                report_answers,
                inputs=[
                    "params:question_answering",
                    "question_data",
                    "question_answering_metrics",
                    "question_answering_records",
                    "question_answering_predictions",
                    "question_answering_history",
                    "question_answering_control_history",
                ],
                outputs="question_answering_report",
            ),
        ]
    )
