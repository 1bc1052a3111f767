"""What the ingestion reads of raw tables, before any file is opened."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.tables import LISTED
from umt_pipeline.tables.blocks import Blocks

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
    with TemporaryDirectory() as workspace:
        listing = read_raw_tables(Path("nowhere"), videos, captions, labels, questions, boxes, params, Path(workspace))
        rows = {name: Blocks(table.blocks).read().drop(columns=LISTED) for name, table in listing.tables.items()}
        ignored = {name: table.ignored for name, table in listing.tables.items()}
        return Blocks(listing.videos.blocks).read(), rows, {"videos": listing.videos.ignored, **ignored}
