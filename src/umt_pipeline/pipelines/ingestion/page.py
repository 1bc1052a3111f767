"""The nodes that describe a finished ingestion: as JSON, and as a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from umt_pipeline.pipelines.ingestion.accepting import Accepted, AcceptedVideos, clean_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.remedies import EXPLANATIONS
from umt_pipeline.reports.ingestion.content import Content, RulesInForce
from umt_pipeline.reports.ingestion.measure import measure
from umt_pipeline.reports.ingestion.page import ingestion_page
from umt_pipeline.reports.ingestion.pictures import frame_loader
from umt_pipeline.reports.render import render
from umt_pipeline.tracking import provenance_tags


def describe_corpus(
    ingestion_report: dict[str, Any], videos: AcceptedVideos, tables: dict[str, Accepted], params: IngestionParams
) -> dict[str, Any]:
    """Count all that the page draws.

    Args:
        ingestion_report: what was counted before.
        videos: what became of the videos.
        tables: what became of the other tables.
        params: the rules in force.

    Returns:
        :class:`~umt_pipeline.reports.ingestion.content.Content`, as JSON says it.
    """
    rules = RulesInForce(
        splits=params.splits,
        min_frames=params.rules.min_frames,
        min_side=params.rules.min_side,
        max_rejected_share=params.max_rejected_share,
        on_duplicate_content=params.on_duplicate_content,
        on_content_in_two_splits=params.on_content_in_two_splits,
        on_near_duplicates_across_splits=params.on_near_duplicates_across_splits,
        on_bad_row=params.on_bad_row,
    )
    clean = clean_tables(videos, tables)
    about = {name: clean[name] for name in tables}
    meanings = {reason: explanation.meaning for reason, explanation in EXPLANATIONS.items()}
    return measure(ingestion_report, clean["videos"], about, clean["rejects"], meanings, rules).model_dump(mode="json")


def show_corpus(ingestion_statistics: dict[str, Any], raw_media: Path, videos: AcceptedVideos, params: IngestionParams) -> str:
    """Draw the page, with frames of a few files.

    Args:
        ingestion_statistics: from :func:`describe_corpus`; every number comes from there.
        raw_media: folder that paths are relative to.
        videos: what became of the videos; says of the files to show how many frames they have.
        params: shown as they are; limits of reading a file.

    Returns:
        HTML that needs no other file. A file that cannot be read has a box with the reason in place of its frames.
    """
    content = Content.model_validate(ingestion_statistics)
    page = ingestion_page(content, frame_loader(Path(raw_media), videos.table(), content, params.limits))
    return render(page, {"run": provenance_tags(Path.cwd(), os.environ)}, params.model_dump(mode="json"))
