"""The tables about media: how each is read from the user's, which of its rows are wrong by themselves, how it is counted.

All go the same way: columns are mapped and checked, rows are joined to accepted media, and each row that is not accepted has
one reason, its first.

Shapes: R rows of a raw table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from umt_pipeline.core.errors import TableError
from umt_pipeline.schemas import (
    NO_OPTION,
    Boxes,
    Captions,
    Column,
    Constant,
    Labels,
    Questions,
    RawBoxes,
    RawCaptions,
    RawLabels,
    RawQuestions,
    Rejects,
    check_table,
    select_columns,
)

REJECT_COLUMNS = list(Rejects.to_schema().columns)
EDGES = ["x1", "y1", "x2", "y2"]
NUMBERS = ["timestamp_s", *EDGES, "score"]

Row = dict[Any, Any]
Problem = tuple[pd.Series, str, Callable[[Row], str]]
"""Rows that are wrong, the reason, and what to say of such a row."""


def no_problems(listed: pd.DataFrame) -> Iterator[Problem]:
    """Find nothing wrong with single rows: the schema has refused what is."""
    del listed
    yield from ()


def no_counts(accepted: pd.DataFrame) -> dict[str, int]:
    """Count nothing."""
    del accepted
    return {}


@dataclass(frozen=True)
class TableKind:
    """A table about media.

    Attributes:
        name: of the clean table; the raw one is ``raw_<name>``.
        read: from the user's table and the mapping of columns: our columns, rows numbered from 0; and the unused columns.
        clean: schema of what is accepted.
        problems: finds rows that are wrong by themselves.
        counts: what the report says of the accepted rows of a split.
        of_videos: whether rows about images are rejected.
        same: columns in which a later row that equals an earlier one is rejected; empty: none is.
    """

    name: str
    read: Callable[[pd.DataFrame, Mapping[str, Column]], tuple[pd.DataFrame, list[str]]]
    clean: type[pa.DataFrameModel]
    problems: Callable[[pd.DataFrame], Iterator[Problem]] = no_problems
    counts: Callable[[pd.DataFrame], dict[str, int]] = no_counts
    of_videos: bool = False
    same: tuple[str, ...] = ()


def accept_rows(
    kind: TableKind, listed: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame, orphans_are_errors: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join a table to accepted media and give a reason for each row that is not accepted.

    Args:
        kind: which table.
        listed: its rows, with our columns.
        videos: accepted videos and images.
        rejected_videos: rejects of the video table.
        orphans_are_errors: whether a row about a file that is in no table ends the run.

    Returns:
        The accepted rows with ``video_id``, under their numbers in the raw table; rejects, in the order of the table.

    Raises:
        TableError: a row names an unknown file and may not, or there are questions or boxes of which none is accepted.
    """
    reason_R, detail_R = np.full((2, len(listed)), "", dtype=object)
    for wrong, reason, describe in (*_not_joined(kind, listed, videos, rejected_videos), *kind.problems(listed)):
        first_R = wrong.to_numpy(bool) & (reason_R == "")
        if reason == "unknown_video" and orphans_are_errors and first_R.any():
            row = int(np.flatnonzero(first_R)[0])
            raise TableError(
                f"Table raw_{kind.name}: row {row}, column 'video': expected a video of table raw_videos, found "
                f"'{listed['video'].iloc[row]}'. Add the video, remove the row, or set ingestion.on_orphan: reject."
            )
        reason_R[first_R] = reason
        detail_R[first_R] = [describe(row) for row in listed[first_R].to_dict("records")]
    if kind.same:
        # Only now: a row is not the double of one that was rejected.
        rest = np.flatnonzero(reason_R == "")
        twice = rest[listed.iloc[rest].duplicated(list(kind.same)).to_numpy(bool)]
        reason_R[twice], detail_R[twice] = "duplicate", "an earlier row says the same"
    bad_R = reason_R != ""
    told = {"table": kind.name, "row": np.flatnonzero(bad_R), "reason": reason_R[bad_R], "detail": detail_R[bad_R]}
    rejects = listed.loc[bad_R, ["video"]].assign(**told)[REJECT_COLUMNS].reset_index(drop=True).astype({"row": "int64"})
    if kind.of_videos and len(listed) and bad_R.all():
        counts = rejects["reason"].value_counts().to_dict()
        first = rejects.iloc[0]
        raise TableError(
            f"Table raw_{kind.name}: none of {len(listed)} rows can be used: {counts}, the first, of '{first['video']}': "
            f"{first['detail']}. Expected paths as in the table of videos, such as "
            f"'{next(iter(videos['path']), 'none: no video was accepted')}'."
        )
    ids = dict(zip(videos["path"], videos["video_id"], strict=True))
    accepted = listed[~bad_R]
    return accepted.assign(video_id=accepted["video"].map(ids).astype(str)), rejects


