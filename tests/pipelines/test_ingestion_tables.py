"""Questions and boxes on their way through the ingestion: what is accepted, what is rejected and why, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.pipelines.clean import NO_REJECTS, clean
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.pipelines.ingestion.tables import KINDS
from umt_pipeline.schemas import RawBoxes

VIDEOS = pd.DataFrame(
    [("a", "a.mp4", "video", "train"), ("b", "b.mp4", "video", "test"), ("still", "still.png", "image", "train")],
    columns=["video_id", "path", "media", "split"],
)
BROKEN = pd.DataFrame([["videos", 4, "broken.mp4", "truncated", "half of it", "copy it again"]], columns=NO_REJECTS.columns)
COLUMNS = list(RawBoxes.to_schema().columns)
LEFT = (0.0, 0.1, 0.5, 0.9)


def question(question_id: str, video: str, **others: Any) -> dict[str, Any]:
    return {"question_id": question_id, "video": video, "question": "what moves", "answers": ["disc"], **others}


def box(video: str, at: float = 0.1, edges: tuple[float, ...] = LEFT, label: str = "walk") -> tuple[Any, ...]:
    return (video, at, *edges, label, "", 1.0, "annotated")


def test_questions_are_rejected_with_their_row_and_reason() -> None:
    rows = [question("q0", "a.mp4"), question("q1", "broken.mp4"), question("q2", "./b.mp4"), question("q3", "still.png")]
    table = pd.DataFrame([*rows, question("q4", "nobody.mp4")]).assign(comment="?")
    accepted, rejected, unused = clean("questions", table, VIDEOS, BROKEN)
    assert accepted["video_id"].tolist() == ["a", "b"]
    assert rejected[["row", "reason"]].values.tolist() == [[1, "video_rejected"], [3, "image"], [4, "unknown_video"]]
    assert "truncated" in rejected["detail"].iloc[0]
    assert unused == ["comment"]
    with pytest.raises(TableError, match=r"Table raw_questions: 2 row(?s:.*)row 4, column 'video'.*'nobody\.mp4'"):
        clean("questions", table, VIDEOS, BROKEN, on_bad_row="error")


def test_choices_need_no_question_and_no_answers() -> None:
    table = pd.DataFrame({"question_id": ["c"], "video": ["b.mp4"], "options": [["a", "b"]], "correct": [1]})
    accepted, _, _ = clean("questions", table, VIDEOS)
    assert accepted.iloc[0][["question", "answers", "correct"]].tolist() == ["", [], 1]
    counts = next(kind for kind in KINDS if kind.name == "questions").counts([accepted])
    assert counts == {"open": 0, "open_without_answer": 0, "multiple_choice": 1, "videos": 1}


def test_columns_may_be_called_otherwise() -> None:
    table = pd.DataFrame({"id": ["q"], "clip": ["a.mp4"], "text": ["what moves"], "said": [["disc"]]})
    columns = {"questions": {"question_id": "id", "video": "clip", "question": "text", "answers": "said"}}
    accepted, _, unused = clean("questions", table, VIDEOS, columns=columns)
    assert (accepted["answers"].tolist(), unused) == ([["disc"]], [])


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"question_id": "q0"}, "duplicate_id", "column 'question_id'"),
        ({"question_id": " "}, "blank_cell", "column 'question_id': expected text that is not blank, found ' '"),
        ({"correct": 7}, "wrong_form", "options, of which correct is one"),
        ({"correct": "one"}, "not_a_number", "column 'correct'"),
        ({"correct": True}, "not_a_number", "column 'correct'"),
        ({"question": ""}, "wrong_form", "question '', 0 options, correct -1"),
        ({"question": ["what"]}, "not_text", "column 'question': expected text, found list"),
        ({"answers": "disc"}, "not_texts", "column 'answers'"),
        ({"answers": ["disc", 1]}, "not_texts", "column 'answers'"),
        ({"answers": ["\ud800"]}, "broken_text", "column 'answers'"),
    ],
)
def test_a_wrong_question_costs_itself(change: dict[str, Any], reason: str, detail: str) -> None:
    rows = [question("q0", "a.mp4"), question("q1", "b.mp4") | change, question("q2", "b.mp4")]
    accepted, rejected, _ = clean("questions", pd.DataFrame(rows), VIDEOS)
    assert accepted["question_id"].tolist() == ["q0", "q2"]
    assert rejected[["row", "reason"]].to_numpy().tolist() == [[1, reason]]
    assert detail in rejected["detail"][0]


def test_a_choice_may_be_a_text_or_a_promoted_number() -> None:
    choices = [question(f"q{number}", "a.mp4", answers=[], options=["a", "b"]) for number in range(2)]
    table = pd.DataFrame([*choices, question("open", "b.mp4")]).assign(correct=["1", 0.0, np.nan])
    assert clean("questions", table, VIDEOS)[0]["correct"].tolist() == [1, 0, -1]


def test_question_tables_that_are_refused() -> None:
    good = pd.DataFrame([question("q0", "a.mp4"), question("q1", "b.mp4")])
    with pytest.raises(TableError, match="expected a column 'video', found"):
        clean("questions", good.drop(columns="video"), VIDEOS)
    with pytest.raises(TableError, match=r"none of 2 rows can be used: {'unknown_video': 2}.*such as 'a\.mp4'"):
        clean("questions", good.assign(video="elsewhere/" + good["video"]), VIDEOS)


def test_boxes_are_rejected_with_their_row_and_reason(tmp_path: Path) -> None:
    seen = ("a.mp4", 0.1, *LEFT, "", "")
    wrong = [
        ("video_rejected", box("broken.mp4")), ("image", box("still.png")), ("unknown_video", box("nobody.mp4")),
        ("not_a_number", box("a.mp4", np.nan)), ("not_a_number", (*seen, np.nan, "detected")),
        ("not_a_number", box("a.mp4", edges=(0, 0, np.inf, 1))), ("negative_time", box("a.mp4", -0.2)),
        ("outside_frame", box("a.mp4", edges=(0.5, 0.1, 1.2, 0.9))), ("outside_frame", box("a.mp4", edges=(10, 10, 20, 20))),
        ("no_area", box("a.mp4", edges=(0.5, 0, 0.5, 1))), ("wrong_score", (*seen, 95.0, "detected")),
        ("wrong_source", (*seen, 1.0, "guessed")), ("duplicate", box("./a.mp4")),
    ]  # fmt: skip
    rows = [box("a.mp4"), box("b.mp4"), *(row for _, row in wrong), (*seen, 0.7, "detected")]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(comment="?")
    accepted, rejected, unused = clean("boxes", table, VIDEOS, BROKEN)
    assert rejected["reason"].tolist() == [reason for reason, _ in wrong]
    assert rejected["row"].tolist() == list(range(2, 2 + len(wrong)))
    details = dict(zip(rejected["reason"], rejected["detail"], strict=True))
    assert "truncated" in details["video_rejected"]
    assert "found x1 10.0" in details["outside_frame"]
    assert unused == ["comment"]
    assert len(accepted) == 3
    # As a CSV file it is the same, numbers being text there.
    TableDataset(str(tmp_path / "boxes.csv")).save(table)
    again = clean("boxes", TableDataset(str(tmp_path / "boxes.csv")).load(), VIDEOS, BROKEN)
    pd.testing.assert_frame_equal(again[0], accepted)
    assert again[1]["reason"].tolist() == rejected["reason"].tolist()


def test_drawn_boxes_need_not_say_so() -> None:
    table = pd.DataFrame([box("a.mp4")], columns=COLUMNS).drop(columns=["person", "score", "source"])
    assert clean("boxes", table, VIDEOS)[0].iloc[0][["person", "score", "source"]].tolist() == ["", 1.0, "annotated"]
    with pytest.raises(TableError, match="expected a column 'y2'"):
        clean("boxes", table.drop(columns="y2"), VIDEOS)


@pytest.mark.parametrize("name", ["questions", "boxes"])
def test_a_corpus_without_such_a_table_has_one_without_rows(name: str, tmp_path: Path) -> None:
    accepted, rejected, _ = clean(name, TableDataset(str(tmp_path / "none.csv"), optional=True).load(), VIDEOS)
    assert (len(accepted), len(rejected)) == (0, 0)
    dataset = TableDataset(str(tmp_path / "t.parquet"))
    dataset.save(accepted)
    next(kind for kind in KINDS if kind.name == name).clean.validate(dataset.load())
