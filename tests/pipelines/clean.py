"""One table about media on its way through the ingestion, without probing any file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from umt_pipeline.pipelines.ingestion.accepting import accept_rows, settle_videos
from umt_pipeline.pipelines.ingestion.media_paths import PathNames
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import Reject, Rejects
from umt_pipeline.pipelines.ingestion.tables import KINDS, read_kind
from umt_pipeline.schemas import Rejects as RejectsSchema
from umt_pipeline.tables.blocks import Blocks, as_blocks
from umt_pipeline.tables.spill import Spill

NO_REJECTS = pd.DataFrame(columns=list(RejectsSchema.to_schema().columns))
TOLD = ("video", "reason", "detail")


def clean(
    name: str, raw: pd.DataFrame, videos: pd.DataFrame, rejected: pd.DataFrame = NO_REJECTS, **params: Any
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the accepted rows, checked by their schema, the rejects, and the unused columns."""
    kind = next(kind for kind in KINDS if kind.name == name)
    settings = IngestionParams.model_validate({"dataset_id": "tiny", "splits": ["train", "test"], **params})
    listed = [*videos["path"], *rejected["video"]]
    with TemporaryDirectory() as folder:
        spill = Spill(Path(folder))
        writer = spill.writer()
        writer.add(videos.reset_index(drop=True))
        cells = rejected[[*TOLD]].itertuples(index=False, name=None)
        told = [Reject(row, *told) for row, told in enumerate(cells, start=len(videos))]
        settled = settle_videos(writer.finish(), [], Rejects((told,)), {}, len(listed))
        read = read_kind(kind, as_blocks(raw), settings.mapping(name), PathNames.of(listed), spill)
        found = accept_rows(kind, read, settled, spill, settings.on_bad_row)
        accepted, rejects = found.table().read(), Blocks(lambda: found.rejects.blocks(name)).read()
    return kind.clean.validate(accepted), RejectsSchema.validate(rejects), read.ignored
