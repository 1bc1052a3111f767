"""The ingestion pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from umt_pipeline.pipelines.ingestion.nodes import (
    accept_captions,
    accept_labels,
    accept_videos,
    probe_videos,
    read_raw_tables,
    reconcile,
)


def create_pipeline() -> Pipeline:
    """Read raw tables, check every video, write clean tables.

    All results leave the last node together, so that no table is written before every rule has passed.
    """
    return Pipeline(
        [
            Node(
                read_raw_tables,
                name="read_raw_tables",
                inputs=["raw_videos", "raw_captions", "raw_labels", "params:ingestion"],
                outputs=["listed_videos", "listed_captions", "listed_labels", "ignored_columns"],
            ),
            Node(
                probe_videos,
                name="probe_videos",
                inputs=["raw_media", "listed_videos", "params:ingestion"],
                outputs="probed_videos",
            ),
            Node(
                accept_videos,
                name="accept_videos",
                inputs=["listed_videos", "probed_videos", "params:ingestion"],
                outputs=["accepted_videos", "rejected_videos", "duplicate_content"],
            ),
            Node(
                accept_captions,
                name="accept_captions",
                inputs=["listed_captions", "accepted_videos", "rejected_videos", "params:ingestion"],
                outputs=["accepted_captions", "rejected_captions"],
            ),
            Node(
                accept_labels,
                name="accept_labels",
                inputs=["listed_labels", "accepted_videos", "rejected_videos", "params:ingestion"],
                outputs=["accepted_labels", "rejected_labels"],
            ),
            Node(
                reconcile,
                name="reconcile",
                inputs={
                    "videos": "accepted_videos",
                    "captions": "accepted_captions",
                    "labels": "accepted_labels",
                    "rejected_videos": "rejected_videos",
                    "rejected_captions": "rejected_captions",
                    "rejected_labels": "rejected_labels",
                    "listed_videos": "listed_videos",
                    "listed_captions": "listed_captions",
                    "listed_labels": "listed_labels",
                    "ignored_columns": "ignored_columns",
                    "duplicate_content": "duplicate_content",
                    "params": "params:ingestion",
                },
                outputs=["videos", "captions", "labels", "rejects", "ingestion_report"],
            ),
        ]
    )
