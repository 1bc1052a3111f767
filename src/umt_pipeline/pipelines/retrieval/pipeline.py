"""The pipeline ``retrieval``: captioned clips and a stage-2 model → a fine-tuned model, how well both find, and a page."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.retrieval.nodes import fine_tune, gather_captions, search_before_and_after
from umt_pipeline.pipelines.retrieval.reporting import report_retrieval


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                gather_captions,
                inputs=["params:retrieval", "videos", "captions", "raw_media", "stage2_model", "workspace"],
                outputs="retrieval_data",
            ),
            Node(
                fine_tune,
                inputs=["params:retrieval", "params:seed", "retrieval_data", "workspace"],
                outputs=["retrieval_model", "retrieval_history", "retrieval_summary"],
            ),
            Node(
                search_before_and_after,
                inputs=[
                    "params:retrieval",
                    "params:seed",
                    "retrieval_data",
                    "retrieval_model",
                    "retrieval_summary",
                    "workspace",
                ],
                # Not in the catalog, like those of the evaluation: from one node to the next.
                outputs=["retrieval_metrics", "retrieval_records", "found_before_and_after"],
            ),
            Node(
                report_retrieval,
                inputs=[
                    "params:retrieval",
                    "retrieval_data",
                    "retrieval_metrics",
                    "retrieval_records",
                    "found_before_and_after",
                    "retrieval_history",
                ],
                outputs="retrieval_report",
            ),
        ]
    )
