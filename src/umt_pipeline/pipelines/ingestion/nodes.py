"""Nodes of the ingestion: raw tables → checked tables, rejects and counts.

Between nodes, tables keep the row number of the raw table as their index: it is what the last node reconciles by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.executors import OfflineParams, open_executor
from umt_pipeline.pipelines.ingestion.advice import warnings
from umt_pipeline.pipelines.ingestion.duplicates import same_content, same_pictures
from umt_pipeline.pipelines.ingestion.listing import Listing, check_share, read_videos, video_ids
from umt_pipeline.pipelines.ingestion.media_paths import is_inside
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import Refused, check_bad_rows, rejects_table
from umt_pipeline.pipelines.ingestion.tables import KINDS, accept_rows
from umt_pipeline.schemas import Videos
from umt_pipeline.schemas.models import MEDIA
from umt_pipeline.video.media import Reason, Refusal, VideoInfo
from umt_pipeline.video.probing import probe_all

logger = logging.getLogger(__name__)

VIDEO_COLUMNS = list(Videos.to_schema().columns)


Tables = dict[str, pd.DataFrame]
"""By the names of the clean tables."""


def read_raw_tables(
    raw_media: Path,
    raw_videos: pd.DataFrame,
    raw_captions: pd.DataFrame,
    raw_labels: pd.DataFrame,
    raw_questions: pd.DataFrame,
    raw_boxes: pd.DataFrame,
    params: IngestionParams,
) -> tuple[Listing, pd.DataFrame]:
    """Map the users' columns to ours and find the rows that are wrong whatever the files hold.

    Args:
        raw_media: folder that the paths are relative to.
        raw_videos: a row per file, video or image.
        raw_captions: a row per caption.
        raw_labels: a row per video and task.
        raw_questions: a row per question. Without rows the corpus has none, as of the next.
        raw_boxes: a row per box and action.
        params: columns, allowed splits, what to do with bad rows.

    Returns:
        All rows; the rows of the video table whose files are to be probed, with ``video_id``.

    Raises:
        TableError: a column is missing, there is no video, or a row is wrong and may not be.
    """
    videos, names = read_videos(raw_videos, Path(raw_media), params)
    raw = {"captions": raw_captions, "labels": raw_labels, "questions": raw_questions, "boxes": raw_boxes}
    tables = {kind.name: kind.read(raw[kind.name], params.mapping(kind.name), names) for kind in KINDS}
    for name, read in tables.items():
        check_bad_rows(name, read.refused, params.on_bad_row)  # before hours of decoding
    listed = videos.rows[~videos.rows.index.isin(list(videos.refused))]
    if "video_id" not in listed:
        listed = listed.assign(video_id=pd.Series(video_ids(list(listed["video"])), listed.index, dtype=str))
    return Listing(videos, tables), listed


def probe_videos(
    raw_media: Path, listed_videos: pd.DataFrame, params: IngestionParams, offline: OfflineParams, workspace: Path
) -> list[VideoInfo | Refusal]:
    """Decode every file that is not known from an earlier run, once.

    Args:
        raw_media: folder that the paths are relative to.
        listed_videos: the video table of :func:`read_raw_tables`.
        params: rules, limits and number of processes.
        offline: where this is done.
        workspace: keeps what is found of each file, to be found again.

    Returns:
        For each row what the file holds or why it cannot be used.

    Raises:
        ConfigError: Ray cannot be reached, or one of its workers lacks what it needs.
    """
    inside = [is_inside(video) for video in listed_videos.video]
    names = [video for video, is_inside in zip(listed_videos.video, inside, strict=True) if is_inside]
    folder = workspace / "ingestion"
    with open_executor(offline) as executor:
        found = probe_all(Path(raw_media), names, params.rules, params.limits, folder, params.workers, executor)
    results = iter(found)
    outside = Refusal(Reason.OUTSIDE_FOLDER.value, "expected a path inside the media folder, relative to it")
    return [next(results) if is_inside else outside for is_inside in inside]


def accept_videos(
    listing: Listing, listed_videos: pd.DataFrame, probed_videos: list[VideoInfo | Refusal], params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Separate usable videos from the others and find content that occurs more than once.

    Args:
        listing: all rows, with those that were refused before any file was opened.
        listed_videos: the others, from :func:`read_raw_tables`.
        probed_videos: one result for each of these.
        params: the share that may be unusable; what to do with repeated content.

    Returns:
        The video table without rejected rows; rejects; what occurs more than once: under ``duplicates`` files with the same
        bytes, under ``near_duplicates`` files that look the same.

    Raises:
        TableError: too many videos are unusable, or content is repeated and a parameter makes that an error.
    """
    refused: Refused = dict(listing.videos.refused)
    rows: list[int] = []
    found: list[VideoInfo] = []
    for row, listed, result in zip(listed_videos.index.tolist(), listed_videos.itertuples(), probed_videos, strict=True):
        if isinstance(result, Refusal):
            refused[row] = (result.reason, result.detail)
        elif getattr(listed, "media", result.media) != result.media:
            detail = f"expected {listed.media}, as the table says, found {result.media} ({result.codec})"
            refused[row] = (Reason.WRONG_MEDIA.value, detail)
        else:
            rows.append(row)
            found.append(result)
    check_share(refused, listing.videos.rows["video"], params)
    videos = listed_videos.loc[rows, ["video_id", "video", "split", "corpus"]].rename(columns={"video": "path"})
    # Column by column: a mapping for each row would take several times the memory of the table.
    for field in fields(VideoInfo):
        videos[field.name] = [getattr(info, field.name) for info in found]
    videos = videos[VIDEO_COLUMNS].rename_axis("row")
    repeated, groups = same_content(videos, params)
    videos = videos.drop(index=list(repeated))
    alike, near_duplicates = same_pictures(videos, params)
    refused |= repeated | alike
    duplicates = {"files": sum(len(group["files"]) for group in groups), "groups": groups}
    rejects = rejects_table("videos", refused, listing.videos.rows["video"])
    return videos.drop(index=list(alike)), rejects, {"duplicates": duplicates, "near_duplicates": near_duplicates}


