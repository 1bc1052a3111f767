from __future__ import annotations

import dataclasses
import re
from typing import Any

import pandas as pd

from tests.reports.pages import EVIL, FRAMES, Html, checked, examples, history, record, rows_below, text_of
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.render import render
from umt_pipeline.tasks.question_answering.page import question_page
from umt_pipeline.tasks.task import Shown


def shown() -> Shown[Any, Any]:
    """Six questions of each kind; the last clip cannot be read."""
    rows = []
    for kind, models in (("open", ("majority", "stage2", "control")), ("choice", ("stage2", "control"))):
        for model in models:
            for index in range(6):
                failure = EVIL if index == 5 and model != "majority" else ""
                right = index < (3 if model == "stage2" else 1)
                rows.append(
                    {
                        "kind": kind, "split": "test", "model": model, "question_id": f"{kind}{index}",
                        "video_id": f"clip{index}",
                        "question": "" if kind == "choice" else ("What is it?", "Where?")[index % 2],
                        "answer": EVIL, "predicted": EVIL if right else "" if failure else "b", "right": right,
                        "failure": failure,
                    }
                )  # fmt: skip
    test = {"control": 100 / 6, "majority": 100 / 6, "stage2": 50.0}
    per_type = {"what": {**test, "stage2": 200 / 3}, "where": {"control": 0.0, "majority": 0.0, "stage2": 100 / 3}}
    return Shown(
        params=None,
        data=None,
        metrics={
            "test": {"test": test},
            "per_type": {"test": per_type},
            "choice": {"test": {"chance": 25.0, "control": 100 / 6, "stage2": 50.0}},
        },
        records=[record(f"question_answering/test/{model}", accuracy=value) for model, value in test.items()],
        predictions=pd.DataFrame(rows),
        picture="",
        histories={"stage2": history(3), "control": history(0)},
    )


def page_of(shown: Shown[Any, Any]) -> Page:
    return question_page(shown, "first_word", [f"no control: {EVIL}"], lambda _: FRAMES)


def test_answers_are_counted_by_type_and_compared() -> None:
    html = checked(page_of(shown()))
    text = text_of(html)
    assert "On test, 50.0 % of 6 open questions are answered right (from stage 2; from the control 16.7 %" in text
    assert "50.0 % of 6 captions are chosen right (stage 2; stage 2 from scratch (control) 16.7 %, chance 25.0 %)" in text
    assert rows_below(html, "Open questions on test") == [
        ["From stage 2", "50.0", "66.7", "33.3"],
        ["From the control", "16.7", "16.7", "0.0"],
        ["Commonest answer", "16.7", "16.7", "0.0"],
    ]
    assert re.findall(r'scope="col">((?:what|where)[^<]*)', html) == ["what (3)", "where (3)"]
    assert rows_below(html, "Clips that could not be read")[0][:2] == ["clip5", "2"]
    assert "no control: " in text


def test_examples_are_right_and_wrong_ones_with_everybodys_answer() -> None:
    page = page_of(dataclasses.replace(shown(), histories={}))
    answers = examples(page, "Examples: open questions")
    assert [(example.head, example.verdict, example.film.video_id) for example in answers] == [
        ("What is it?", "right", "clip0"), ("What is it?", "right", "clip2"), ("What is it?", "wrong", "clip4"),
        ("Where?", "right", "clip1"), ("Where?", "wrong", "clip3"),
    ]  # fmt: skip
    assert [(said.who, said.right) for said in answers[0].said] == [
        ("The truth", None), ("From stage 2", True), ("From the control", True), ("Commonest answer", True)
    ]  # fmt: skip
    choices = examples(page, "Examples: multiple choice")
    assert [(e.head, e.verdict) for e in choices] == [("Which caption is it?", v) for v in ("right",) * 2 + ("wrong",) * 2]
    assert [said.who for said in choices[0].said] == ["The truth", "Stage 2", "Stage 2 from scratch (control)"]


def test_a_table_read_from_a_file_gives_the_same_page() -> None:
    found = dataclasses.replace(shown(), histories={})
    written = dataclasses.replace(found, predictions=found.predictions.astype(str))
    assert render(page_of(written), {}, {}) == render(page_of(found), {}, {})


def test_no_questions_are_said_in_every_section() -> None:
    found = shown()
    nothing = dataclasses.replace(
        found, metrics={"test": {}, "per_type": {}, "choice": {}}, records=[], predictions=found.predictions.iloc[:0],
        histories={"stage2": history(0), "control": history(0)},
    )  # fmt: skip
    html = checked(page_of(nothing))
    for sentence in (
        "There are no numbers to sum up", "There is no open question to test with.", "Nothing was trained.",
        "There are no questions: open questions.", "There are no questions: multiple choice.", "There are no records",
    ):  # fmt: skip
        assert sentence in text_of(html)
    assert [a.get("class") for a in Html(html).all("table")] == [None], "of the page's origin"
