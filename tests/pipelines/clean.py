"""One table about media on its way through the ingestion, without probing any file."""

from __future__ import annotations

from typing import Any

import pandas as pd

from umt_pipeline.pipelines.ingestion.media_paths import PathNames
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.tables import KINDS, accept_rows
from umt_pipeline.schemas import Rejects

NO_REJECTS = pd.DataFrame(columns=list(Rejects.to_schema().columns))


def clean(
    name: str, raw: pd.DataFrame, videos: pd.DataFrame, rejected: pd.DataFrame = NO_REJECTS, **params: Any
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the accepted rows, checked by their schema, the rejects, and the unused columns."""
    kind = next(kind for kind in KINDS if kind.name == name)
    settings = IngestionParams.model_validate({"dataset_id": "tiny", "splits": ["train", "test"], **params})
    listed = [*videos["path"], *rejected["video"]]
    read = kind.read(raw, settings.mapping(name), PathNames(listed, listed))
    rows, rejects = accept_rows(kind, read, videos, rejected, settings.on_bad_row)
    accepted = rows[list(kind.clean.to_schema().columns)].reset_index(drop=True)
    return kind.clean.validate(accepted), Rejects.validate(rejects), read.ignored
