"""Node that turns the raw box table into boxes in accepted videos, rejects, and counts that add up."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import read_json
from umt_pipeline.pipelines.detection.params import DetectionParams
from umt_pipeline.schemas import Boxes, Column, Constant, RawBoxes, Rejects, check_table, select_columns
from umt_pipeline.tasks.detection.training import key_numbers

logger = logging.getLogger(__name__)

COLUMNS = list(Boxes.to_schema().columns)
REJECT_COLUMNS = list(Rejects.to_schema().columns)
REQUIRED = ("video", "timestamp_s", "x1", "y1", "x2", "y2", "label")
# What a table that people drew all boxes of need not say.
DEFAULTS = {"person": "", "score": "1", "source": "annotated"}
EDGES = ["x1", "y1", "x2", "y2"]
NUMBERS = ["timestamp_s", *EDGES, "score"]
SAME = ["video", "timestamp_s", *EDGES, "label", "source"]

# Rows that are rejected, the reason, and what to say about a row.
Problem = tuple[pd.Series, str, Callable[[dict[Hashable, Any]], str]]


def read_boxes(
    params: DetectionParams, raw_boxes: pd.DataFrame, videos: pd.DataFrame, rejects: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Check the raw table row by row and join it to accepted videos.

    Args:
        params: splits to count, the list of actions, where in the film the files begin.
        raw_boxes: as :class:`RawBoxes` describes it, its numbers maybe as text. ``person``, ``score`` and ``source`` may be
            missing; other columns are not used, and reported. Without a row the project has no boxes, which is no error.
        videos: the clean video table.
        rejects: what the ingestion did not accept.

    Returns:
        The clean boxes; rejects of the box table; the report.

    Raises:
        TableError: a column is missing, or no row can be accepted.
        ConfigError: ``actions`` is no list of texts.
    """
    listed, ignored = _listed(raw_boxes)
    clips = videos[videos["media"] == "video"].set_index("path")
    reason, detail = np.full((2, len(listed)), "", dtype=object)
    for wrong, name, describe in _problems(params, listed, clips, videos, rejects):
        first = wrong.to_numpy(bool) & (reason == "")
        reason[first] = name
        detail[first] = [describe(row) for row in listed[first].to_dict("records")]
    # Only now: a row is not the double of one that was rejected.
    rest = np.flatnonzero(reason == "")
    twice = rest[listed.iloc[rest].duplicated(SAME).to_numpy(bool)]
    reason[twice], detail[twice] = "duplicate", "an earlier row says the same"
    bad = reason != ""
    table = listed.loc[bad, ["video"]].assign(table="boxes", row=np.flatnonzero(bad), reason=reason[bad], detail=detail[bad])
    table = table[REJECT_COLUMNS].reset_index(drop=True).astype({"row": "int64"})
    good = check_table(listed[~bad].reset_index(drop=True), RawBoxes, "raw_boxes", {})
    counts = dict(sorted(Counter(table["reason"]).items()))
    if len(listed) and good.empty:
        raise TableError(
            f"Table raw_boxes: none of {len(listed)} rows can be used: {counts}, the first: {table['detail'].iloc[0]}. "
            f"Expected boxes such as x1 0.25 (a share of the width) in paths such as {next(iter(clips.index), None)!r}."
        )
    accepted = good.assign(video_id=good["video"].map(clips["video_id"]).astype(str))[COLUMNS]
    logger.info("boxes: %d of %d rows accepted, rejected: %s", len(accepted), len(listed), counts or "none")
    report = {
        "rows_in": len(listed),
        "accepted": len(accepted),
        "rejected": len(table),
        "reasons": counts,
        "ignored_columns": ignored,
        "splits": {
            split: _count(accepted, clips[clips["split"] == split]) for split in (params.train_split, params.test_split)
        },
    }
    return accepted, table, report


def listed_actions(path: str | None, parameter: str) -> tuple[str, ...] | None:
    """Read a JSON list of actions; None where there is no file.

    Args:
        path: of the file.
        parameter: that names it, for messages.

    Raises:
        ConfigError: it is not a list of different texts.
    """
    if path is None:
        return None
    try:
        found = read_json(Path(path))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{parameter}: expected a JSON list of actions, found: {error}") from error
    texts = isinstance(found, list) and bool(found) and all(isinstance(text, str) and text.strip() for text in found)
    if not texts or len(set(found)) != len(found):
        raise ConfigError(f"{parameter}: expected a JSON list of different actions in {path}, found other things")
    return tuple(found)


