"""The pipeline ``prepare``: a folder of videos → the same videos in a form that training reads fast."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.numbers import numbers_table
from umt_pipeline.pipelines.prepare.nodes import prepare_media


def create_pipeline() -> Pipeline:
    """Return the pipeline. What it makes is ``raw_media``, so that all that follows works as it would on the originals."""
    return Pipeline(
        [
            Node(
                prepare_media,
                inputs=["source_media", "params:prepare", "params:offline", "workspace"],
                outputs=["raw_media", "prepare_report", "prepare_times"],
                name="prepare_media",
            ),
            Node(numbers_table, inputs="prepare_report", outputs="prepare_numbers", name="tell_prepare_numbers"),
        ]
    )
