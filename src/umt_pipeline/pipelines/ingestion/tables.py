"""The tables about media: how each is read from the user's, which of its rows are wrong by themselves, how it is counted.

All go the same way: columns are mapped, texts cleaned, rows joined to media, and each row that is not accepted has one reason,
its first.

Shapes: R rows of a block.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pandera.pandas as pa

from umt_pipeline.pipelines.ingestion.media_paths import PathNames
from umt_pipeline.pipelines.ingestion.rows import (
    Problem,
    Refused,
    Rejects,
    RejectsWriter,
    Row,
    blank_cells,
    first_reasons,
    found_in,
    named,
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
from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.tables.keys import count_distinct, hash_rows, repeated
from umt_pipeline.tables.spill import Spill, SpilledRows

EDGES = ["x1", "y1", "x2", "y2"]
NUMBERS = ["timestamp_s", *EDGES, "score"]
# The row of the table of videos that a row is about.
LISTED = "listed"


@dataclass(frozen=True)
class ReadBlock:
    """A block of a table as read.

    Attributes:
        rows: our columns and ``listed``, under the numbers of the rows.
        refused: the rows that are wrong by themselves.
        ignored: the user's columns that were not used.
        cleaned: how many texts were changed, by what was changed.
    """

    rows: pd.DataFrame
    refused: Refused
    ignored: list[str]
    cleaned: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadTable:
    """A table as read.

    Attributes:
        count: all of its rows.
        rows: our columns and ``listed`` of those that are not wrong by themselves, and of those that ``left_out`` names.
        left_out: int64, rows that are wrong beside others, such as repeated ones.
        rejects: all that are wrong.
        ignored: the user's columns that were not used.
        cleaned: how many texts were changed, by what was changed.
    """

    count: int
    rows: SpilledRows
    left_out: np.ndarray
    rejects: Rejects
    ignored: list[str]
    cleaned: dict[str, int]

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Yield the rows that are not wrong; at least one block."""
        for block in self.rows.blocks():
            yield block[~block.index.isin(self.left_out)] if len(self.left_out) else block


class Reader(Protocol):
    """From a block of the user's table, the mapping of columns and the listed media to our rows, from a number on."""

    def __call__(self, raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames, first_row: int) -> ReadBlock: ...


def no_repeats(rows: pd.DataFrame) -> Refused:
    """Refuse nothing."""
    del rows
    return {}


def no_counts(accepted: Iterable[pd.DataFrame]) -> dict[str, int]:
    """Count nothing."""
    del accepted
    return {}


@dataclass(frozen=True)
class TableKind:
    """A table about media.

    Attributes:
        name: of the clean table; the raw one is ``raw_<name>``.
        read: reads a block and finds rows that are wrong by themselves.
        clean: schema of what is accepted.
        key: columns that not every row may share with others; none: any may.
        repeats: of rows that may share them, those that are wrong.
        counts: what the report says of the accepted rows of a split, given in blocks.
        of_videos: whether rows about images are rejected.
    """

    name: str
    read: Reader
    clean: type[pa.DataFrameModel]
    key: tuple[str, ...] = ()
    repeats: Callable[[pd.DataFrame], Refused] = no_repeats
    counts: Callable[[Iterable[pd.DataFrame]], dict[str, int]] = no_counts
    of_videos: bool = False

    @property
    def columns(self) -> list[str]:
        """Of the clean table."""
        return list(self.clean.to_schema().columns)


def read_kind(kind: TableKind, raw: Blocks, mapping: Mapping[str, Column], names: PathNames, spill: Spill) -> ReadTable:
    """Read a table about media.

    Args:
        kind: which.
        raw: the user's table.
        mapping: where our columns come from.
        names: the listed media.
        spill: where the rows are kept.

    Raises:
        TableError: a column is missing.
    """
    rows, rejects = spill.writer(), RejectsWriter(spill)
    hashes: list[np.ndarray] = []
    cleaned: Counter[str] = Counter()
    ignored: list[str] = []
    count = 0
    for block in raw:
        read = kind.read(block, mapping, names, count)
        count, ignored = count + len(read.rows), read.ignored
        cleaned.update(read.cleaned)
        rejects.add(named(read.refused, read.rows["video"]))
        sound = read.rows[~read.rows.index.isin(list(read.refused))]
        rows.add(sound)
        if kind.key:
            hashes.append(hash_rows(sound, *kind.key))
    kept = rows.finish()
    refused: Refused = {}
    parts = Rejects((rejects.finish(),))
    if kind.key:
        asked = kept.take(repeated(np.concatenate(hashes)))
        refused = kind.repeats(asked)
        parts += named(refused, asked["video"])
    left_out = np.array(sorted(refused), np.int64)
    return ReadTable(count, kept, left_out, parts, ignored, dict(cleaned))


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


