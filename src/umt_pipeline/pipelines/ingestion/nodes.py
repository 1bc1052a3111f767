"""Nodes of the ingestion: raw tables → checked tables, rejects and counts.

Between nodes, tables keep the row number of the raw table as their index: it is what the last node reconciles by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.tables import KINDS, REJECT_COLUMNS, accept_rows, read_texts
from umt_pipeline.schemas import RawVideos, Videos
from umt_pipeline.schemas.models import MEDIA
from umt_pipeline.video.media import Reason, VideoInfo
from umt_pipeline.video.probing import Refusal, probe_all

logger = logging.getLogger(__name__)

# Files or rows that a message lists; it counts the others.
MAX_LISTED = 5

VIDEO_COLUMNS = list(Videos.to_schema().columns)


Tables = dict[str, pd.DataFrame]
"""By the names of the clean tables."""


def read_raw_tables(
    raw_videos: pd.DataFrame,
    raw_captions: pd.DataFrame,
    raw_labels: pd.DataFrame,
    raw_questions: pd.DataFrame,
    raw_boxes: pd.DataFrame,
    params: IngestionParams,
) -> tuple[pd.DataFrame, Tables, dict[str, list[str]]]:
    """Map the users' columns to ours and check each table by itself.

    Args:
        raw_videos: a row per file, video or image.
        raw_captions: a row per caption.
        raw_labels: a row per video and task.
        raw_questions: a row per question. Without rows the corpus has none, as of the next.
        raw_boxes: a row per box and action.
        params: columns, allowed splits.

    Returns:
        The videos, with ``video_id``; the tables about them; for each the columns that were not used.

    Raises:
        TableError: a column is missing, a cell is blank or not text, a file is listed twice, a split or media type is not
            allowed.
    """
    mapping = params.mapping("videos")
    videos, unused = read_texts(raw_videos, mapping, "videos", RawVideos)
    if videos.empty:
        raise TableError("Table raw_videos: expected at least one row, found none.")
    _check_splits(videos, params)
    if "video_id" not in videos:
        videos["video_id"] = video_ids(list(videos["video"]))
    raw = {"captions": raw_captions, "labels": raw_labels, "questions": raw_questions, "boxes": raw_boxes}
    read = {kind.name: kind.read(raw[kind.name], params.mapping(kind.name)) for kind in KINDS}
    ignored = {"videos": unused, **{name: columns for name, (_, columns) in read.items()}}
    return videos, {name: table for name, (table, _) in read.items()}, ignored


def probe_videos(raw_media: Path, listed_videos: pd.DataFrame, params: IngestionParams) -> list[VideoInfo | Refusal]:
    """Decode every file once.

    Args:
        raw_media: folder that the paths are relative to.
        listed_videos: the video table of :func:`read_raw_tables`.
        params: rules and number of processes.

    Returns:
        For each row what the file holds or why it cannot be used.
    """
    inside = [not PurePosixPath(video).is_absolute() and ".." not in video.split("/") for video in listed_videos.video]
    paths = [Path(raw_media) / video for video, is_inside in zip(listed_videos.video, inside, strict=True) if is_inside]
    results = iter(probe_all(paths, params.rules, params.workers))
    outside = Refusal(Reason.OUTSIDE_FOLDER.value, "expected a path inside the media folder, relative to it")
    return [next(results) if is_inside else outside for is_inside in inside]


def accept_videos(
    listed_videos: pd.DataFrame, probed_videos: list[VideoInfo | Refusal], params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Separate usable videos from the others and find content that occurs more than once.

    Args:
        listed_videos: the video table of :func:`read_raw_tables`.
        probed_videos: one result per row.
        params: the share that may be unusable; what to do with repeated content.

    Returns:
        The video table without rejected rows; rejects; groups of files with the same bytes.

    Raises:
        TableError: too many videos are unusable, or content is repeated and a parameter makes that an error.
    """
    rejects, rows = [], []
    for row, (listed, result) in enumerate(zip(listed_videos.itertuples(), probed_videos, strict=True)):
        if isinstance(result, Refusal):
            rejects.append(_reject("videos", row, listed.video, result.reason, result.detail))
        elif getattr(listed, "media", result.media) != result.media:
            detail = f"expected {listed.media}, as the table says, found {result.media} ({result.codec})"
            rejects.append(_reject("videos", row, listed.video, Reason.WRONG_MEDIA.value, detail))
        else:
            named = {"video_id": listed.video_id, "path": listed.video, "split": listed.split, "corpus": listed.corpus}
            rows.append({**named, **asdict(result), "row": row})
    _check_share(rejects, len(listed_videos), params)
    videos = pd.DataFrame(rows, columns=[*VIDEO_COLUMNS, "row"]).set_index("row")
    groups = [group for _, group in videos.groupby("sha256", sort=False) if len(group) > 1]
    dropped = [reject for group in groups for reject in _repeated_content(group, params)]
    videos = videos.drop(index=[reject["row"] for reject in dropped])
    duplicates = [
        {"sha256": group["sha256"].iloc[0], "files": list(group["path"]), "splits": sorted(set(group["split"]))}
        for group in groups
    ]
    return videos, _rejects_table([*rejects, *dropped]), duplicates


