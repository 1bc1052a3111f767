"""Tables of what came in and was accepted, for the pages of the ingestion and of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umt_pipeline.reports.page import Cell, Table
from umt_pipeline.reports.tables import table


def count_table(ingestion: Mapping[str, Any]) -> Table | None:
    """Return rows in = accepted + rejected per table, each sum checked here again."""
    rows = []
    for name, counts in ingestion.get("tables", {}).items():
        came, accepted, rejected = (int(counts[key]) for key in ("rows_in", "accepted", "rejected"))
        check = Cell("✓ adds up") if came == accepted + rejected else Cell("✗ does not add up", style="bad")
        rows.append((name, came, accepted, rejected, check))
    return table("Rows of each table", ("Table", "Rows in", "Accepted", "Rejected", "Check"), rows)


def corpora_table(ingestion: Mapping[str, Any]) -> Table | None:
    """Return what was accepted of each corpus: files, videos, images, captions, hours."""
    columns = ("rows_in", "rejected", "videos", "images", "captions", "hours")
    rows = [(name, *(counts[column] for column in columns)) for name, counts in ingestion.get("corpora", {}).items()]
    head = ("Corpus", "Files listed", "Rejected", "Videos", "Images", "Captions", "Hours of video")
    return table("Videos and images of each corpus", head, rows)