def _not_joined(
    kind: TableKind, listed: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame
) -> Iterator[Problem]:
    broken: Mapping[str, str] = dict(zip(rejected_videos["video"], rejected_videos["reason"], strict=True))
    own = listed["video"]
    yield own.isin(list(broken)), "video_rejected", lambda row: f"its video was rejected: {broken[row['video']]}"
    if kind.of_videos:
        stills = videos.loc[videos["media"] != "video", "path"]
        yield own.isin(list(stills)), "image", lambda row: f"{kind.name} are of videos"
    yield ~own.isin(list(videos["path"])), "unknown_video", lambda row: "not in the table of videos"


# --- reading ----------------------------------------------------------------------------------------------------------
def read_texts(
    raw: pd.DataFrame, mapping: Mapping[str, Column], name: str, schema: type[pa.DataFrameModel]
) -> tuple[pd.DataFrame, list[str]]:
    """Read a table of texts: our columns, ``video`` as a normal relative path; and the columns that are not used.

    Raises:
        TableError: a column is missing, or the table breaks its schema.
    """
    table, ignored = select_columns(raw, mapping, f"raw_{name}", f"ingestion.columns.{name}")
    table["video"] = normal_paths(table["video"])
    return check_table(table, schema, f"raw_{name}", mapping), ignored


def _read_captions(raw: pd.DataFrame, mapping: Mapping[str, Column]) -> tuple[pd.DataFrame, list[str]]:
    table, ignored = read_texts(raw, mapping, "captions", RawCaptions)
    return table.assign(caption_id=table.index, caption=table["caption"].str.strip()), ignored


def _read_labels(raw: pd.DataFrame, mapping: Mapping[str, Column]) -> tuple[pd.DataFrame, list[str]]:
    return read_texts(raw, mapping, "labels", RawLabels)


def _read_questions(raw: pd.DataFrame, mapping: Mapping[str, Column]) -> tuple[pd.DataFrame, list[str]]:
    """Read questions. A cell that is not there is empty: a table of choices has no answers, one of answers no options."""
    texts = _given(raw, mapping, ("question_id", "video", "question"), {"question": ""})
    listed, unused = select_columns(raw, texts, "raw_questions", "ingestion.columns.questions")
    listed["video"] = normal_paths(listed["video"])
    for name in ("answers", "options"):
        listed[name] = pd.Series([_as_list(value) for value in _cells(raw, mapping[name])], dtype=object)
    correct = [NO_OPTION if _is_missing(value) else value for value in _cells(raw, mapping["correct"])]
    listed["correct"] = pd.Series(correct, dtype=object if correct else "int64").infer_objects()
    read = {str(mapping[name]) for name in ("answers", "options", "correct")}
    checked = check_table(listed[list(RawQuestions.to_schema().columns)], RawQuestions, "raw_questions", mapping)
    return checked, [name for name in unused if name not in read]


def _read_boxes(raw: pd.DataFrame, mapping: Mapping[str, Column]) -> tuple[pd.DataFrame, list[str]]:
    """Read boxes: numbers as numbers, NaN where they are none. What a table of drawn boxes need not say has a default."""
    defaults = {"person": "", "score": "1", "source": "annotated"}
    texts = _given(raw, mapping, tuple(RawBoxes.to_schema().columns), defaults)
    kept_as_text = {name: column for name, column in texts.items() if name not in NUMBERS}
    listed, unused = select_columns(raw, kept_as_text, "raw_boxes", "ingestion.columns.boxes")
    listed["video"] = normal_paths(listed["video"])
    for name in NUMBERS:
        column = texts[name]
        if isinstance(column, str) and column not in raw and len(raw):
            select_columns(raw, {name: column}, "raw_boxes", "ingestion.columns.boxes")  # says that it is missing
        cells = raw[column].reset_index(drop=True) if isinstance(column, str) and column in raw else defaults.get(name, "")
        listed[name] = pd.to_numeric(pd.Series(cells, index=listed.index), errors="coerce").astype(np.float64)
    read = {str(texts[name]) for name in NUMBERS}
    return listed[list(RawBoxes.to_schema().columns)], [name for name in unused if name not in read]


