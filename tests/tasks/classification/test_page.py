from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from tests.reports.pages import EVIL, FRAMES, checked, examples, history, record, rows_below, text_of
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.render import render
from umt_pipeline.tasks.classification.figures import Confusion, confusion_svg
from umt_pipeline.tasks.classification.page import classification_page
from umt_pipeline.tasks.task import Shown


def shown() -> Shown[Any, Any]:
    """Six test clips: two of each of three classes; one is unreadable. The label that is evil is also a class."""
    told = {
        "stage2": [("a", "a"), ("a", "b"), ("b", "b"), ("b", EVIL), (EVIL, EVIL), (EVIL, "")],
        "control": [("a", "b"), ("a", "b"), ("b", "b"), ("b", "a"), (EVIL, "a"), (EVIL, "")],
    }
    rows = [
        {
            "task": "shape", "model": model, "video_id": f"clip{index}", "label": label, "failure": "" if top else EVIL,
            "top1": top or None, "top2": "a" if top else None, "score1": 0.75, "score2": 0.25,
        }
        for model, answers in told.items() for index, (label, top) in enumerate(answers)
    ]  # fmt: skip
    values = {"stage2": {"top1": 50.0, "mean_class": 50.0}, "control": {"top1": 100 / 6, "mean_class": 100 / 6}}
    per_class = {"stage2": {"a": 50.0, "b": 50.0, EVIL: 50.0}, "control": {"a": 0.0, "b": 50.0, EVIL: 0.0}}
    return Shown(
        params=None,
        data=None,
        metrics={"test": {"shape": values}, "per_class": {"shape": per_class}},
        records=[record(f"classification/shape/{model}", ("clip5",), **found) for model, found in values.items()],
        predictions=pd.DataFrame(rows),
        picture=confusion_svg([Confusion("shape", ["a", "b", "c"], np.ones((3, 4), int))]),
        histories={"stage2": history(3).assign(part="shape"), "control": history(3).assign(part="shape")},
    )


def page_of(shown: Shown[Any, Any]) -> Page:
    return classification_page(shown, {"shape": ["b", "a", "b", EVIL]}, lambda _: FRAMES)


def test_the_classifier_is_compared_with_its_control_and_with_no_model() -> None:
    html = checked(page_of(shown()))
    text = text_of(html)
    assert "fine-tuned from stage 2, is right on 50.0 % of 6 held-out clips (from scratch (control) 16.7 %" in text
    assert "commonest label of training: b 33.3 %, chance 33.3 %" in text
    assert rows_below(html, "Accuracy on shape") == [
        ["From stage 2", "50.0", "50.0"],
        ["From scratch (control)", "16.7", "16.7"],
        ["Commonest label of training: b", "33.3", "33.3"],
        ["Chance", "33.3", "33.3"],
    ]
    a, b = rows_below(html, "Classes of shape")[1:]
    assert a == ["a", "1", "2", "50.0", "0.0", "b (1)"]
    assert b[:5] == ["b", "2", "2", "50.0", "50.0"]
    assert rows_below(html, "Clips that could not be read")[0][:2] == ["clip5", "shape"]
    assert html.count('src="data:image/svg+xml;base64,') == 1


def test_mistakes_are_the_most_frequent_confusions_with_everybodys_answer() -> None:
    found = shown()
    more = [{**row, "video_id": f"{row['video_id']}b"} for row in found.predictions.to_dict("records") if row["top1"] == EVIL]
    page = page_of(dataclasses.replace(found, predictions=pd.concat([found.predictions, pd.DataFrame(more)])))
    confused = examples(page)
    assert [(example.head, example.film.video_id) for example in confused] == [
        (f"“b” taken for “{EVIL}” in 2 of 3 clips", "clip3"),
        ("“a” taken for “b” in 1 of 2 clips", "clip1"),
    ]
    assert [(said.who, said.text, said.right) for said in confused[1].said] == [
        ("The label", "a", None), ("From stage 2", "b", False), ("From scratch (control)", "b", False)
    ]  # fmt: skip
    assert confused[1].said[1].note == "sure to 75\N{NO-BREAK SPACE}%; then a 25\N{NO-BREAK SPACE}%"


def test_a_table_read_from_a_file_gives_the_same_page() -> None:
    """Cells of a CSV file are text."""
    found = dataclasses.replace(shown(), histories={"stage2": history(0)})  # curves take time
    written = dataclasses.replace(found, predictions=found.predictions.fillna("").astype(str))
    assert render(page_of(written), {}, {}) == render(page_of(found), {}, {})