def accept_tables(
    listing: Listing, videos: pd.DataFrame, rejected_videos: pd.DataFrame, params: IngestionParams
) -> tuple[Tables, Tables]:
    """Keep the rows of accepted videos that are right by themselves.

    Args:
        listing: all rows.
        videos: accepted videos.
        rejected_videos: rejected videos.
        params: what to do with bad rows.

    Returns:
        The accepted rows of each table, under their numbers in the raw table; the rejects of each.

    Raises:
        TableError: a row is wrong and may not be, or a table has rows but none to accept.
    """
    accepted, rejected = {}, {}
    for kind in KINDS:
        rows, rejected[kind.name] = accept_rows(
            kind, listing.tables[kind.name], videos, rejected_videos, params.on_bad_row
        )
        accepted[kind.name] = rows[[column for column in kind.clean.to_schema().columns if column in rows]]
    return accepted, rejected


def reconcile(
    listing: Listing,
    videos: pd.DataFrame,
    accepted_tables: Tables,
    rejected_videos: pd.DataFrame,
    rejected_tables: Tables,
) -> dict[str, dict[str, Any]]:
    """Check that every raw row was accepted or rejected, exactly once, and count.

    Args:
        listing: all rows.
        videos: accepted videos.
        accepted_tables: accepted rows of the others.
        rejected_videos: rejects of the video table.
        rejected_tables: rejects of the others.

    Returns:
        Counts of each table.

    Raises:
        TableError: a row is missing or was counted twice. This is a mistake of the program, not of the data.
    """
    accepted, rejected = {"videos": videos, **accepted_tables}, {"videos": rejected_videos, **rejected_tables}
    counts: dict[str, dict[str, Any]] = {}
    for name, read in listing.all.items():
        _check_balance(name, len(read.rows), accepted[name], rejected[name])
        counts[name] = {
            "rows_in": len(read.rows),
            "accepted": len(accepted[name]),
            "rejected": len(rejected[name]),
            "reasons": dict(sorted(Counter(rejected[name]["reason"]).items())),
        }
        reasons = "".join(f", {reason} {count}" for reason, count in counts[name]["reasons"].items())
        logger.info("%s: %d of %d accepted%s", name, len(accepted[name]), len(read.rows), reasons)
    return counts


