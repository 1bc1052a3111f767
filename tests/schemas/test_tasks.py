from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pandera.pandas as pa
import pytest

from umt_pipeline.schemas import Boxes, RawBoxes, RawQuestions

OPEN = {"question_id": "1", "video": "a.mp4", "question": "who?", "answers": ["man", "boy"], "options": [], "correct": -1}
CHOICE = OPEN | {"question_id": "2", "question": "", "answers": [], "options": ["a", "b"], "correct": 1}
BOX = {
    "video": "a.mp4", "timestamp_s": 902.0, "x1": 0.0, "y1": 0.1, "x2": 0.5, "y2": 1.0,
    "label": "", "person": "", "score": 0.9, "source": "detected",
}  # fmt: skip


def through_parquet(table: pd.DataFrame) -> pd.DataFrame:
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return pd.read_parquet(file)


def test_good_rows_survive_parquet() -> None:
    questions = RawQuestions.validate(pd.DataFrame([OPEN, CHOICE]))
    again = RawQuestions.validate(through_parquet(questions))
    assert [list(answers) for answers in again["answers"]] == [["man", "boy"], []]
    boxes = RawBoxes.validate(pd.DataFrame([BOX]))
    pd.testing.assert_frame_equal(RawBoxes.validate(through_parquet(boxes)), boxes)
    assert RawQuestions.validate(questions.iloc[:0]).empty
    assert RawBoxes.validate(boxes.iloc[:0]).empty


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (OPEN, {"question_id": "2"}),  # twice
        (OPEN, {"video": " "}),
        (OPEN, {"question": ""}),
        (OPEN, {"answers": "man"}),
        (OPEN, {"answers": ["man", " "]}),
        (OPEN, {"answers": [1]}),
        (OPEN, {"correct": 0}),
        (CHOICE, {"question_id": "3", "correct": 2}),
        (CHOICE, {"question_id": "3", "correct": -1}),
        (CHOICE, {"question_id": "3", "options": []}),
    ],
)
def test_wrong_questions(row: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(pa.errors.SchemaErrors):
        RawQuestions.validate(pd.DataFrame([CHOICE, row | change]), lazy=True)


@pytest.mark.parametrize(
    "change",
    [{"x1": 0.5}, {"y2": 0.05}, {"x2": 1.1}, {"y1": -0.1}, {"score": 1.5}, {"source": "guessed"}, {"timestamp_s": -1.0}],
)
def test_wrong_boxes(change: dict[str, Any]) -> None:
    with pytest.raises(pa.errors.SchemaErrors):
        RawBoxes.validate(pd.DataFrame([BOX | change]), lazy=True)


def test_a_box_has_an_action_once() -> None:
    box = {("video_id" if name == "video" else name): value for name, value in BOX.items()}
    assert len(Boxes.validate(pd.DataFrame([box, box | {"label": "other"}]))) == 2
    for change in ({}, {"person": "7"}, {"label": "other", "x1": 0.9, "x2": 0.1}):
        with pytest.raises(pa.errors.SchemaErrors):
            Boxes.validate(pd.DataFrame([box, box | change]), lazy=True)
