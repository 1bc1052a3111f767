"""What the ingestion reads of raw tables, before any file is opened."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams

Read = tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, list[str]]]


def read_tables(
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    questions: pd.DataFrame,
    boxes: pd.DataFrame,
    *,
    params: IngestionParams,
) -> Read:
    """Return the listed videos, the rows of the tables about them, and for each table the columns that were not used."""
    listing, listed = read_raw_tables(Path("nowhere"), videos, captions, labels, questions, boxes, params)
    rows = {name: table.rows for name, table in listing.tables.items()}
    return listed, rows, {name: table.ignored for name, table in listing.all.items()}