def _select(raw: pd.DataFrame, mapping: Mapping[str, Column], name: str, names: PathNames, first_row: int) -> Selected:
    """Take our columns as text, with paths as the table of videos has them, and its rows as ``listed``."""
    selected = select_columns(raw, mapping, f"raw_{name}", f"ingestion.columns.{name}", first_row)
    rows = selected.table
    paths, listed_R = names.find(normal_paths(rows["video"]).tolist())
    rows["video"] = pd.Series(paths, index=rows.index, dtype=str)
    rows[LISTED] = listed_R
    return selected


def _unknown(rows: pd.DataFrame, mapping: Mapping[str, Column]) -> Iterator[Problem]:
    """Find rows that need a video and name none, or one that is not listed."""
    yield from blank_cells(rows, mapping, "video")
    expected = f"{name_column('video', mapping)}: expected a video of table raw_videos"
    yield rows[LISTED] < 0, RowReason.UNKNOWN_VIDEO, partial(found_in, "video", expected)


def _read_captions(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames, first_row: int) -> ReadBlock:
    """Read captions. One that is there twice stays: published sets have such, and leaving one out changes a benchmark."""
    selected = _select(raw, mapping, "captions", names, first_row)
    rows = selected.table
    problems = [*blank_cells(rows, mapping, "caption"), *_unknown(rows, mapping)]
    refused = first_reasons(rows, selected.bad, problems)
    cleaned = clean_texts(rows, "caption")
    return ReadBlock(rows.assign(caption_id=rows.index.to_numpy(np.int64)), refused, selected.ignored, cleaned)


def _read_labels(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames, first_row: int) -> ReadBlock:
    selected = _select(raw, mapping, "labels", names, first_row)
    rows = selected.table
    problems = [*blank_cells(rows, mapping, "task", "label"), *_unknown(rows, mapping)]
    refused = first_reasons(rows, selected.bad, problems)
    return ReadBlock(rows, refused, selected.ignored, clean_texts(rows, "task", "label"))


def _repeated_labels(rows: pd.DataFrame) -> Refused:
    """Refuse all but one label of each task for a video. Of two that differ nobody knows which is right: neither is taken."""
    again = rows.index[rows.duplicated(["video", "task", "label"])].tolist()
    refused: Refused = dict.fromkeys(again, (RowReason.DUPLICATE, "column 'label': an earlier row says the same"))
    rest = rows.drop(index=again)
    for _, group in rest[rest.duplicated(["video", "task"], keep=False)].groupby(["video", "task"], sort=False):
        told = ", ".join(f"{shown(label)} in row {row}" for row, label in group["label"].items())
        detail = f"column 'label': expected one label of task {shown(group['task'].iloc[0])}, found {told}"
        refused.update(dict.fromkeys(group.index.tolist(), (str(RowReason.CONTRADICTING_LABELS), detail)))
    return refused


def _read_questions(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames, first_row: int) -> ReadBlock:
    """Read questions. A cell that is not there is empty: a table of choices has no answers, one of answers no options."""
    texts = _given(raw, mapping, ("question_id", "video", "question"), {"question": ""})
    selected = _select(raw, texts, "questions", names, first_row)
    rows = selected.table
    for name in ("answers", "options"):
        rows[name] = pd.Series([_as_list(value) for value in _cells(raw, mapping[name])], index=rows.index, dtype=object)
    correct = [_as_choice(value) for value in _cells(raw, mapping["correct"])]
    rows["correct"] = np.array([NO_OPTION if value is None else value for value in correct], np.int64)
    rows = rows[[*RawQuestions.to_schema().columns, LISTED]].copy()
    no_choice = pd.Series([value is None for value in correct], index=rows.index, dtype=bool)
    problems = [
        *blank_cells(rows, mapping, "question_id"), *_unknown(rows, mapping), *_list_problems(rows),
        (no_choice, RowReason.NOT_A_NUMBER, lambda row: "column 'correct': expected a whole number from 0, or none"),
    ]  # fmt: skip
    refused = first_reasons(rows, selected.bad, problems)
    formed = pd.Series(True, index=rows.index)
    whole = rows[~rows.index.isin(list(refused))]
    formed[whole.index] = has_one_form(whole)
    refused |= first_reasons(rows, [], [(~formed, RowReason.WRONG_FORM, lambda row: f"expected {FORM}, found {_form(row)}")])
    cleaned = clean_texts(rows, "question")
    read = {str(mapping[name]) for name in ("answers", "options", "correct")}
    return ReadBlock(rows, refused, [name for name in selected.ignored if name not in read], cleaned)


