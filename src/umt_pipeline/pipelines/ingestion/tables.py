"""The tables about media: how each is read from the user's, which of its rows are wrong by themselves, how it is counted.

All go the same way: columns are mapped, texts cleaned, rows joined to media, and each row that is not accepted has one reason,
its first.

Shapes: R rows of a raw table.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pandera.pandas as pa

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.media_paths import PathNames
from umt_pipeline.pipelines.ingestion.rows import (
    OnBadRow,
    Problem,
    Refused,
    Row,
    blank_cells,
    check_bad_rows,
    first_reasons,
    found_in,
    rejects_table,
)
from umt_pipeline.schemas import (
    NO_OPTION,
    Boxes,
    Captions,
    Column,
    Constant,
    Labels,
    Questions,
    RawBoxes,
    RawQuestions,
    RowReason,
    select_columns,
)
from umt_pipeline.schemas.mapping import Selected, name_column
from umt_pipeline.schemas.tasks import FORM, TEXTS, has_one_form, is_texts
from umt_pipeline.schemas.texts import as_text, clean_text, has_control, shown

EDGES = ["x1", "y1", "x2", "y2"]
NUMBERS = ["timestamp_s", *EDGES, "score"]


@dataclass(frozen=True)
class ReadTable:
    """A table as read: all of its rows.

    Attributes:
        rows: our columns, rows numbered from 0.
        refused: the rows that are wrong by themselves.
        ignored: the user's columns that were not used.
        cleaned: how many texts were changed, by what was changed.
    """

    rows: pd.DataFrame
    refused: Refused
    ignored: list[str]
    cleaned: dict[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """From the user's table, the mapping of columns and the listed media to our rows."""

    def __call__(self, raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> ReadTable: ...


def no_counts(accepted: pd.DataFrame) -> dict[str, int]:
    """Count nothing."""
    del accepted
    return {}


@dataclass(frozen=True)
class TableKind:
    """A table about media.

    Attributes:
        name: of the clean table; the raw one is ``raw_<name>``.
        read: reads it and finds rows that are wrong by themselves.
        clean: schema of what is accepted.
        counts: what the report says of the accepted rows of a split.
        of_videos: whether rows about images are rejected.
    """

    name: str
    read: Reader
    clean: type[pa.DataFrameModel]
    counts: Callable[[pd.DataFrame], dict[str, int]] = no_counts
    of_videos: bool = False


def accept_rows(
    kind: TableKind, read: ReadTable, videos: pd.DataFrame, rejected_videos: pd.DataFrame, on_bad_row: OnBadRow
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join a table to accepted media and give a reason for each row that is not accepted.

    Args:
        kind: which table.
        read: its rows.
        videos: accepted videos and images.
        rejected_videos: rejects of the video table.
        on_bad_row: whether a wrong row ends the run.

    Returns:
        The accepted rows with ``video_id``, under their numbers in the raw table; rejects, in the order of the table.

    Raises:
        TableError: a row is wrong and may not be, or there are questions or boxes of which none is accepted.
    """
    rows = read.rows
    refused = {**first_reasons(rows, [], _not_joined(kind, rows, videos, rejected_videos)), **read.refused}
    check_bad_rows(kind.name, refused, on_bad_row)
    rejects = rejects_table(kind.name, refused, rows["video"])
    if kind.of_videos and len(rows) and len(refused) == len(rows):
        counts = rejects["reason"].value_counts().to_dict()
        first = rejects.iloc[0]
        raise TableError(
            f"Table raw_{kind.name}: none of {len(rows)} rows can be used: {counts}, the first, of '{first['video']}': "
            f"{first['detail']}. Expected paths as in the table of videos, such as "
            f"'{next(iter(videos['path']), 'none: no video was accepted')}'."
        )
    ids = dict(zip(videos["path"], videos["video_id"], strict=True))
    accepted = rows[~rows.index.isin(list(refused))]
    return accepted.assign(video_id=pd.Series(accepted["video"].map(ids), dtype=str)), rejects


def _not_joined(kind: TableKind, rows: pd.DataFrame, videos: pd.DataFrame, rejected_videos: pd.DataFrame) -> Iterator[Problem]:
    own, accepted = rows["video"], set(videos["path"])
    told = zip(rejected_videos["video"], rejected_videos["reason"], strict=True)
    # A file that is listed twice is rejected once and accepted once.
    broken: Mapping[str, str] = {video: reason for video, reason in told if video not in accepted}
    yield own.isin(list(broken)), RowReason.VIDEO_REJECTED, lambda row: f"its video was rejected: {broken[row['video']]}"
    if kind.of_videos:
        stills = videos.loc[videos["media"] != "video", "path"]
        yield own.isin(list(stills)), RowReason.IMAGE, lambda row: f"column 'video': {kind.name} are of videos"


# --- reading ----------------------------------------------------------------------------------------------------------
def normal_paths(videos: pd.Series) -> pd.Series:
    """Write ``./a//b.mp4`` as ``a/b.mp4``, so that tables agree; leave blank cells blank."""
    texts = [
        # Most paths have nothing to write otherwise, and pathlib is slow for a million.
        str(PurePosixPath(video)) if video.strip() and ("//" in video or "/." in video or video[0] == "." or video[-1] == "/")
        else video for video in videos.tolist()
    ]  # fmt: skip
    return pd.Series(texts, index=videos.index, dtype=str)


def clean_texts(rows: pd.DataFrame, *columns: str) -> dict[str, int]:
    """Clean columns of texts for people, in place, and count what was changed.

    Returns:
        ``control_characters`` and ``unicode_form``: texts that had control characters, or were not composed (NFC).
    """
    cleaned = {"control_characters": 0, "unicode_form": 0}
    for column in columns:
        texts = rows[column].tolist()
        cleaned["control_characters"] += sum(has_control(text) for text in texts)
        cleaned["unicode_form"] += sum(not unicodedata.is_normalized("NFC", text) for text in texts)
        rows[column] = pd.Series([clean_text(text) for text in texts], index=rows.index, dtype=str)
    return cleaned


def _select(raw: pd.DataFrame, mapping: Mapping[str, Column], name: str, names: PathNames) -> Selected:
    """Take our columns as text, with paths as the table of videos has them."""
    selected = select_columns(raw, mapping, f"raw_{name}", f"ingestion.columns.{name}")
    paths = normal_paths(selected.table["video"]).tolist()
    selected.table["video"] = pd.Series([names.find(path) for path in paths], dtype=str)
    return selected


def _unknown(rows: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> Iterator[Problem]:
    """Find rows that need a video and name none, or one that is not listed."""
    yield from blank_cells(rows, mapping, "video")
    listed = rows["video"].map(names.knows).astype(bool)
    expected = f"{name_column('video', mapping)}: expected a video of table raw_videos"
    yield ~listed, RowReason.UNKNOWN_VIDEO, partial(found_in, "video", expected)


def _repeated(rows: pd.DataFrame, refused: Refused, *columns: str) -> list[int]:
    """Return the rows that equal an earlier one that is not refused."""
    rest = rows[~rows.index.isin(list(refused))]
    return rest.index[rest.duplicated(list(columns)).to_numpy(bool)].tolist()


def _read_captions(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> ReadTable:
    """Read captions. One that is there twice stays: published sets have such, and leaving one out changes a benchmark."""
    selected = _select(raw, mapping, "captions", names)
    rows = selected.table
    problems = [*blank_cells(rows, mapping, "caption"), *_unknown(rows, mapping, names)]
    refused = first_reasons(rows, selected.bad, problems)
    cleaned = clean_texts(rows, "caption")
    return ReadTable(rows.assign(caption_id=np.arange(len(rows))), refused, selected.ignored, cleaned)


def _read_labels(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> ReadTable:
    """Read labels: one of each task for a video. Of two that differ nobody knows which is right, so neither is taken."""
    selected = _select(raw, mapping, "labels", names)
    rows = selected.table
    problems = [*blank_cells(rows, mapping, "task", "label"), *_unknown(rows, mapping, names)]
    refused = first_reasons(rows, selected.bad, problems)
    cleaned = clean_texts(rows, "task", "label")
    for row in _repeated(rows, refused, "video", "task", "label"):
        refused[row] = (RowReason.DUPLICATE, "column 'label': an earlier row says the same")
    rest = rows[~rows.index.isin(list(refused))]
    for _, group in rest[rest.duplicated(["video", "task"], keep=False)].groupby(["video", "task"], sort=False):
        told = ", ".join(f"{shown(label)} in row {row}" for row, label in group["label"].items())
        detail = f"column 'label': expected one label of task {shown(group['task'].iloc[0])}, found {told}"
        refused.update(dict.fromkeys(group.index.tolist(), (str(RowReason.CONTRADICTING_LABELS), detail)))
    return ReadTable(rows, refused, selected.ignored, cleaned)


def _read_questions(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> ReadTable:
    """Read questions. A cell that is not there is empty: a table of choices has no answers, one of answers no options."""
    texts = _given(raw, mapping, ("question_id", "video", "question"), {"question": ""})
    selected = _select(raw, texts, "questions", names)
    rows = selected.table
    for name in ("answers", "options"):
        rows[name] = pd.Series([_as_list(value) for value in _cells(raw, mapping[name])], dtype=object)
    correct = [_as_choice(value) for value in _cells(raw, mapping["correct"])]
    rows["correct"] = pd.Series([NO_OPTION if value is None else value for value in correct], dtype="int64")
    rows = rows[list(RawQuestions.to_schema().columns)].copy()
    no_choice = pd.Series([value is None for value in correct], index=rows.index, dtype=bool)
    problems = [
        *blank_cells(rows, mapping, "question_id"), *_unknown(rows, mapping, names), *_list_problems(rows),
        (no_choice, RowReason.NOT_A_NUMBER, lambda row: "column 'correct': expected a whole number from 0, or none"),
    ]  # fmt: skip
    refused = first_reasons(rows, selected.bad, problems)
    formed = pd.Series(True, index=rows.index)
    whole = rows[~rows.index.isin(list(refused))]
    formed[whole.index] = has_one_form(whole)
    refused |= first_reasons(rows, [], [(~formed, RowReason.WRONG_FORM, lambda row: f"expected {FORM}, found {_form(row)}")])
    for row in _repeated(rows, refused, "question_id"):
        refused[row] = (
            RowReason.DUPLICATE_ID,
            "column 'question_id': expected a value that occurs once, an earlier row has it",
        )
    cleaned = clean_texts(rows, "question")
    read = {str(mapping[name]) for name in ("answers", "options", "correct")}
    return ReadTable(rows, refused, [name for name in selected.ignored if name not in read], cleaned)


def _read_boxes(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames) -> ReadTable:
    """Read boxes: numbers as numbers, NaN where they are none. What a table of drawn boxes need not say has a default."""
    defaults = {"person": "", "score": "1", "source": "annotated"}
    texts = _given(raw, mapping, tuple(RawBoxes.to_schema().columns), defaults)
    kept_as_text = {name: column for name, column in texts.items() if name not in NUMBERS}
    selected = _select(raw, kept_as_text, "boxes", names)
    rows = selected.table
    for name in NUMBERS:
        column = texts[name]
        if isinstance(column, str) and column not in raw and len(raw):
            select_columns(raw, {name: column}, "raw_boxes", "ingestion.columns.boxes")  # says that it is missing
        cells = raw[column].reset_index(drop=True) if isinstance(column, str) and column in raw else defaults.get(name, "")
        rows[name] = pd.to_numeric(pd.Series(cells, index=rows.index), errors="coerce").astype(np.float64)
    rows = rows[list(RawBoxes.to_schema().columns)].copy()
    cleaned = clean_texts(rows, "label")
    refused = first_reasons(rows, selected.bad, [*_unknown(rows, mapping, names), *_box_problems(rows)])
    for row in _repeated(rows, refused, "video", "timestamp_s", *EDGES, "label", "source"):
        refused[row] = (RowReason.DUPLICATE, "an earlier row says the same")
    read = {str(texts[name]) for name in NUMBERS}
    return ReadTable(rows, refused, [name for name in selected.ignored if name not in read], cleaned)


def _given(
    raw: pd.DataFrame, mapping: Mapping[str, Column], names: tuple[str, ...], defaults: Mapping[str, str]
) -> dict[str, Column]:
    """Return where columns come from: a column that the user's table lacks and need not have is its default."""
    return {
        name: Constant(constant=defaults[name]) if name in defaults and mapping[name] not in list(raw) else mapping[name]
        for name in names
    }


def _cells(raw: pd.DataFrame, column: Column) -> list[Any]:
    return raw[str(column)].tolist() if column in list(raw) else [None] * len(raw)


def _as_list(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return []
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_choice(value: Any) -> int | None:
    """Return the index that a cell holds, NO_OPTION for an empty one, None for what is no whole number."""
    try:
        text = as_text(value).strip()
        return int(text) if text else NO_OPTION
    except ValueError:
        return None


# --- rows that are wrong by themselves --------------------------------------------------------------------------------
def _list_problems(rows: pd.DataFrame) -> Iterator[Problem]:
    for name in ("answers", "options"):
        wrong = ~rows[name].map(is_texts).astype(bool)
        yield wrong, RowReason.NOT_TEXTS, partial(found_in, name, f"column '{name}': expected {TEXTS}")
        broken = ~rows[name].map(lambda texts: isinstance(texts, list) and all(map(_is_whole, texts))).astype(bool)
        yield broken, RowReason.BROKEN_TEXT, partial(found_in, name, f"column '{name}': expected whole characters")


def _is_whole(text: str) -> bool:
    try:
        as_text(text)
    except ValueError:
        return False
    return True


def _form(row: Row) -> str:
    return f"question {shown(row['question'])}, {len(row['options'])} options, correct {row['correct']}"


def _box_problems(rows: pd.DataFrame) -> Iterator[Problem]:
    finite: pd.Series = pd.Series(np.isfinite(rows[NUMBERS].to_numpy(np.float64)).all(axis=1), index=rows.index)
    yield ~finite, RowReason.NOT_A_NUMBER, lambda row: f"expected finite numbers, found {_told(row, NUMBERS)}"
    early = rows["timestamp_s"] < 0.0
    yield early, RowReason.NEGATIVE_TIME, lambda row: f"expected seconds from 0, found {_told(row, ['timestamp_s'])}"
    outside = ((rows[EDGES] < 0.0) | (rows[EDGES] > 1.0)).any(axis=1)
    yield outside, RowReason.OUTSIDE_FRAME, lambda row: f"expected edges from 0 to 1, found {_told(row, EDGES)}"
    flat = (rows["x1"] >= rows["x2"]) | (rows["y1"] >= rows["y2"])
    yield flat, RowReason.NO_AREA, lambda row: f"expected x1 < x2 and y1 < y2, found {_told(row, EDGES)}"
    wrong = (rows["score"] < 0.0) | (rows["score"] > 1.0)
    yield wrong, RowReason.WRONG_SCORE, lambda row: f"expected a score from 0 to 1, found {_told(row, ['score'])}"
    other = ~rows["source"].isin(["annotated", "detected"])
    expected = "column 'source': expected annotated or detected"
    yield other, RowReason.WRONG_SOURCE, partial(found_in, "source", expected)


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
    TableKind("boxes", _read_boxes, Boxes, counts=_count_boxes, of_videos=True),
)
