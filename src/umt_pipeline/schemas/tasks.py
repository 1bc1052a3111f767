"""pandera models of the tables that question answering and detection need.

The texts given to ``error=`` complete the sentence "expected ..." in messages.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pandera.pandas as pa

from umt_pipeline.schemas.models import NOT_BLANK, _not_blank, _RawTable, _Table

# A multiple-choice column's value in a row that offers no choice.
NO_OPTION = -1

TEXTS = "a list of texts, none of them blank"
FORM = "options, of which correct is one; or a question without options and with correct -1"
_AREA = "x1 < x2 and y1 < y2"


def is_texts(value: Any) -> bool:
    """Tell whether a value is a list of texts, none of them blank."""
    # Parquet gives lists back as arrays.
    texts = value.tolist() if hasattr(value, "tolist") else value
    return isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)


def _are_texts(cls: type, values: pd.Series) -> pd.Series:
    return values.map(is_texts).astype(bool)


def has_one_form(table: pd.DataFrame) -> pd.Series:
    """Tell for each question whether it is an open one or a multiple choice, and nothing between."""
    offered = table["options"].map(lambda value: len(value) if hasattr(value, "__len__") else 0).astype(int)
    asked = table["question"].str.strip() != ""
    of_choice = (offered > 0) & (table["correct"] >= 0) & (table["correct"] < offered)
    return of_choice | ((offered == 0) & (table["correct"] == NO_OPTION) & asked)


def _has_one_form(cls: type, table: pd.DataFrame) -> pd.Series:
    return has_one_form(table)


def _has_area(cls: type, table: pd.DataFrame) -> pd.Series:
    return (table["x1"] < table["x2"]) & (table["y1"] < table["y2"])


class RawQuestions(_RawTable):
    """Questions about videos: one row per question, open or multiple-choice.

    Attributes:
        question_id: name of the question, once in the table.
        video: path of the video, relative to the media folder.
        question: its text as published; empty where the options alone are the question (MSRVTT-MC).
        answers: open questions: the accepted answers as published, one per annotator who gave it, so that how often an
            answer occurs is its weight; empty where answers are kept secret, and for multiple choice.
        options: multiple choice: the texts to choose from, in order; empty for open questions.
        correct: multiple choice: index into ``options``, from 0; -1 for open questions.
    """

    question_id: str = pa.Field(unique=True)
    video: str
    question: str
    answers: object
    options: object
    correct: int = pa.Field(ge=NO_OPTION)

    _text = pa.check("question_id", "video", error=NOT_BLANK)(_not_blank)

    _texts = pa.check("answers", "options", error=TEXTS)(_are_texts)

    _one_form = pa.dataframe_check(error=FORM)(_has_one_form)


class Questions(_Table):
    """Questions about accepted videos: the columns of :class:`RawQuestions`, with ``video_id`` in place of ``video``."""

    question_id: str = pa.Field(unique=True)
    video_id: str
    question: str
    answers: object
    options: object
    correct: int = pa.Field(ge=NO_OPTION)

    _text = pa.check("question_id", "video_id", error=NOT_BLANK)(_not_blank)

    _texts = pa.check("answers", "options", error=TEXTS)(_are_texts)

    _one_form = pa.dataframe_check(error=FORM)(_has_one_form)


class RawBoxes(_RawTable):
    """Boxes around people in key frames: one row per box and action.

    Attributes:
        video: path of the video, relative to the media folder.
        timestamp_s: time of the key frame in seconds from the start of the whole film.
        x1: left edge, as a share of the frame's width.
        y1: upper edge, as a share of the frame's height.
        x2: right edge.
        y2: lower edge.
        label: the action; empty for a person without one.
        person: links the boxes of one person in neighbouring key frames; empty where it is not known.
        score: 1 for boxes that people drew, the detector's confidence for others.
        source: ``annotated`` by people, or ``detected``.
    """

    video: str
    timestamp_s: float = pa.Field(ge=0)
    x1: float = pa.Field(ge=0, le=1)
    y1: float = pa.Field(ge=0, le=1)
    x2: float = pa.Field(ge=0, le=1)
    y2: float = pa.Field(ge=0, le=1)
    label: str
    person: str
    score: float = pa.Field(ge=0, le=1)
    source: str = pa.Field(isin=["annotated", "detected"])

    _text = pa.check("video", error=NOT_BLANK)(_not_blank)

    _area = pa.dataframe_check(error=_AREA)(_has_area)


class Boxes(_Table):
    """Boxes in accepted videos: the columns of :class:`RawBoxes`, with ``video_id`` in place of ``video``; no row twice."""

    video_id: str
    timestamp_s: float = pa.Field(ge=0)
    x1: float = pa.Field(ge=0, le=1)
    y1: float = pa.Field(ge=0, le=1)
    x2: float = pa.Field(ge=0, le=1)
    y2: float = pa.Field(ge=0, le=1)
    label: str
    person: str
    score: float = pa.Field(ge=0, le=1)
    source: str = pa.Field(isin=["annotated", "detected"])

    _text = pa.check("video_id", error=NOT_BLANK)(_not_blank)

    _area = pa.dataframe_check(error=_AREA)(_has_area)

    class Config(_Table.Config):
        """A box has an action once."""

        unique = ("video_id", "timestamp_s", "x1", "y1", "x2", "y2", "label", "source")