def _listed(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the raw table with our columns, numbers as numbers (NaN where they are none), and the names of unused columns."""
    texts: dict[str, Column] = {name: name for name in REQUIRED if name not in NUMBERS}
    for name, value in DEFAULTS.items():
        texts[name] = name if name in raw else Constant(constant=value)
    absent = [name for name in REQUIRED if name not in raw]
    if absent and len(raw):
        raise TableError(
            f"Table raw_boxes: expected the columns {', '.join(REQUIRED)} and maybe {', '.join(DEFAULTS)}; found "
            f"{', '.join(map(str, raw)) or 'none'}; missing: {', '.join(absent)}. Rename them in the file."
        )
    del texts["score"]
    listed, unused = select_columns(raw, texts, "raw_boxes", "raw_boxes")
    listed["video"] = listed["video"].map(lambda video: str(PurePosixPath(video)) if video.strip() else video).astype(str)
    for name in NUMBERS:
        cells = raw[name].reset_index(drop=True) if name in raw else pd.Series(DEFAULTS.get(name, ""), index=listed.index)
        listed[name] = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    columns = list(RawBoxes.to_schema().columns)
    return listed[columns], [name for name in unused if name not in columns]


def _problems(
    params: DetectionParams, listed: pd.DataFrame, clips: pd.DataFrame, videos: pd.DataFrame, rejects: pd.DataFrame
) -> Iterator[Problem]:
    """Say which rows are wrong and why; a row is rejected for the first of its reasons."""
    broken = rejects[rejects["table"] == "videos"].drop_duplicates("video").set_index("video")["reason"]
    stills = set(videos.loc[videos["media"] != "video", "path"])
    known = listed["video"].isin(clips.index)
    yield (
        ~known & listed["video"].isin(broken.index), "video_rejected",
        lambda row: f"its video was rejected: {broken[row['video']]}",
    )  # fmt: skip
    yield listed["video"].isin(stills), "image", lambda row: "actions are detected in videos"
    yield ~known, "unknown_video", lambda row: f"{row['video']!r} is not in the table of videos"
    finite = pd.Series(np.isfinite(listed[NUMBERS].to_numpy(np.float64)).all(axis=1), index=listed.index)
    yield ~finite, "not_a_number", lambda row: f"expected finite numbers, found {_numbers(row, NUMBERS)}"
    outside = ((listed[EDGES] < 0.0) | (listed[EDGES] > 1.0)).any(axis=1)
    yield outside, "outside_frame", lambda row: f"expected edges from 0 to 1, found {_numbers(row, EDGES)}"
    flat = (listed["x1"] >= listed["x2"]) | (listed["y1"] >= listed["y2"])
    yield flat, "no_area", lambda row: f"expected x1 < x2 and y1 < y2, found {_numbers(row, EDGES)}"
    wrong = (listed["score"] < 0.0) | (listed["score"] > 1.0)
    yield wrong, "wrong_score", lambda row: f"expected a score from 0 to 1, found {row['score']}"
    other = ~listed["source"].isin(["annotated", "detected"])
    yield other, "wrong_source", lambda row: f"expected source annotated or detected, found {row['source']!r}"
    start_s = params.fine_tuning.start_s
    sizes = {name: dict(zip(clips.index, clips[name], strict=True)) for name in ("fps", "num_frames")}
    fps, frames = (listed["video"].map(sizes[name]).astype(np.float64).fillna(0.0) for name in ("fps", "num_frames"))
    key = key_numbers(listed["timestamp_s"].where(finite, start_s), fps, start_s)
    yield (
        (key < 0) | (key >= frames), "outside_video",
        lambda row: f"{row['timestamp_s']} s is not in its file of {sizes['num_frames'][row['video']]} frames, "
        f"{sizes['fps'][row['video']]:g} a second, which begins at start_s {start_s} s of the film",
    )  # fmt: skip
    actions = listed_actions(params.actions, "detection.actions")
    if actions is not None:
        strange = (listed["source"] == "annotated") & (listed["label"] != "") & ~listed["label"].isin(actions)
        yield strange, "unknown_action", lambda row: f"{row['label']!r} is not in detection.actions"


def _numbers(row: dict[Hashable, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in names)


def _count(boxes: pd.DataFrame, clips: pd.DataFrame) -> dict[str, int]:
    own = boxes[boxes["video_id"].isin(clips["video_id"])]
    once = own.drop_duplicates(["video_id", "timestamp_s", *EDGES, "source"])
    annotated, detected = (once[once["source"] == source] for source in ("annotated", "detected"))
    return {
        "key_frames": len(annotated.drop_duplicates(["video_id", "timestamp_s"])),
        "annotated_boxes": len(annotated),
        "detected_boxes": len(detected),
        "actions": len(own[(own["source"] == "annotated") & (own["label"] != "")]),
        "videos": len(clips),
        "videos_without_box": int((~clips["video_id"].isin(annotated["video_id"])).sum()),
    }
