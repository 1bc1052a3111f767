"""Which rows are accepted: files that can be used and whose content is wanted, and rows about these.

Shapes: R rows of the table of videos, F accepted files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.duplicates import same_content, same_pictures
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import (
    OnBadRow,
    Refused,
    Reject,
    Rejects,
    RejectsWriter,
    check_bad_rows,
    count_reasons,
    named,
)
from umt_pipeline.pipelines.ingestion.tables import LISTED, ReadTable, TableKind
from umt_pipeline.schemas import RowReason, Videos
from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.tables.keys import hash_rows, repeated
from umt_pipeline.tables.spill import Spill, SpilledRows
from umt_pipeline.video.media import VideoInfo
from umt_pipeline.video.near_duplicates import pack

# Where the video of an accepted row is among the files that can be used.
PLACE = "place"
VIDEO_COLUMNS = list(Videos.to_schema().columns)


@dataclass(frozen=True)
class Accepted:
    """What became of a table.

    Attributes:
        rows: the accepted ones, with the columns of the clean table and more.
        columns: of the clean table.
        rejects: the others.
        left_out: int64, rows that are in ``rows`` and not accepted.
    """

    rows: SpilledRows
    columns: list[str]
    rejects: Rejects
    left_out: np.ndarray

    def __len__(self) -> int:
        return len(self.rows) - len(self.left_out)

    def blocks(self, *columns: str) -> Iterator[pd.DataFrame]:
        """Yield the accepted rows under their numbers, with some columns or those of the clean table."""
        for block in self.rows.blocks(*(columns or self.columns)):
            yield block[~block.index.isin(self.left_out)] if len(self.left_out) else block

    def table(self) -> Blocks:
        """Return the clean table."""
        return Blocks(self.blocks, self.blocks)


# --- videos -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class AcceptedVideos(Accepted):
    """What became of the table of videos.

    *Places* are those of ``rows``, and include the ones left out.

    Attributes:
        place_R: int32, by the first row that names a file, its place; -1 if no row of it was accepted.
        reason_R: int16, by the same, the number in ``reasons`` of why it was rejected, -1 if it was not.
        reasons: names of reasons.
    """

    place_R: np.ndarray
    reason_R: np.ndarray
    reasons: list[str]

    def placed(self, *columns: str) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
        """Yield the accepted rows with their places, with some columns."""
        yield from placed(self.rows, self.left_out, *columns)


def placed(rows: SpilledRows, left_out: np.ndarray, *columns: str) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Yield the blocks of a table without some rows, each with the places of its rows, int64."""
    start = 0
    for block in rows.blocks(*columns):
        kept = ~block.index.isin(left_out)
        yield start + np.flatnonzero(kept), block[kept]
        start += len(block)


def info_table(listed: pd.DataFrame, found: Sequence[VideoInfo]) -> pd.DataFrame:
    """Return rows of the clean table of videos.

    Args:
        listed: video_id, video, split and corpus of files.
        found: what each of them holds.
    """
    videos = listed[["video_id", "video", "split", "corpus"]].rename(columns={"video": "path"})
    columns = Videos.to_schema().columns
    for field in fields(VideoInfo):
        kind = columns[field.name].dtype.type
        videos[field.name] = pd.Series([getattr(info, field.name) for info in found], videos.index, kind)
    return videos[VIDEO_COLUMNS]


def leave_out_repeats(rows: SpilledRows, params: IngestionParams) -> tuple[list[Reject], dict[str, Any]]:
    """Find content that occurs more than once, and what of it is not wanted.

    Args:
        rows: files that can be used.
        params: what to do with repeated content.

    Returns:
        What is not wanted; what occurs more than once: under ``duplicates`` files with the same bytes, under
        ``near_duplicates`` files that look the same.

    Raises:
        TableError: content is repeated and a parameter makes that an error.
    """
    hashes, rows_F = [], []
    for block in rows.blocks("sha256"):
        hashes.append(hash_rows(block, "sha256"))
        rows_F.append(block.index.to_numpy(np.int64))
    asked = rows.take(repeated(np.concatenate(hashes)), "path", "split", "sha256")
    refused, groups = same_content(asked, params)
    left_F = ~np.isin(np.concatenate(rows_F), np.fromiter(refused, np.int64, len(refused)))
    del hashes, rows_F

    (places,) = np.nonzero(left_F)
    words_FW = np.concatenate([pack(block["perceptual_hash"].tolist()) for block in rows.blocks("perceptual_hash")])
    members: list[pd.DataFrame] = []

    def files_at(found: np.ndarray) -> pd.DataFrame:
        members.append(rows.take(places[found], "path", "split", "sha256"))
        return members[-1]

    alike, near_duplicates = same_pictures(words_FW[left_F], files_at, params)
    paths: dict[Any, str] = {row: path for table in (asked, *members) for row, path in table["path"].items()}
    duplicates = {"files": sum(len(group["files"]) for group in groups), "groups": groups}
    return named(refused | alike, paths), {"duplicates": duplicates, "near_duplicates": near_duplicates}


