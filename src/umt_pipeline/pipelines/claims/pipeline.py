"""The pipeline ``claims``: clips and teacher → many small runs → a table, a picture and what they say about the paper."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.claims.nodes import compare_arms, gather_clips, train_arms


def create_pipeline() -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                gather_clips,
                inputs=["params:claims", "videos", "labels", "raw_media", "teacher", "workspace"],
                outputs="claims_bank",
            ),
            Node(
                train_arms,
                inputs=["params:claims", "params:seed", "claims_bank", "teacher", "workspace"],
                outputs="claims_runs",
            ),
            Node(
                compare_arms,
                inputs=["params:claims", "claims_runs", "claims_bank"],
                outputs=["claims_metrics", "claims_records", "claims_figure", "claims_document"],
            ),
        ]
    )