def _repeated_questions(rows: pd.DataFrame) -> Refused:
    told = (RowReason.DUPLICATE_ID, "column 'question_id': expected a value that occurs once, an earlier row has it")
    return dict.fromkeys(rows.index[rows.duplicated("question_id")].tolist(), told)


def _read_boxes(raw: pd.DataFrame, mapping: Mapping[str, Column], names: PathNames, first_row: int) -> ReadBlock:
    """Read boxes: numbers as numbers, NaN where they are none. What a table of drawn boxes need not say has a default."""
    defaults = {"person": "", "score": "1", "source": "annotated"}
    texts = _given(raw, mapping, tuple(RawBoxes.to_schema().columns), defaults)
    kept_as_text = {name: column for name, column in texts.items() if name not in NUMBERS}
    selected = _select(raw, kept_as_text, "boxes", names, first_row)
    rows = selected.table
    for name in NUMBERS:
        column = texts[name]
        if isinstance(column, str) and column not in raw and len(raw):
            select_columns(raw, {name: column}, "raw_boxes", "ingestion.columns.boxes")  # says that it is missing
        cells: list[Any] = (
            raw[column].tolist() if isinstance(column, str) and column in raw else [defaults.get(name, "")] * len(rows)
        )
        rows[name] = pd.to_numeric(pd.Series(cells, rows.index), errors="coerce").astype(np.float64)
    rows = rows[[*RawBoxes.to_schema().columns, LISTED]].copy()
    cleaned = clean_texts(rows, "label")
    refused = first_reasons(rows, selected.bad, [*_unknown(rows, mapping), *_box_problems(rows)])
    read = {str(texts[name]) for name in NUMBERS}
    return ReadBlock(rows, refused, [name for name in selected.ignored if name not in read], cleaned)


def _repeated_boxes(rows: pd.DataFrame) -> Refused:
    again = rows.index[rows.duplicated([*_BOX_KEY])].tolist()
    return dict.fromkeys(again, (RowReason.DUPLICATE, "an earlier row says the same"))


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
def _count_questions(blocks: Iterable[pd.DataFrame]) -> dict[str, int]:
    counts = Counter({"open": 0, "open_without_answer": 0, "multiple_choice": 0})
    videos = []
    for rows in blocks:
        free = rows["correct"] == NO_OPTION
        answered = rows["answers"].map(len).astype(int) > 0
        counts["open"] += int((free & answered).sum())
        counts["open_without_answer"] += int((free & ~answered).sum())
        counts["multiple_choice"] += int((~free).sum())
        videos.append(np.unique(hash_rows(rows, "video_id")))
    return {**counts, "videos": count_distinct(videos)}


def _count_boxes(blocks: Iterable[pd.DataFrame]) -> dict[str, int]:
    frames, drawn, detected, videos = [], [], [], []
    actions = 0
    for rows in blocks:
        by_people = rows[rows["source"] == "annotated"]
        actions += int((by_people["label"] != "").sum())
        frames.append(np.unique(hash_rows(by_people, "video_id", "timestamp_s")))
        drawn.append(np.unique(hash_rows(by_people, "video_id", "timestamp_s", *EDGES)))
        videos.append(np.unique(hash_rows(by_people, "video_id")))
        others = rows[rows["source"] == "detected"]
        detected.append(np.unique(hash_rows(others, "video_id", "timestamp_s", *EDGES)))
    return {
        "key_frames": count_distinct(frames),
        "annotated_boxes": count_distinct(drawn),
        "detected_boxes": count_distinct(detected),
        "actions": actions,
        "videos": count_distinct(videos),
    }


_BOX_KEY = ("video", "timestamp_s", *EDGES, "label", "source")

KINDS = (
    TableKind("captions", _read_captions, Captions),
    TableKind("labels", _read_labels, Labels, ("video", "task"), _repeated_labels),
    TableKind("questions", _read_questions, Questions, ("question_id",), _repeated_questions, _count_questions, of_videos=True),
    TableKind("boxes", _read_boxes, Boxes, _BOX_KEY, _repeated_boxes, _count_boxes, of_videos=True),
)