def _given(
    raw: pd.DataFrame, mapping: Mapping[str, Column], names: tuple[str, ...], defaults: Mapping[str, str]
) -> dict[str, Column]:
    """Return where columns come from: a column that the user's table lacks and need not have is its default."""
    return {
        name: Constant(constant=defaults[name]) if name in defaults and mapping[name] not in list(raw) else mapping[name]
        for name in names
    }


def normal_paths(videos: pd.Series) -> pd.Series:
    """Write ``./a//b.mp4`` as ``a/b.mp4``, so that tables agree; leave blank cells to the schema."""
    texts = [str(PurePosixPath(video)) if str(video).strip() else video for video in videos.tolist()]
    return pd.Series(texts, index=videos.index, dtype=str)


def _cells(raw: pd.DataFrame, column: Column) -> list[Any]:
    return raw[str(column)].tolist() if column in list(raw) else [None] * len(raw)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def _as_list(value: Any) -> Any:
    if _is_missing(value):
        return []
    return value.tolist() if isinstance(value, np.ndarray) else value


# --- rows that are wrong by themselves --------------------------------------------------------------------------------
def _box_problems(listed: pd.DataFrame) -> Iterator[Problem]:
    finite: pd.Series = pd.Series(np.isfinite(listed[NUMBERS].to_numpy(np.float64)).all(axis=1), index=listed.index)
    yield ~finite, "not_a_number", lambda row: f"expected finite numbers, found {_told(row, NUMBERS)}"
    yield listed["timestamp_s"] < 0.0, "negative_time", lambda row: f"expected seconds from 0, found {row['timestamp_s']}"
    outside = ((listed[EDGES] < 0.0) | (listed[EDGES] > 1.0)).any(axis=1)
    yield outside, "outside_frame", lambda row: f"expected edges from 0 to 1, found {_told(row, EDGES)}"
    flat = (listed["x1"] >= listed["x2"]) | (listed["y1"] >= listed["y2"])
    yield flat, "no_area", lambda row: f"expected x1 < x2 and y1 < y2, found {_told(row, EDGES)}"
    wrong = (listed["score"] < 0.0) | (listed["score"] > 1.0)
    yield wrong, "wrong_score", lambda row: f"expected a score from 0 to 1, found {row['score']}"
    other = ~listed["source"].isin(["annotated", "detected"])
    yield other, "wrong_source", lambda row: f"expected source annotated or detected, found {row['source']!r}"


def _told(row: Row, names: list[str]) -> str:
    return ", ".join(f"{name} {row[name]}" for name in names)


# --- counts -----------------------------------------------------------------------------------------------------------
def _count_questions(questions: pd.DataFrame) -> dict[str, int]:
    free = questions["correct"] == NO_OPTION
    answered = questions["answers"].map(len).astype(int) > 0
    return {
        "open": int((free & answered).sum()),
        "open_without_answer": int((free & ~answered).sum()),
        "multiple_choice": int((~free).sum()),
        "videos": questions["video_id"].nunique(),
    }


def _count_boxes(boxes: pd.DataFrame) -> dict[str, int]:
    once = boxes.drop_duplicates(["video_id", "timestamp_s", *EDGES, "source"])
    annotated, detected = (once[once["source"] == source] for source in ("annotated", "detected"))
    return {
        "key_frames": len(annotated.drop_duplicates(["video_id", "timestamp_s"])),
        "annotated_boxes": len(annotated),
        "detected_boxes": len(detected),
        "actions": len(boxes[(boxes["source"] == "annotated") & (boxes["label"] != "")]),
        "videos": annotated["video_id"].nunique(),
    }


KINDS = (
    TableKind("captions", _read_captions, Captions),
    TableKind("labels", _read_labels, Labels),
    TableKind("questions", _read_questions, Questions, counts=_count_questions, of_videos=True),
    TableKind(
        "boxes",
        _read_boxes,
        Boxes,
        problems=_box_problems,
        counts=_count_boxes,
        of_videos=True,
        same=("video", "timestamp_s", *EDGES, "label", "source"),
    ),
)
