"""The ingestion pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.ingestion.nodes import (
    accept_tables,
    accept_videos,
    finish,
    probe_videos,
    read_raw_tables,
    reconcile,
    report,
)
from umt_pipeline.pipelines.ingestion.page import describe_corpus, show_corpus
from umt_pipeline.pipelines.numbers import numbers_table


def create_pipeline() -> Pipeline:
    """Read raw tables, check every video, write clean tables, show what is in them.

    The clean tables leave the last node together, so that none is written before every rule has passed.
    """
    raw = ["raw_videos", "raw_captions", "raw_labels", "raw_questions", "raw_boxes"]
    clean = ["videos", "captions", "labels", "questions", "boxes", "rejects"]
    settled = ["settled_videos_data", "settled_tables_data"]
    return Pipeline(
        [
            Node(
                read_raw_tables,
                name="read_raw_tables",
                inputs=["raw_media", *raw, "params:ingestion", "workspace"],
                outputs="listing_data",
            ),
            Node(
                probe_videos,
                name="probe_videos",
                inputs=["raw_media", "listing_data", "params:ingestion", "params:offline", "workspace"],
                outputs="probed_data",
            ),
            Node(
                accept_videos,
                name="accept_videos",
                inputs=["listing_data", "probed_data", "params:ingestion"],
                outputs=["settled_videos_data", "repeated_content"],
            ),
            Node(
                accept_tables,
                name="accept_tables",
                inputs=["listing_data", "settled_videos_data", "params:ingestion"],
                outputs="settled_tables_data",
            ),
            Node(
                reconcile,
                name="reconcile",
                inputs=["listing_data", *settled],
                outputs="row_counts",
            ),
            Node(
                report,
                name="report_ingestion",
                inputs=["row_counts", "listing_data", "repeated_content", *settled, "params:ingestion"],
                outputs="ingestion_report",
            ),
            Node(
                numbers_table,
                name="tell_ingestion_numbers",
                inputs="ingestion_report",
                outputs="ingestion_numbers",
            ),
            Node(
                finish,
                name="write_clean_tables",
                inputs=["row_counts", *settled],
                outputs=clean,
            ),
            Node(
                describe_corpus,
                name="describe_corpus",
                inputs=["ingestion_report", *settled, "params:ingestion"],
                outputs="ingestion_statistics",
            ),
            Node(
                show_corpus,
                name="show_corpus",
                inputs=["ingestion_statistics", "raw_media", "settled_videos_data", "params:ingestion"],
                outputs="ingestion_page",
            ),
        ]
    )
