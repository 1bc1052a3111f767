"""The users' tables, read: which rows there are, which of them are worth a look at their file, which are wrong already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.duplicates import listed_twice
from umt_pipeline.pipelines.ingestion.media_paths import PathNames, match_files
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import (
    MAX_LISTED,
    Problem,
    Refused,
    blank_cells,
    check_bad_rows,
    first_reasons,
    found_in,
)
from umt_pipeline.pipelines.ingestion.tables import ReadTable, normal_paths
from umt_pipeline.schemas import NOTHING_LOST, Column, RowReason, select_columns
from umt_pipeline.schemas.mapping import name_column
from umt_pipeline.schemas.models import KNOWN_MEDIA, MEDIA
from umt_pipeline.schemas.texts import shown


@dataclass(frozen=True)
class Listing:
    """All rows of the users' tables.

    Attributes:
        videos: the table of videos and images: our columns, paths as files are called.
        tables: those about them, by the names of the clean tables.
    """

    videos: ReadTable
    tables: dict[str, ReadTable]

    @property
    def all(self) -> dict[str, ReadTable]:
        """All tables by name, the videos first."""
        return {"videos": self.videos, **self.tables}


def read_videos(raw: pd.DataFrame, media: Path, params: IngestionParams) -> tuple[ReadTable, PathNames]:
    """Read the table of videos and images.

    Args:
        raw: the user's table.
        media: folder of the files, to find out what a path is called there.
        params: columns, allowed splits, what to do with bad rows and with a file in two splits.

    Returns:
        The table; what its paths are called in other tables.

    Raises:
        TableError: there are no rows, a column is missing, too few rows can be used, or a row is wrong and may not be.
    """
    mapping = params.mapping("videos")
    selected = select_columns(raw, mapping, "raw_videos", "ingestion.columns.videos")
    rows = selected.table
    if rows.empty:
        raise TableError("Table raw_videos: expected at least one row, found none.")
    written = normal_paths(rows["video"])
    refused = first_reasons(rows, selected.bad, _problems(rows, mapping, params.splits))
    paths, unclear = match_files(media, written.tolist())
    rows["video"] = pd.Series(paths, dtype=str)
    refused = {**unclear, **refused}
    refused |= listed_twice(rows.loc[~rows.index.isin(list(refused)), ["video", "split"]], written, params)
    refused |= _same_ids(rows[~rows.index.isin(list(refused))], mapping)
    check_bad_rows("videos", refused, params.on_bad_row)
    check_share(refused, rows["video"], params)
    return ReadTable(rows, refused, selected.ignored), PathNames(written, paths)


def check_share(refused: Refused, video_R: pd.Series, params: IngestionParams) -> None:
    """End a run that would leave too much out.

    Args:
        refused: of the table of videos.
        video_R: all of its paths.
        params: the share that may be lost.

    Raises:
        TableError: more is lost than may be, or all; a file that another row has is not lost.
    """
    lost = [row for row in sorted(refused) if refused[row][0] not in NOTHING_LOST]
    share = len(lost) / len(video_R)
    if share <= params.max_rejected_share and len(refused) < len(video_R):
        return
    counts = sorted(Counter(str(refused[row][0]) for row in lost).items())
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts)
    first = "".join(f"\n  row {row}, {video_R.iloc[row]}: {refused[row][0]}: {refused[row][1]}" for row in lost[:MAX_LISTED])
    raise TableError(
        f"Table raw_videos: {len(lost)} of {len(video_R)} videos ({share:.0%}) cannot be used; expected at most "
        f"{params.max_rejected_share:.0%} (ingestion.max_rejected_share) and one usable video. By reason: {reasons}. "
        f"First:{first}\nCheck that the paths in the table fit the media folder, repair the files, or raise the limit."
    )


def video_ids(paths: Sequence[str]) -> list[str]:
    """Name videos by their paths without suffix; where two would be called the same, by their whole paths.

    Args:
        paths: relative paths with ``/``, all different.

    Returns:
        One name per path, all different.
    """
    ids = [str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path for path in paths]
    while True:
        # More than one pass: the whole path "a.mp4" may be another file's path without suffix ("a.mp4.avi").
        counts = Counter(ids)
        if len(counts) == len(ids):
            return ids
        ids = [path if counts[name] > 1 else name for path, name in zip(paths, ids, strict=True)]


def _problems(rows: pd.DataFrame, mapping: Mapping[str, Column], splits: Sequence[str]) -> Iterator[Problem]:
    yield from blank_cells(rows, mapping, "video", "corpus")
    expected = f"{name_column('split', mapping)}: expected one of {', '.join(splits)}"
    yield ~rows["split"].isin(splits), RowReason.UNKNOWN_SPLIT, partial(found_in, "split", expected)
    if "media" in rows:
        expected = f"{name_column('media', mapping)}: expected {KNOWN_MEDIA}"
        yield ~rows["media"].isin(MEDIA), RowReason.UNKNOWN_MEDIA, partial(found_in, "media", expected)
    if "video_id" in rows:
        yield from blank_cells(rows, mapping, "video_id")


def _same_ids(rows: pd.DataFrame, mapping: Mapping[str, Column]) -> Refused:
    """Refuse rows that call another file what an earlier row calls its own."""
    if "video_id" not in rows:
        return {}
    expected = f"{name_column('video_id', mapping)}: expected a name that no earlier row has"
    again = rows.loc[rows["video_id"].duplicated(), "video_id"]
    found = zip(again.index.tolist(), again.tolist(), strict=True)
    return {row: (RowReason.DUPLICATE_ID, f"{expected}, found {shown(name)}") for row, name in found}