def report(
    counts: dict[str, dict[str, Any]],
    listing: Listing,
    repeated_content: dict[str, Any],
    videos: pd.DataFrame,
    accepted_tables: Tables,
    params: IngestionParams,
) -> dict[str, Any]:
    """Return what is in the corpus, and log what its owner should know.

    Args:
        counts: from :func:`reconcile`.
        listing: all rows, the columns that were not used, the texts that were cleaned.
        repeated_content: from :func:`accept_videos`.
        videos: accepted videos.
        accepted_tables: accepted rows of the others.
        params: parameters.
    """
    tables = {name: {**told, "ignored_columns": listing.all[name].ignored} for name, told in counts.items()}
    for name, read in listing.tables.items():
        tables[name]["cleaned"] = read.cleaned
    for kind in KINDS:
        rows = accepted_tables[kind.name]
        split_R = rows["video_id"].map(dict(zip(videos["video_id"], videos["split"], strict=True)))
        by_split = {split: kind.counts(rows[split_R == split]) for split in params.splits}
        if len(rows) and any(by_split.values()):
            tables[kind.name]["splits"] = by_split
    captions = accepted_tables["captions"]
    told = warnings(listing, videos, accepted_tables, repeated_content["near_duplicates"], params)
    for sentence in told:
        logger.warning("%s", sentence)
    return {
        "dataset_id": params.dataset_id,
        "warnings": told,
        "tables": tables,
        "splits": _count_splits(videos, captions, params.splits),
        "media": {media: int((videos["media"] == media).sum()) for media in MEDIA},
        "corpora": _count_corpora(videos, captions, listing.videos.rows),
        "hours": round(float(videos["duration_s"].sum()) / 3600, 6),
        "codecs": dict(sorted(Counter(videos["codec"]).items())),
        **repeated_content,
    }


def finish(
    counts: dict[str, dict[str, Any]],
    videos: pd.DataFrame,
    accepted_tables: Tables,
    rejected_videos: pd.DataFrame,
    rejected_tables: Tables,
) -> tuple[pd.DataFrame, ...]:
    """Return the clean tables and all rejects, together, once every row is accounted for.

    Args:
        counts: from :func:`reconcile`, which has checked that.
        videos: accepted videos.
        accepted_tables: accepted rows of the others.
        rejected_videos: rejects of the video table.
        rejected_tables: rejects of the others.
    """
    del counts
    clean = [videos, *(accepted_tables[kind.name] for kind in KINDS)]
    rejects = pd.concat([rejected_videos, *(rejected_tables[kind.name] for kind in KINDS)], ignore_index=True)
    return *(table.reset_index(drop=True) for table in clean), rejects


def _check_balance(name: str, rows_in: int, accepted: pd.DataFrame, rejected: pd.DataFrame) -> None:
    counted = sorted([*accepted.index, *rejected["row"]])
    if counted != list(range(rows_in)):
        raise TableError(
            f"Table raw_{name}: {rows_in} rows were read, {len(accepted)} accepted and {len(rejected)} rejected; "
            "expected each row in exactly one of the two. Please report this: the program is wrong, not your table."
        )


def _count_splits(videos: pd.DataFrame, captions: pd.DataFrame, splits: Sequence[str]) -> dict[str, dict[str, float]]:
    return {split: _count(videos[videos["split"] == split], captions) for split in splits}


def _count_corpora(
    videos: pd.DataFrame, captions: pd.DataFrame, listed_videos: pd.DataFrame
) -> dict[str, dict[str, float]]:
    counts = {}
    for corpus, listed in listed_videos.groupby("corpus"):
        accepted = videos[videos["corpus"] == corpus]
        rows = {"rows_in": len(listed), "accepted": len(accepted), "rejected": len(listed) - len(accepted)}
        counts[str(corpus)] = {**rows, **_count(accepted, captions)}
    return counts


def _count(part: pd.DataFrame, captions: pd.DataFrame) -> dict[str, float]:
    """Count videos and images of a part of the table, their captions, and the hours of the videos."""
    return {
        "videos": int((part["media"] == "video").sum()),
        "images": int((part["media"] == "image").sum()),
        "captions": int(captions["video_id"].isin(part["video_id"]).sum()),
        "hours": round(float(part["duration_s"].sum()) / 3600, 6),
    }
