"""Nodes of the ingestion: raw tables → checked tables, rejects and counts.

Tables go from node to node as files in the workspace, of which a block of rows is in memory at a time. Rows keep their number
in the raw table as their index: it is what they are reconciled by.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandera.pandas import DataFrameModel

from umt_pipeline.core.errors import TableError
from umt_pipeline.executors import OfflineParams, open_executor
from umt_pipeline.pipelines.ingestion.accepting import (
    Accepted,
    AcceptedVideos,
    accept_rows,
    clean_tables,
    info_table,
    leave_out_repeats,
    settle_videos,
)
from umt_pipeline.pipelines.ingestion.listing import ListedVideos, check_share, read_videos
from umt_pipeline.pipelines.ingestion.media_paths import is_inside
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.report import describe
from umt_pipeline.pipelines.ingestion.rows import Reject, RejectsWriter, check_bad_rows, count_reasons
from umt_pipeline.pipelines.ingestion.tables import KINDS, ReadTable, read_kind
from umt_pipeline.schemas import Rejects as RejectsSchema
from umt_pipeline.schemas import Videos, check_table
from umt_pipeline.tables.blocks import Blocks, Table, as_blocks
from umt_pipeline.tables.spill import Spill, SpilledRows
from umt_pipeline.video.media import Reason, Refusal, VideoInfo
from umt_pipeline.video.probing import probe_all

logger = logging.getLogger(__name__)

_OUTSIDE = Refusal(Reason.OUTSIDE_FOLDER.value, "expected a path inside the media folder, relative to it")


@dataclass(frozen=True)
class Listing:
    """All rows of the users' tables, and where what is made of them is kept.

    Attributes:
        videos: the table of videos and images.
        tables: those about them, by the names of the clean tables.
        spill: of all tables on their way.
    """

    videos: ListedVideos
    tables: dict[str, ReadTable]
    spill: Spill


@dataclass(frozen=True)
class Probed:
    """What was found in the files.

    Attributes:
        rows: those that can be used, with the columns of the clean table.
        rejects: the others.
    """

    rows: SpilledRows
    rejects: SpilledRows


def read_raw_tables(
    raw_media: Path,
    raw_videos: Table,
    raw_captions: Table,
    raw_labels: Table,
    raw_questions: Table,
    raw_boxes: Table,
    params: IngestionParams,
    workspace: Path,
) -> Listing:
    """Map the users' columns to ours and find the rows that are wrong whatever the files hold.

    Args:
        raw_media: folder that the paths are relative to.
        raw_videos: a row per file, video or image.
        raw_captions: a row per caption.
        raw_labels: a row per video and task.
        raw_questions: a row per question. Without rows the corpus has none, as of the next.
        raw_boxes: a row per box and action.
        params: columns, allowed splits, what to do with bad rows.
        workspace: keeps the tables until the last one who needs them has ended.

    Raises:
        TableError: a column is missing, there is no video, or a row is wrong and may not be.
    """
    spill = Spill(workspace / "ingestion" / "tables")
    videos, names = read_videos(as_blocks(raw_videos), Path(raw_media), params, spill)
    raw = {"captions": raw_captions, "labels": raw_labels, "questions": raw_questions, "boxes": raw_boxes}
    tables = {kind.name: read_kind(kind, as_blocks(raw[kind.name]), params.mapping(kind.name), names, spill) for kind in KINDS}
    for name, read in tables.items():
        check_bad_rows(name, read.rejects, params.on_bad_row)  # before hours of decoding
    return Listing(videos, tables, spill)


def probe_videos(
    raw_media: Path, listing: Listing, params: IngestionParams, offline: OfflineParams, workspace: Path
) -> Probed:
    """Decode every file that is not known from an earlier run, once.

    Args:
        raw_media: folder that the paths are relative to.
        listing: all rows.
        params: rules, limits and number of processes.
        offline: where this is done.
        workspace: keeps what is found of each file, to be found again.

    Raises:
        ConfigError: Ray cannot be reached, or one of its workers lacks what it needs.
    """
    videos, folder = listing.videos, workspace / "ingestion"
    names = filter(is_inside, videos.paths())
    total = sum(map(is_inside, videos.paths()))
    with open_executor(offline) as executor:
        results = iter(probe_all(Path(raw_media), names, params.rules, params.limits, folder, params.workers, total, executor))
        usable, rejects = listing.spill.writer(), RejectsWriter(listing.spill)
        for block in videos.blocks():
            found = [next(results) if is_inside(video) else _OUTSIDE for video in block["video"]]
            asked = block["media"] if "media" in block else [None] * len(block)
            outcomes = [_as_asked(result, media) for result, media in zip(found, asked, strict=True)]
            refused = zip(block.index.tolist(), block["video"], outcomes, strict=True)
            rejects.add([Reject(row, path, one.reason, one.detail) for row, path, one in refused if isinstance(one, Refusal)])
            infos = [one for one in outcomes if isinstance(one, VideoInfo)]
            usable.add(info_table(block[np.array([isinstance(one, VideoInfo) for one in outcomes], bool)], infos))
        next(results, None)  # lets it tell how it went
    return Probed(usable.finish(), rejects.finish())


def _as_asked(result: VideoInfo | Refusal, media: str | None) -> VideoInfo | Refusal:
    if isinstance(result, Refusal) or media in (None, result.media):
        return result
    detail = f"expected {media}, as the table says, found {result.media} ({result.codec})"
    return Refusal(Reason.WRONG_MEDIA.value, detail)


def accept_videos(listing: Listing, probed: Probed, params: IngestionParams) -> tuple[AcceptedVideos, dict[str, Any]]:
    """Find content that occurs more than once, and settle which videos are accepted.

    Args:
        listing: all rows, with those that were refused before any file was opened.
        probed: what was found in the files of the others.
        params: the share that may be unusable; what to do with repeated content.

    Returns:
        What became of each row; what occurs more than once: under ``duplicates`` files with the same bytes, under
        ``near_duplicates`` files that look the same.

    Raises:
        TableError: too many videos are unusable, or content is repeated and a parameter makes that an error.
    """
    listed = listing.videos
    rejects = listed.rejects + probed.rejects
    check_share(rejects, len(listed.rows), params)
    unwanted, repeated_content = leave_out_repeats(probed.rows, params)
    return settle_videos(probed.rows, unwanted, rejects, listed.first_of, len(listed.rows)), repeated_content


def accept_tables(listing: Listing, videos: AcceptedVideos, params: IngestionParams) -> dict[str, Accepted]:
    """Keep the rows of accepted videos that are right by themselves.

    Args:
        listing: all rows.
        videos: what became of the videos.
        params: what to do with bad rows.

    Returns:
        What became of each table, by its name.

    Raises:
        TableError: a row is wrong and may not be, or a table has rows but none to accept.
    """
    return {kind.name: accept_rows(kind, listing.tables[kind.name], videos, listing.spill, params.on_bad_row) for kind in KINDS}


def reconcile(listing: Listing, videos: AcceptedVideos, tables: dict[str, Accepted]) -> dict[str, dict[str, Any]]:
    """Check that every raw row was accepted or rejected, exactly once, and count.

    Args:
        listing: all rows.
        videos: what became of the videos.
        tables: what became of the other tables.

    Returns:
        Counts of each table.

    Raises:
        TableError: a row is missing or was counted twice. This is a mistake of the program, not of the data.
    """
    rows_in = {"videos": len(listing.videos.rows), **{name: read.count for name, read in listing.tables.items()}}
    counts: dict[str, dict[str, Any]] = {}
    for name, found in {"videos": videos, **tables}.items():
        _check_balance(name, rows_in[name], found)
        reasons = count_reasons(found.rejects)
        counts[name] = {
            "rows_in": rows_in[name],
            "accepted": len(found),
            "rejected": len(found.rejects),
            "reasons": reasons,
        }
        told = "".join(f", {reason} {count}" for reason, count in reasons.items())
        logger.info("%s: %d of %d accepted%s", name, len(found), rows_in[name], told)
    return counts


def report(
    counts: dict[str, dict[str, Any]],
    listing: Listing,
    repeated_content: dict[str, Any],
    videos: AcceptedVideos,
    tables: dict[str, Accepted],
    params: IngestionParams,
) -> dict[str, Any]:
    """Return what is in the corpus, and log what its owner should know.

    Args:
        counts: from :func:`reconcile`.
        listing: all rows, the columns that were not used, the texts that were cleaned.
        repeated_content: from :func:`accept_videos`.
        videos: accepted videos.
        tables: accepted rows of the others.
        params: parameters.
    """
    told = describe(counts, listing.videos, listing.tables, videos, tables, repeated_content["near_duplicates"], params)
    for sentence in told["warnings"]:
        logger.warning("%s", sentence)
    return {**told, **repeated_content}


def finish(counts: dict[str, dict[str, Any]], videos: AcceptedVideos, tables: dict[str, Accepted]) -> tuple[Blocks, ...]:
    """Return the clean tables and all rejects, together, once every row is accounted for.

    Args:
        counts: from :func:`reconcile`, which has checked that.
        videos: what became of the videos.
        tables: what became of the other tables.
    """
    del counts
    schemas: dict[str, type[DataFrameModel]] = {
        "videos": Videos,
        **{kind.name: kind.clean for kind in KINDS},
        "rejects": RejectsSchema,
    }
    return tuple(Blocks(partial(_checked, table, schemas[name], name)) for name, table in clean_tables(videos, tables).items())


def _checked(table: Blocks, schema: type[DataFrameModel], name: str) -> Iterator[pd.DataFrame]:
    """Yield the blocks of a clean table that is as its schema says."""
    for block in table:
        yield check_table(block.reset_index(drop=True), schema, name, {})


def _check_balance(name: str, rows_in: int, found: Accepted) -> None:
    counted_R = np.zeros(rows_in + 1, np.int8)  # the last one is of numbers that no row has
    for block in found.blocks(found.columns[0]):
        np.add.at(counted_R, np.minimum(block.index, rows_in), 1)
    for reject in found.rejects:
        counted_R[min(reject.row, rows_in)] += 1
    if counted_R[rows_in] or not (counted_R[:rows_in] == 1).all():
        raise TableError(
            f"Table raw_{name}: {rows_in} rows were read, {len(found)} accepted and {len(found.rejects)} rejected; "
            "expected each row in exactly one of the two. Please report this: the program is wrong, not your table."
        )
