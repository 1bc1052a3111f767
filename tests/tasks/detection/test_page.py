from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from tests.reports.pages import EVIL, FRAMES, checked, examples, history, record, rows_below, text_of
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.render import render
from umt_pipeline.reports.tables import NOTHING
from umt_pipeline.tasks.detection.figures import detection_svg
from umt_pipeline.tasks.detection.page import Actions, choose_frames, detection_page
from umt_pipeline.tasks.task import Shown

LEFT, RIGHT = (0.1, 0.1, 0.4, 0.9), (0.6, 0.1, 0.9, 0.9)
# Four key frames. In the first all is told, in the second nothing, in the third half; the fourth cannot be read.
DONE = [
    ("v", 1.0, LEFT, "run"), ("v", 1.0, LEFT, EVIL), ("v", 2.0, LEFT, "sit"), ("v", 3.0, LEFT, "run"), ("v", 3.0, RIGHT, "sit"),
    ("gone", 1.0, LEFT, "sit"),
]  # fmt: skip
TOLD = [
    ("v", 1.0, LEFT, f"run; {EVIL}", EVIL, "run"), ("v", 1.0, RIGHT, "", "sit", "run"), ("v", 2.0, LEFT, "sit", "run", "sit"),
    ("v", 3.0, LEFT, "run", "run", "sit"), ("gone", 1.0, LEFT, "", "", ""),
]  # fmt: skip
TRUTH = pd.DataFrame(
    [(video, at, *box, label) for video, at, box, label in DONE],
    columns=["video", "timestamp_s", "x1", "y1", "x2", "y2", "label"],
)
ACTIONS = Actions(TRUTH, {"sit": 7}, {"moving": ["run"]})


def shown() -> Shown[Any, Any]:
    rows = [
        {
            "model": model, "video": video, "timestamp_s": at,
            **{edge: value if one else None for edge, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)},
            "true": true, "failure": "" if one else EVIL, "action1": one if model == "stage2" or not one else "walk",
            "score1": 0.75 if one else None, "action2": two, "score2": 0.5 if one else None,
        }
        for model in ("stage2", "control") for video, at, box, true, one, two in TOLD
    ]  # fmt: skip
    test = {
        "chance": {"map": 10.0, "map_moving": 12.0}, "stage2": {"map": 40.0, "map_moving": 45.0},
        "control": {"map": 30.0, "map_moving": 50.0},
    }  # fmt: skip
    per_action = {
        "run": {"stage2": 20.0, "control": 50.0, "chance": 12.0}, "sit": {"stage2": 60.0, "control": 10.0, "chance": 8.0},
        "fly": {},
    }  # fmt: skip
    return Shown(
        params=None,
        data=None,
        metrics={"test": test, "per_action": per_action, "missed": {"stage2": {"videos": {"gone": EVIL, "dark": "none"}}}},
        records=[record(f"detection/test/{model}", ("gone@1.0",), **values) for model, values in test.items()],
        predictions=pd.DataFrame(rows),
        picture=detection_svg({}, []),
        histories={"stage2": history(3), "control": history(3)},
    )


def page_of(shown: Shown[Any, Any], actions: Actions = ACTIONS) -> Page:
    return detection_page(shown, actions, [f"left out: {EVIL}"], lambda video, timestamp_s: FRAMES[0])


def test_actions_are_compared_one_by_one_in_groups_and_as_a_mean() -> None:
    html = checked(page_of(shown()))
    text = text_of(html)
    assert "fine-tuned from stage 2 tells 3 actions with a mean average precision of 40.0 % in 4 held-out key frames" in text
    assert "(from scratch (control) 30.0 %, chance 10.0 %)" in text
    assert rows_below(html, "Mean average precision") == [
        ["From stage 2", "40.0", "45.0"], ["From scratch (control)", "30.0", "50.0"], ["Chance", "10.0", "12.0"]
    ]  # fmt: skip
    assert rows_below(html, "Average precision of each action") == [
        ["sit", NOTHING, "7", "3", "60.0", "10.0", "8.0"], ["run", "moving", "0", "2", "20.0", "50.0", "12.0"]
    ]  # fmt: skip
    assert [row[:2] for row in rows_below(html, "Key frames that were missed whole")] == [["gone", "1 s"], ["dark", "all"]]
    assert html.count('src="data:image/svg+xml;base64,') == 1


def test_key_frames_are_the_best_and_the_worst_told_with_everybodys_actions() -> None:
    frames = choose_frames(shown().predictions, TRUTH)
    assert [(frame.timestamp_s, frame.best, frame.example.verdict, frame.example.good) for frame in frames] == [
        (1.0, True, "2 of 2", True), (3.0, True, "1 of 2", False), (2.0, False, "0 of 1", False)
    ]  # fmt: skip
    assert (len(frames[0].people), len(frames[0].found)) == (1, 2)
    page = page_of(shown())
    told = examples(page)
    assert told == [frame.example for frame in frames]
    assert [(said.who, said.text) for said in told[0].said] == [
        ("The truth", f"A: run, {EVIL}"),
        ("From stage 2", f"1: {EVIL} 0.75, run 0.50 · 2: sit 0.75, run 0.50"),
        ("From scratch (control)", "1: walk 0.75, run 0.50 · 2: walk 0.75, run 0.50"),
    ]
    assert told[1].said[0].text == "A: run · B: sit"
    assert page.frames is not None
    assert page.frames("v, 1 s").shape == (1, 256, 256, 3), "one frame, large enough for its boxes"


def test_boxes_read_from_a_file_give_the_same_page() -> None:
    found = dataclasses.replace(shown(), histories={"stage2": history(0)})
    written = dataclasses.replace(found, predictions=found.predictions.astype(object).fillna("").astype(str))
    assert render(page_of(written), {}, {}) == render(page_of(found), {}, {})


def test_no_boxes_are_said_in_every_section() -> None:
    nothing: dict[str, Any] = {"test": {}, "per_action": {}, "missed": {}}
    empty = pd.DataFrame({"model": [], "video": pd.Series(dtype=str)})
    none = Shown(None, None, nothing, [], empty, "", {"stage2": history(0), "control": history(0)})
    text = text_of(checked(page_of(none, Actions(TRUTH.iloc[:0], {}, {}))))
    for sentence in ("There are no numbers to sum up", "Nothing was tested.", "Nothing was trained.", "left out: "):
        assert sentence in text
