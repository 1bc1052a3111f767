"""What the report of an ingestion says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umt_pipeline.pipelines.ingestion.accepting import Accepted, AcceptedVideos
from umt_pipeline.pipelines.ingestion.advice import warnings
from umt_pipeline.pipelines.ingestion.listing import ListedVideos
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.summary import Part, summarise
from umt_pipeline.pipelines.ingestion.tables import ReadTable


def describe(
    counts: Mapping[str, dict[str, Any]],
    listed: ListedVideos,
    read: Mapping[str, ReadTable],
    videos: AcceptedVideos,
    tables: Mapping[str, Accepted],
    near_duplicates: Mapping[str, Any],
    params: IngestionParams,
) -> dict[str, Any]:
    """Return what is in the corpus, and what its owner should know.

    Args:
        counts: of the rows of each table.
        listed: the table of videos as read.
        read: the other tables as read.
        videos: what became of the videos.
        tables: what became of the other tables.
        near_duplicates: files that look the same.
        params: parameters.
    """
    corpora = sorted(listed.corpora)
    found = summarise(videos, tables, params.splits, corpora)
    told = {name: {**row_counts, "ignored_columns": listed.ignored} for name, row_counts in counts.items()}
    for name, table in read.items():
        told[name] |= {"ignored_columns": table.ignored, "cleaned": table.cleaned}
        if name in found.by_split:
            told[name]["splits"] = found.by_split[name]
    parts = found.splits.values()
    return {
        "dataset_id": params.dataset_id,
        "warnings": warnings(found, {name: table.count for name, table in read.items()}, near_duplicates, params),
        "tables": told,
        "splits": {split: part.told() for split, part in found.splits.items()},
        "media": {"video": sum(part.videos for part in parts), "image": sum(part.images for part in parts)},
        "corpora": {corpus: _of_corpus(listed.corpora[corpus], found.corpora[corpus]) for corpus in corpora},
        "hours": round(found.seconds / 3600, 6),
        "codecs": dict(sorted(found.codecs.items())),
    }


def _of_corpus(listed: int, part: Part) -> dict[str, float]:
    accepted = part.videos + part.images
    return {"rows_in": listed, "accepted": accepted, "rejected": listed - accepted, **part.told()}