def accept_tables(
    listed_tables: Tables, videos: pd.DataFrame, rejected_videos: pd.DataFrame, params: IngestionParams
) -> tuple[Tables, Tables]:
    """Keep the rows of accepted videos that are right by themselves.

    Args:
        listed_tables: from :func:`read_raw_tables`.
        videos: accepted videos.
        rejected_videos: rejected videos.
        params: what to do with rows of unknown videos.

    Returns:
        The accepted rows of each table, under their numbers in the raw table; the rejects of each.

    Raises:
        TableError: a row names an unknown video and ``on_orphan`` is ``error``, or a table has rows but none to accept.
    """
    accepted, rejected = {}, {}
    for kind in KINDS:
        rows, rejected[kind.name] = accept_rows(
            kind, listed_tables[kind.name], videos, rejected_videos, params.on_orphan == "error"
        )
        accepted[kind.name] = rows[[column for column in kind.clean.to_schema().columns if column in rows]]
    return accepted, rejected


def reconcile(
    listed_videos: pd.DataFrame,
    listed_tables: Tables,
    videos: pd.DataFrame,
    accepted_tables: Tables,
    rejected_videos: pd.DataFrame,
    rejected_tables: Tables,
) -> dict[str, dict[str, Any]]:
    """Check that every raw row was accepted or rejected, exactly once, and count.

    Args:
        listed_videos: all rows of the video table.
        listed_tables: all rows of the others.
        videos: accepted videos.
        accepted_tables: accepted rows of the others.
        rejected_videos: rejects of the video table.
        rejected_tables: rejects of the others.

    Returns:
        Counts of each table.

    Raises:
        TableError: a row is missing or was counted twice. This is a mistake of the program, not of the data.
    """
    listed = {"videos": listed_videos, **listed_tables}
    accepted, rejected = {"videos": videos, **accepted_tables}, {"videos": rejected_videos, **rejected_tables}
    counts: dict[str, dict[str, Any]] = {}
    for name in listed:
        _check_balance(name, listed[name], accepted[name], rejected[name])
        counts[name] = {
            "rows_in": len(listed[name]),
            "accepted": len(accepted[name]),
            "rejected": len(rejected[name]),
            "reasons": dict(sorted(Counter(rejected[name]["reason"]).items())),
        }
        reasons = "".join(f", {reason} {count}" for reason, count in counts[name]["reasons"].items())
        logger.info("%s: %d of %d accepted%s", name, len(accepted[name]), len(listed[name]), reasons)
    return counts