def settle_videos(
    rows: SpilledRows, unwanted: list[Reject], rejects: Rejects, first_of: Mapping[int, int], listed: int
) -> AcceptedVideos:
    """Put together what became of the table of videos.

    Args:
        rows: files that can be used.
        unwanted: those of them that are not wanted.
        rejects: the other rows.
        first_of: by row, the first one that names the same file, where that is another row.
        listed: rows of the table.
    """
    left_out = np.array([reject.row for reject in unwanted], np.int64)
    rejects += unwanted
    numbers: dict[str, int] = {}
    reason_R, place_R = np.full(listed, -1, np.int16), np.full(listed, -1, np.int32)
    for reject in rejects:
        reason_R[first_of.get(reject.row, reject.row)] = numbers.setdefault(reject.reason, len(numbers))
    for places, block in placed(rows, left_out, "split"):
        place_R[block.index] = places
    for row, first in first_of.items():
        place_R[first] = max(place_R[first], place_R[row])
    return AcceptedVideos(rows, VIDEO_COLUMNS, rejects, left_out, place_R, reason_R, list(numbers))


# --- rows about them --------------------------------------------------------------------------------------------------
def accept_rows(kind: TableKind, read: ReadTable, videos: AcceptedVideos, spill: Spill, on_bad_row: OnBadRow) -> Accepted:
    """Join a table to accepted media and give a reason for each row that is not accepted.

    Args:
        kind: which table.
        read: its rows.
        videos: what became of the table of videos.
        spill: where the accepted rows are kept.
        on_bad_row: whether a wrong row ends the run.

    Returns:
        What became of it. Its rows have ``place``, the place of the video, beside the columns of the clean table.

    Raises:
        TableError: a row is wrong and may not be, or there are questions or boxes of which none is accepted.
    """
    accepted, rejects = spill.writer(), RejectsWriter(spill)
    for block in read.blocks():
        place = videos.place_R[block[LISTED]]
        there = place >= 0
        of_video = videos.rows.take(place[there], "video_id", "media")
        refused: Refused = {
            row: (RowReason.VIDEO_REJECTED, f"its video was rejected: {videos.reasons[reason]}")
            for row, reason in zip(block.index[~there], videos.reason_R[block[LISTED]][~there], strict=True)
        }
        rows = block[there].assign(video_id=of_video["video_id"].to_numpy(object), place=place[there])
        if kind.of_videos:
            still = of_video["media"].to_numpy(object) != "video"
            told = (RowReason.IMAGE, f"column 'video': {kind.name} are of videos")
            refused |= dict.fromkeys(rows.index[still].tolist(), told)
            rows = rows[~still]
        rejects.add(named(refused, block["video"]))
        accepted.add(rows[[*kind.columns, PLACE]].astype({"video_id": str}))
    found = Accepted(accepted.finish(), kind.columns, read.rejects + rejects.finish(), np.empty(0, np.int64))
    check_bad_rows(kind.name, found.rejects, on_bad_row)
    if kind.of_videos and read.count and not len(found):
        first, counts = next(iter(found.rejects)), count_reasons(found.rejects)
        path = next((path for block in videos.blocks("path") for path in block["path"]), "none: no video was accepted")
        raise TableError(
            f"Table raw_{kind.name}: none of {read.count} rows can be used: {counts}, the first, of '{first.video}': "
            f"{first.detail}. Expected paths as in the table of videos, such as '{path}'."
        )
    return found


def clean_tables(videos: AcceptedVideos, tables: dict[str, Accepted]) -> dict[str, Blocks]:
    """Return the clean tables by their names, the rejects last."""
    found: dict[str, Accepted] = {"videos": videos, **tables}
    clean = {name: one.table() for name, one in found.items()}
    return {**clean, "rejects": Blocks(lambda: (block for name, one in found.items() for block in one.rejects.blocks(name)))}
