"""Nodes of the ingestion: raw tables → checked tables, rejects and counts.

Between nodes, tables keep the row number of the raw table as their index: it is what the last node reconciles by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.schemas import Captions, Labels, RawCaptions, RawLabels, RawVideos, Rejects, Videos
from umt_pipeline.schemas.mapping import check_table, select_columns
from umt_pipeline.schemas.models import MEDIA
from umt_pipeline.video.media import Reason, VideoInfo
from umt_pipeline.video.probing import Refusal, probe_all

logger = logging.getLogger(__name__)

# Files or rows that a message lists; it counts the others.
MAX_LISTED = 5

VIDEO_COLUMNS = list(Videos.to_schema().columns)
REJECT_COLUMNS = list(Rejects.to_schema().columns)


def read_raw_tables(
    raw_videos: pd.DataFrame, raw_captions: pd.DataFrame, raw_labels: pd.DataFrame, params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, list[str]]]:
    """Map the users' columns to ours and check each table by itself.

    Args:
        raw_videos: a row per file, video or image.
        raw_captions: a row per caption.
        raw_labels: a row per video and task.
        params: columns, allowed splits.

    Returns:
        The three tables with our columns as text, ``video`` as a normal relative path, the first with ``video_id``; for
        each table the columns that were not used.

    Raises:
        TableError: a column is missing, a cell is blank or not text, a file is listed twice, a split or media type is not
            allowed.
    """
    schemas = {"videos": RawVideos, "captions": RawCaptions, "labels": RawLabels}
    listed, ignored = {}, {}
    for name, raw in zip(schemas, (raw_videos, raw_captions, raw_labels), strict=True):
        mapping = params.mapping(name)
        parameter = f"ingestion.columns.{name}"
        table, ignored[name] = select_columns(raw, mapping, f"raw_{name}", parameter)
        table["video"] = table["video"].map(_normal_path).astype(str)
        listed[name] = check_table(table, schemas[name], f"raw_{name}", mapping)
    videos = listed["videos"]
    if videos.empty:
        raise TableError("Table raw_videos: expected at least one row, found none.")
    _check_splits(videos, params)
    videos["video_id"] = video_ids(list(videos["video"]))
    return videos, listed["captions"], listed["labels"], ignored


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


def accept_captions(
    listed_captions: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame, params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the captions of accepted videos; ``caption_id`` is the row of the raw table.

    Args:
        listed_captions: the caption table of :func:`read_raw_tables`.
        videos: accepted videos.
        rejected_videos: rejected videos.
        params: what to do with captions of unknown videos.

    Returns:
        The caption table; rejects.

    Raises:
        TableError: a caption names an unknown video and ``on_orphan`` is ``error``.
    """
    accepted, rejects = _accept_rows("captions", listed_captions, videos, rejected_videos, params)
    accepted = accepted.assign(caption_id=accepted.index, caption=accepted["caption"].str.strip())
    return accepted[list(Captions.to_schema().columns)], rejects


def accept_labels(
    listed_labels: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame, params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the labels of accepted videos.

    Args:
        listed_labels: the label table of :func:`read_raw_tables`.
        videos: accepted videos.
        rejected_videos: rejected videos.
        params: what to do with labels of unknown videos.

    Returns:
        The label table; rejects.

    Raises:
        TableError: a label names an unknown video and ``on_orphan`` is ``error``.
    """
    accepted, rejects = _accept_rows("labels", listed_labels, videos, rejected_videos, params)
    return accepted[list(Labels.to_schema().columns)], rejects


def reconcile(
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    labels: pd.DataFrame,
    rejected_videos: pd.DataFrame,
    rejected_captions: pd.DataFrame,
    rejected_labels: pd.DataFrame,
    listed_videos: pd.DataFrame,
    listed_captions: pd.DataFrame,
    listed_labels: pd.DataFrame,
    ignored_columns: dict[str, list[str]],
    duplicate_content: list[dict[str, Any]],
    params: IngestionParams,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Check that every raw row was accepted or rejected, exactly once, and count.

    Args:
        videos: accepted videos.
        captions: accepted captions.
        labels: accepted labels.
        rejected_videos: rejects of the video table.
        rejected_captions: rejects of the caption table.
        rejected_labels: rejects of the label table.
        listed_videos: all rows of the video table.
        listed_captions: all rows of the caption table.
        listed_labels: all rows of the label table.
        ignored_columns: for each table the columns that were not used.
        duplicate_content: groups of files with the same bytes.
        params: parameters.

    Returns:
        The tables ``videos``, ``captions``, ``labels`` and ``rejects``; the report.

    Raises:
        TableError: a row is missing or was counted twice. This is a mistake of the program, not of the data.
    """
    accepted = {"videos": videos, "captions": captions, "labels": labels}
    rejected = {"videos": rejected_videos, "captions": rejected_captions, "labels": rejected_labels}
    listed = {"videos": listed_videos, "captions": listed_captions, "labels": listed_labels}
    tables: dict[str, dict[str, Any]] = {}
    for name in accepted:
        _check_balance(name, listed[name], accepted[name], rejected[name])
        tables[name] = {
            "rows_in": len(listed[name]),
            "accepted": len(accepted[name]),
            "rejected": len(rejected[name]),
            "reasons": dict(sorted(Counter(rejected[name]["reason"]).items())),
            "ignored_columns": ignored_columns[name],
        }
        reasons = "".join(f", {reason} {count}" for reason, count in tables[name]["reasons"].items())
        logger.info("%s: %d of %d accepted%s", name, len(accepted[name]), len(listed[name]), reasons)
    report = {
        "dataset_id": params.dataset_id,
        "tables": tables,
        "splits": _count_splits(videos, captions, params.splits),
        "media": {media: int((videos["media"] == media).sum()) for media in MEDIA},
        "corpora": _count_corpora(videos, captions, listed_videos),
        "hours": round(float(videos["duration_s"].sum()) / 3600, 6),
        "codecs": dict(sorted(Counter(videos["codec"]).items())),
        "duplicates": {"files": sum(len(group["files"]) for group in duplicate_content), "groups": duplicate_content},
    }
    clean = [table.reset_index(drop=True) for table in (videos, captions, labels)]
    rejects = pd.concat(list(rejected.values()), ignore_index=True)
    return clean[0], clean[1], clean[2], rejects, report


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


def _normal_path(video: str) -> str:
    """Write ``./a//b.mp4`` as ``a/b.mp4``, so that tables agree; leave blank cells to the schema."""
    return str(PurePosixPath(video)) if video.strip() else video


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


def _accept_rows(
    name: str, listed: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame, params: IngestionParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join a table to accepted videos; give a reason for each row that does not join."""
    ids: Mapping[str, str] = dict(zip(videos["path"], videos["video_id"], strict=True))
    reasons: Mapping[str, str] = dict(zip(rejected_videos["video"], rejected_videos["reason"], strict=True))
    rejects = []
    for row, video in listed["video"].items():
        if video in reasons:
            rejects.append(_reject(name, row, video, "video_rejected", f"its video was rejected: {reasons[video]}"))
        elif video not in ids:
            if params.on_orphan == "error":
                raise TableError(
                    f"Table raw_{name}: row {row}, column 'video': expected a video of table raw_videos, found "
                    f"'{video}'. Add the video, remove the row, or set ingestion.on_orphan: reject."
                )
            rejects.append(_reject(name, row, video, "unknown_video", "not in the table of videos"))
    accepted = listed.assign(video_id=listed["video"].map(ids).astype(str))
    return accepted.drop(index=[reject["row"] for reject in rejects]), _rejects_table(rejects)


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