def report(
    counts: dict[str, dict[str, Any]],
    ignored_columns: dict[str, list[str]],
    duplicate_content: list[dict[str, Any]],
    listed_videos: pd.DataFrame,
    videos: pd.DataFrame,
    accepted_tables: Tables,
    params: IngestionParams,
) -> dict[str, Any]:
    """Return what is in the corpus.

    Args:
        counts: from :func:`reconcile`.
        ignored_columns: for each table the columns that were not used.
        duplicate_content: groups of files with the same bytes.
        listed_videos: all rows of the video table.
        videos: accepted videos.
        accepted_tables: accepted rows of the others.
        params: parameters.
    """
    tables = {name: {**told, "ignored_columns": ignored_columns[name]} for name, told in counts.items()}
    for kind in KINDS:
        rows = accepted_tables[kind.name]
        split_R = rows["video_id"].map(dict(zip(videos["video_id"], videos["split"], strict=True)))
        by_split = {split: kind.counts(rows[split_R == split]) for split in params.splits}
        if len(rows) and any(by_split.values()):
            tables[kind.name]["splits"] = by_split
    captions = accepted_tables["captions"]
    return {
        "dataset_id": params.dataset_id,
        "tables": tables,
        "splits": _count_splits(videos, captions, params.splits),
        "media": {media: int((videos["media"] == media).sum()) for media in MEDIA},
        "corpora": _count_corpora(videos, captions, listed_videos),
        "hours": round(float(videos["duration_s"].sum()) / 3600, 6),
        "codecs": dict(sorted(Counter(videos["codec"]).items())),
        "duplicates": {"files": sum(len(group["files"]) for group in duplicate_content), "groups": duplicate_content},
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


def _check_splits(videos: pd.DataFrame, params: IngestionParams) -> None:
    wrong = videos[~videos["split"].isin(params.splits)]
    if wrong.empty:
        return
    listed = "".join(f"\n  row {row}: found '{split}'" for row, split in wrong["split"].head(MAX_LISTED).items())
    more = f"\n  and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
    column = params.columns.videos.split
    raise TableError(
        f"Table raw_videos, column '{column}': expected one of the splits {', '.join(params.splits)}.{listed}{more}\n"
        "Correct the table, or add the split to ingestion.splits."
    )


def _check_share(rejects: list[dict[str, Any]], rows_in: int, params: IngestionParams) -> None:
    share = len(rejects) / rows_in
    if share <= params.max_rejected_share and len(rejects) < rows_in:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(r["reason"] for r in rejects).items()))
    first = "".join(f"\n  row {r['row']}, {r['video']}: {r['reason']}: {r['detail']}" for r in rejects[:MAX_LISTED])
    raise TableError(
        f"Table raw_videos: {len(rejects)} of {rows_in} videos ({share:.0%}) cannot be used; expected at most "
        f"{params.max_rejected_share:.0%} (ingestion.max_rejected_share) and one usable video. By reason: {reasons}. "
        f"First:{first}\nCheck that the paths in the table fit the media folder, repair the files, or raise the limit."
    )


def _repeated_content(group: pd.DataFrame, params: IngestionParams) -> list[dict[str, Any]]:
    """Decide about files with the same bytes; return rejects."""
    files = ", ".join(f"{video.path} ({video.split}, row {video.Index})" for video in group.itertuples())
    kept_split = max(group["split"], key=params.splits.index)
    elsewhere, kept = group[group["split"] != kept_split], group[group["split"] == kept_split]
    if len(elsewhere) and params.on_content_in_two_splits == "error":
        raise TableError(
            f"Table raw_videos: the same content is in two splits: {files}. A model would be tested on what it was "
            "trained on. Remove one, or set ingestion.on_content_in_two_splits: reject to keep the one held out."
        )
    if len(kept) > 1 and params.on_duplicate_content == "error":
        raise TableError(
            f"Table raw_videos: the same content is in several files: {files}. Remove all but one, or set "
            "ingestion.on_duplicate_content to reject or keep."
        )
    first = kept["path"].iloc[0]
    detail = f"same bytes as {first} of split {kept_split}"
    dropped = [_reject("videos", row, path, "content_in_two_splits", detail) for row, path in elsewhere["path"].items()]
    if params.on_duplicate_content == "reject":
        again = kept["path"].iloc[1:]
        dropped += [_reject("videos", row, path, "duplicate_content", detail) for row, path in again.items()]
    return dropped


def _reject(table: str, row: Any, video: Any, reason: str, detail: str) -> dict[str, Any]:
    return {"table": table, "row": int(row), "video": str(video), "reason": reason, "detail": detail}


def _rejects_table(rejects: list[dict[str, Any]]) -> pd.DataFrame:
    """Return one table's rejects in the order of its rows."""
    return pd.DataFrame(rejects, columns=REJECT_COLUMNS).sort_values("row", ignore_index=True)


def _check_balance(name: str, listed: pd.DataFrame, accepted: pd.DataFrame, rejected: pd.DataFrame) -> None:
    counted = sorted([*accepted.index, *rejected["row"]])
    if counted != list(range(len(listed))):
        raise TableError(
            f"Table raw_{name}: {len(listed)} rows were read, {len(accepted)} accepted and {len(rejected)} rejected; "
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
