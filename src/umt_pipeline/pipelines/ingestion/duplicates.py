"""The same file, the same bytes or the same pictures more than once: what is kept, and what a split may not share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import Refused
from umt_pipeline.schemas import RowReason
from umt_pipeline.video.near_duplicates import group_near_duplicates


def listed_twice(rows: pd.DataFrame, written: pd.Series, params: IngestionParams) -> Refused:
    """Refuse all rows of a file but one: of the split held out most, and there the row that is written as the file is called.

    Args:
        rows: video, split; under their numbers in the raw table. Those of files that are listed once may be left out.
        written: the paths as the table writes them.
        params: what to do if a file is in two splits; the order of splits.

    Raises:
        TableError: a file is in two splits, and a parameter makes that an error.
    """
    refused: Refused = {}
    for path, group in rows[rows.duplicated("video", keep=False)].groupby("video", sort=False):
        kept, elsewhere = _hold_out(group.rename(columns={"video": "path"}), params, "file")
        exact = [row for row in kept.index if written[row] == path]
        first = exact[0] if exact else kept.index[0]
        for row in elsewhere.index:
            detail = f"column 'split': row {first} has the same file in split {kept['split'].iloc[0]}"
            refused[row] = (RowReason.CONTENT_IN_TWO_SPLITS, detail)
        for row in kept.index.drop(first):
            if written[row] == written[first]:
                refused[row] = (RowReason.DUPLICATE, f"column 'video': row {first} names the same file")
            else:
                detail = f"column 'video': row {first} names the same file in another Unicode form, {written[first]!a}"
                refused[row] = (RowReason.PATH_TWIN, detail)
    return refused


def same_content(videos: pd.DataFrame, params: IngestionParams) -> tuple[Refused, list[dict[str, Any]]]:
    """Find files with the same bytes, and refuse those that the parameters do not keep.

    Args:
        videos: path, split and sha256 of accepted files, under their numbers in the raw table. Those whose content is in no
            other file may be left out.
        params: what to do with them.

    Returns:
        Refused rows; each group for the report.

    Raises:
        TableError: content is repeated and a parameter makes that an error.
    """
    refused: Refused = {}
    groups = [group for _, group in videos.groupby("sha256", sort=False) if len(group) > 1]
    for group in groups:
        kept, elsewhere = _hold_out(group, params, "content")
        if len(kept) > 1 and params.on_duplicate_content == "error":
            raise TableError(
                f"Table raw_videos: the same content is in several files: {_files(group)}. Remove all but one, or set "
                "ingestion.on_duplicate_content to reject or keep."
            )
        detail = f"same bytes as {kept['path'].iloc[0]} of split {kept['split'].iloc[0]}"
        refused |= {row: (str(RowReason.CONTENT_IN_TWO_SPLITS), detail) for row in elsewhere.index}
        if params.on_duplicate_content == "reject":
            refused |= {row: (str(RowReason.DUPLICATE_CONTENT), detail) for row in kept.index[1:]}
    told = [
        {"sha256": group["sha256"].iloc[0], "files": list(group["path"]), "splits": sorted(set(group["split"]))}
        for group in groups
    ]
    return refused, told


def same_pictures(
    words_NW: np.ndarray, files_at: Callable[[np.ndarray], pd.DataFrame], params: IngestionParams
) -> tuple[Refused, dict[str, Any]]:
    """Find files that look the same though their bytes differ, and refuse those that the parameters do not keep.

    Args:
        words_NW: perceptual hashes of the accepted files, from :func:`~umt_pipeline.video.near_duplicates.pack`.
        files_at: returns path, split and sha256 of some of these, under their numbers in the raw table.
        params: how near is the same, what to do.

    Returns:
        Refused rows; for the report: ``bits``, files ``compared`` and ``not_compared`` (without a hash, or flat pictures), and
        ``groups``, those that cross splits first.

    Raises:
        TableError: a group crosses splits, and a parameter makes that an error.
    """
    found = group_near_duplicates(words_NW, params.near_duplicate_bits)
    members = files_at(np.array([place for group in found.groups for place in group], np.int64))
    ends = np.cumsum([0, *map(len, found.groups)]).tolist()
    groups = [members.iloc[start:end] for start, end in pairwise(ends)]
    groups = [group for group in groups if group["sha256"].nunique() > 1]  # the same bytes are reported as such
    groups.sort(key=lambda group: group["split"].nunique() < 2)
    refused: Refused = {}
    action: Literal["report", "reject", "error"] = params.on_near_duplicates_across_splits
    for group in groups:
        if action == "report" or group["split"].nunique() < 2:
            continue
        if action == "error":
            raise TableError(
                f"Table raw_videos: files of two splits look the same: {_files(group)}. A model would be tested on what it was "
                "trained on. Move all into one split, or set ingestion.on_near_duplicates_across_splits to report or reject."
            )
        kept_split = max(group["split"], key=params.splits.index)
        like = group.loc[group["split"] == kept_split, "path"].iloc[0]
        detail = f"looks like {like} of split {kept_split}"
        dropped = group.index[group["split"] != kept_split]
        refused |= {row: (str(RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS), detail) for row in dropped}
    told = {
        "bits": params.near_duplicate_bits,
        "compared": found.compared,
        "not_compared": len(words_NW) - found.compared,
        "across_splits": sum(group["split"].nunique() > 1 for group in groups),
        "groups": [{"files": list(group["path"]), "splits": sorted(set(group["split"]))} for group in groups],
    }
    return refused, told


def _hold_out(group: pd.DataFrame, params: IngestionParams, what: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part rows of the same file or content into those of the split held out most, and the others."""
    kept_split = max(group["split"], key=params.splits.index)
    elsewhere = group[group["split"] != kept_split]
    if len(elsewhere) and params.on_content_in_two_splits == "error":
        raise TableError(
            f"Table raw_videos: the same {what} is in two splits: {_files(group)}. A model would be tested on what it was "
            "trained on. Remove one, or set ingestion.on_content_in_two_splits: reject to keep the one held out."
        )
    return group[group["split"] == kept_split], elsewhere


def _files(group: pd.DataFrame) -> str:
    listed = [f"{video.path} ({video.split}, row {video.Index})" for video in group.itertuples()]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
