"""Pages of single tasks, of fabricated results."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.reports.test_report import EVIL, Page
from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.reports.examples import Example, Film, Said, spread
from umt_pipeline.reports.figures import Curves, training_curves
from umt_pipeline.reports.tables import NOTHING, Bar, Cell, Scored, Tile, score_table
from umt_pipeline.reports.task import Section, TaskPage, clips_shown, render_task_page, with_frames
from umt_pipeline.tasks.classification.figures import Confusion, confusion_svg
from umt_pipeline.tasks.classification.page import ClassificationResults, classification_page
from umt_pipeline.tasks.detection.figures import boxes_on_frame, corner_names
from umt_pipeline.tasks.detection.page import DetectionResults, choose_frames, detection_page
from umt_pipeline.tasks.question_answering.page import QuestionResults, question_page
from umt_pipeline.tasks.retrieval.page import RetrievalResults, retrieval_page

FRAMES = np.full((2, 16, 16, 3), 90, np.uint8)
PARAMETERS = {"note": EVIL, "seed": 0}


def record(task: str, failures: tuple[str, ...] = (), **values: float) -> dict[str, Any]:
    protocol = Protocol(
        split="test", annotation_sha256="9f" * 32, clips=6, failures=failures, frames=8, views=12, resolution=224,
        settings={"clips": 4, "crops": 3, "none": None}, model=task.rpartition("/")[2], checkpoint_sha256="ac" * 32, seed=0,
        version="0.1.0",
    )  # fmt: skip
    return Record(task=task, values=values, protocol=protocol).model_dump(mode="json")


def history(rows: int, **columns: Any) -> pd.DataFrame:
    steps = np.arange(1, rows + 1)
    return pd.DataFrame({"step": steps, "loss": 1 / steps, "unreadable": np.zeros(rows), **columns})


NO_HISTORY = {model: history(0).assign(task="") for model in ("stage2", "control")}


def classified() -> ClassificationResults:
    """Six test clips: two of each of three classes; one is unreadable. The label that is evil is also a class."""
    told = {
        "stage2": [("a", "a"), ("a", "b"), ("b", "b"), ("b", EVIL), (EVIL, EVIL), (EVIL, "")],
        "control": [("a", "b"), ("a", "b"), ("b", "b"), ("b", "a"), (EVIL, "a"), (EVIL, "")],
    }
    rows = [
        {
            "task": "shape", "model": model, "video_id": f"clip{place}", "label": label, "failure": "" if top else EVIL,
            "top1": top or None, "top2": "a" if top else None, "score1": 0.75, "score2": 0.25,
        }
        for model, answers in told.items() for place, (label, top) in enumerate(answers)
    ]  # fmt: skip
    values = {"stage2": {"top1": 50.0, "mean_class": 50.0}, "control": {"top1": 100 / 6, "mean_class": 100 / 6}}
    per_class = {"stage2": {"a": 50.0, "b": 50.0, EVIL: 50.0}, "control": {"a": 0.0, "b": 50.0, EVIL: 0.0}}
    return ClassificationResults(
        metrics={"test": {"shape": values}, "per_class": {"shape": per_class}},
        records=[record(f"classification/shape/{model}", ("clip5",), **found) for model, found in values.items()],
        predictions=pd.DataFrame(rows),
        confusion=confusion_svg([Confusion("shape", ["a", "b", "c"], np.ones((3, 4), int))]),
        histories={"stage2": history(3).assign(task="shape"), "control": history(3).assign(task="shape")},
        training_labels={"shape": ["b", "a", "b", EVIL]},
    )


def asked() -> QuestionResults:
    rows = []
    for kind, models in (("open", ("majority", "stage2", "control")), ("choice", ("stage2", "control"))):
        for model in models:
            for place in range(6):
                failure = EVIL if place == 5 and model != "majority" else ""
                right = place < (3 if model == "stage2" else 1)
                rows.append(
                    {
                        "kind": kind, "split": "test", "model": model, "question_id": f"{kind}{place}",
                        "video_id": f"clip{place}",
                        "question": "" if kind == "choice" else ("What is it?", "Where?")[place % 2],
                        "answer": EVIL, "predicted": EVIL if right else "" if failure else "b", "right": right,
                        "failure": failure,
                    }
                )  # fmt: skip
    test = {"control": 100 / 6, "majority": 100 / 6, "stage2": 50.0}
    per_type = {"what": {**test, "stage2": 200 / 3}, "where": {"control": 0.0, "majority": 0.0, "stage2": 100 / 3}}
    return QuestionResults(
        metrics={
            "test": {"test": test},
            "per_type": {"test": per_type},
            "choice": {"test": {"chance": 25.0, "control": 100 / 6, "stage2": 50.0}},
        },
        records=[record(f"question_answering/test/{model}", accuracy=value) for model, value in test.items()],
        predictions=pd.DataFrame(rows),
        histories={"stage2": history(3), "control": history(0)},
        types="first_word",
        notes=[f"no control: {EVIL}"],
    )


def detected() -> DetectionResults:
    """Four key frames. In the first all is told, in the second nothing, in the third half; the fourth cannot be read."""
    left, right = (0.1, 0.1, 0.4, 0.9), (0.6, 0.1, 0.9, 0.9)
    columns = ["video", "timestamp_s", "x1", "y1", "x2", "y2", "label"]
    done = [("v", 1.0, left, "run"), ("v", 1.0, left, EVIL), ("v", 2.0, left, "sit"), ("v", 3.0, left, "run")]
    done += [("v", 3.0, right, "sit"), ("gone", 1.0, left, "sit")]
    truth = pd.DataFrame([(video, at, *box, label) for video, at, box, label in done], columns=columns)
    told = [("v", 1.0, left, f"run; {EVIL}", EVIL, "run"), ("v", 1.0, right, "", "sit", "run")]
    told += [("v", 2.0, left, "sit", "run", "sit"), ("v", 3.0, left, "run", "run", "sit"), ("gone", 1.0, left, "", "", "")]
    rows = [
        {
            "model": model, "video": video, "timestamp_s": at,
            **{edge: value if one else None for edge, value in zip(("x1", "y1", "x2", "y2"), box, strict=True)},
            "true": true, "failure": "" if one else EVIL, "action1": one if model == "stage2" or not one else "walk",
            "score1": 0.75 if one else None, "action2": two, "score2": 0.5 if one else None,
        }
        for model in ("stage2", "control") for video, at, box, true, one, two in told
    ]  # fmt: skip
    test = {
        "chance": {"map": 10.0, "map_moving": 12.0}, "stage2": {"map": 40.0, "map_moving": 45.0},
        "control": {"map": 30.0, "map_moving": 50.0},
    }  # fmt: skip
    per_action = {
        "run": {"stage2": 20.0, "control": 50.0, "chance": 12.0}, "sit": {"stage2": 60.0, "control": 10.0, "chance": 8.0},
        "fly": {},
    }  # fmt: skip
    return DetectionResults(
        metrics={"test": test, "per_action": per_action, "missed": {"stage2": {"videos": {"gone": EVIL, "dark": "none"}}}},
        records=[record(f"detection/test/{model}", ("gone@1.0",), **values) for model, values in test.items()],
        predictions=pd.DataFrame(rows),
        truth=truth,
        trained={"sit": 7},
        groups={"moving": ["run"]},
        picture=confusion_svg([Confusion("any picture", ["a", "b"], np.ones((2, 3), int))]),
        histories={"stage2": history(3), "control": history(3)},
        notes=[f"left out: {EVIL}"],
    )


def detection_of(results: DetectionResults) -> TaskPage:
    return detection_page(results, choose_frames(results), {"name": EVIL}, PARAMETERS)


def searched() -> RetrievalResults:
    """Before fine-tuning a fifth is found, after it half; by re-ranking 10 points more, by the dual softmax 20."""
    models: dict[str, dict[str, dict[str, float]]] = {}
    records = []
    for model, r1 in (("fine_tuned", 50.0), ("zero_shot", 20.0)):
        for place, score in enumerate(("dual", "dsl", "reranked")):
            gain = {"dual": 0.0, "dsl": 20.0, "reranked": 10.0}[score]
            values = {f"{way}_{name}": r1 + gain for way in ("t2v", "v2t") for name in ("r1", "r5", "r10")}
            values |= {f"{way}_{name}": 4.0 - place for way in ("t2v", "v2t") for name in ("medr", "meanr")}
            models.setdefault(model, {})[score] = values
            one = record(f"retrieval/test/{model}/{score}", ("clip5",), **values)
            records.append(one | ({"cost": {"pairs": 1800, "seconds": 2.0}} if score == "reranked" else {}))
    examples = [
        RetrievalExample("test", f"{model}/reranked", query, "clip0", ["clip1", "clip0"], [False, True], 2)
        for query in (EVIL, "a star") for model in ("fine_tuned", "zero_shot")
    ]  # fmt: skip
    examples[2] = dataclasses.replace(examples[2], top=["clip0"], relevant=[True], rank=1)
    chance = {"test": dict.fromkeys(models["zero_shot"]["dual"], 1.0)}
    return RetrievalResults({"test": {"test": models}}, records, examples, chance, history(3), ["nothing left out"])


def pages() -> dict[str, TaskPage]:
    provenance = {"run": {"git.commit": "01" * 20}, "name": EVIL}
    made = {
        "classification": classification_page(classified(), provenance, PARAMETERS),
        "questions": question_page(asked(), provenance, PARAMETERS),
        "detection": detection_of(detected()),
        "retrieval": retrieval_page(searched(), provenance, PARAMETERS),
    }
    return {name: with_frames(page, lambda _: FRAMES) for name, page in made.items()}


@cache
def page_of(name: str) -> str:
    return render_task_page(pages()[name])


def text_of(html: str) -> str:
    return " ".join("".join(Page(html).text).split()).replace("\N{NO-BREAK SPACE}", " ")


def rows_below(html: str, caption: str) -> list[list[str]]:
    """Return the cells of the body of a table."""
    table = html[html.index(f"<caption>{caption}</caption>") :]
    body = table[table.index("<tbody>") : table.index("</tbody>")]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in body.split("</tr>")[:-1]]


@pytest.mark.parametrize("name", ["classification", "questions", "detection", "retrieval"])
def test_a_page_is_one_file_well_formed_escaped_and_the_same_every_time(name: str) -> None:
    html = page_of(name)
    page = Page(html)
    assert (page.crossed, page.open) == ([], [])
    assert "<script" not in html
    assert EVIL in "".join(page.text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    assert re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)) is None
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert [f"#{a['id']}" for a in page.all("section")] == [a["href"] for a in page.all("a")]
    assert all(a.get("alt") for a in page.all("img"))
    used = {a["class"].split()[1] for _, a in page.tags if a.get("class", "").startswith("strip ")}
    assert used
    assert all(f".{style}{{aspect-ratio:" in html for style in used)
    assert render_task_page(pages()[name]) == html


def test_the_classifier_is_compared_with_its_control_and_with_no_model() -> None:
    html = page_of("classification")
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
    results = classified()
    more = [{**row, "video_id": f"{row['video_id']}b"} for row in results.predictions.to_dict("records") if row["top1"] == EVIL]
    table = pd.concat([results.predictions, pd.DataFrame(more)])
    results = dataclasses.replace(results, predictions=table, histories=NO_HISTORY)
    page = classification_page(results, {}, PARAMETERS)
    shown = [block for section in page.sections for block in section.blocks if isinstance(block, Example)]
    assert [(example.head, example.film.video_id) for example in shown] == [
        (f"“b” taken for “{EVIL}” in 2 of 3 clips", "clip3"),
        ("“a” taken for “b” in 1 of 2 clips", "clip1"),
    ]
    assert [(said.who, said.text, said.right) for said in shown[1].said] == [
        ("The label", "a", None), ("From stage 2", "b", False), ("From scratch (control)", "b", False)
    ]  # fmt: skip
    assert clips_shown(page.sections) == ["clip3", "clip1"]


def test_answers_are_counted_by_type_and_compared() -> None:
    html = page_of("questions")
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


def test_examples_of_questions_are_right_and_wrong_ones_with_everybodys_answer() -> None:
    page = question_page(dataclasses.replace(asked(), histories=NO_HISTORY), {}, PARAMETERS)
    shown = {s.title: [b for b in s.blocks if isinstance(b, Example)] for s in page.sections}
    found = [(e.head, e.verdict, e.film.video_id) for e in shown["Examples: open questions"]]
    assert found == [
        ("What is it?", "right", "clip0"), ("What is it?", "right", "clip2"), ("What is it?", "wrong", "clip4"),
        ("Where?", "right", "clip1"), ("Where?", "wrong", "clip3"),
    ]  # fmt: skip
    first = shown["Examples: open questions"][0]
    assert [(said.who, said.right) for said in first.said] == [
        ("The truth", None), ("From stage 2", True), ("From the control", True), ("Commonest answer", True)
    ]  # fmt: skip
    choices = shown["Examples: multiple choice"]
    assert [(e.head, e.verdict) for e in choices] == [("Which caption is it?", v) for v in ("right",) * 2 + ("wrong",) * 2]
    assert [said.who for said in choices[0].said] == ["The truth", "Stage 2", "Stage 2 from scratch (control)"]


def test_actions_are_compared_one_by_one_in_groups_and_as_a_mean() -> None:
    html = page_of("detection")
    text = text_of(html)
    assert "with a mean average precision of 40.0 % in 4 held-out key frames" in text
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
    results = detected()
    frames = choose_frames(results)
    assert [(frame.name, frame.best, frame.right, frame.true) for frame in frames] == [
        ("v, 1 s", True, 2, 2), ("v, 3 s", True, 1, 2), ("v, 2 s", False, 0, 1)
    ]  # fmt: skip
    assert (len(frames[0].people), len(frames[0].found)) == (1, 2)
    page = detection_page(dataclasses.replace(results, histories=NO_HISTORY), frames, {}, {})
    shown = [block for section in page.sections for block in section.blocks if isinstance(block, Example)]
    assert [example.verdict for example in shown] == ["2 of 2", "1 of 2", "0 of 1"]
    assert [(said.who, said.text) for said in shown[0].said] == [
        ("The truth", f"A: run, {EVIL}"),
        ("From stage 2", f"1: {EVIL} 0.75, run 0.50 · 2: sit 0.75, run 0.50"),
        ("From scratch (control)", "1: walk 0.75, run 0.50 · 2: walk 0.75, run 0.50"),
    ]
    assert shown[1].said[0].text == "A: run · B: sit"


def test_boxes_are_drawn_where_they_are() -> None:
    frame = boxes_on_frame(np.full((32, 64, 3), 90, np.uint8), [(0.0, 0.0, 0.25, 0.5)], [(0.5, 0.25, 1.0, 1.0)])
    assert frame.shape == (256, 512, 3), "large enough for lines and names"
    assert frame[64, 131].tolist() == [255, 255, 255]
    assert frame[128, 256].tolist() == [255, 59, 212]
    assert frame[32, 400].tolist() == [90, 90, 90]
    assert (corner_names(28)[0], corner_names(28)[-2:]) == ("A", ["A2", "B2"])


def test_detection_without_boxes_says_so() -> None:
    nothing: dict[str, Any] = {"test": {}, "per_action": {}, "missed": {}}
    empty = pd.DataFrame({"model": [], "video": pd.Series(dtype=str)})
    none = {model: history(0) for model in ("stage2", "control")}
    results = DetectionResults(nothing, [], empty, detected().truth.iloc[:0], {}, {}, "", none, ["no boxes"])
    page = Page(render_task_page(detection_of(results)))
    text = " ".join("".join(page.text).split())
    for sentence in ("There are no numbers to sum up", "Nothing was tested.", "Nothing was trained.", "no boxes"):
        assert sentence in text


def test_finding_is_compared_before_and_after_and_with_chance() -> None:
    html = page_of("retrieval")
    text = text_of(html)
    assert "from the set test, the fine-tuned model puts a right one of 6 clips first in 50.0 % of the cases" in text
    assert "(re-ranked 60.0 %, zero-shot 20.0 %, zero-shot re-ranked 30.0 %, chance 1.0 %)" in text
    rows = rows_below(html, "Retrieval on test")
    assert [row[0] for row in rows] == [
        *(f"{model}, {score}" for model in ("Zero-shot", "Fine-tuned") for score in ("dual", "dual softmax", "re-ranked")),
        "Chance",
    ]
    assert rows[3] == ["Fine-tuned, dual", *["50.0", "50.0", "50.0", "4", "4"] * 2]
    best = re.findall(r'<td class="best">([^<]*)</td>', html[html.index("<caption>Retrieval on test") :])
    assert best == ["2", "2"] * 2 + ["60.0", "60.0", "60.0", "2", "2"] * 2, "the dual softmax does not compete"
    assert rows_below(html, "What re-ranking costs")[0] == ["Fine-tuned, re-ranked", "test", "1,800", "2.00", "900"]
    assert rows_below(html, "Clips that could not be read") == [["clip5", "test"]]


def test_queries_show_what_was_found_before_and_after() -> None:
    page = retrieval_page(dataclasses.replace(searched(), history=history(0)), {}, {})
    shown = [block for section in page.sections for block in section.blocks if isinstance(block, Example)]
    assert [(example.head, example.verdict) for example in shown] == [(EVIL, "miss"), ("a star", "hit")]
    assert [(said.who, said.note) for said in shown[1].said] == [
        ("Zero-shot, re-ranked", "first right answer: place 2"), ("Fine-tuned, re-ranked", "first right answer: place 1")
    ]  # fmt: skip
    assert clips_shown(page.sections) == ["clip1", "clip0"]


def test_tables_read_from_files_give_the_same_page() -> None:
    """Cells of a CSV file are text."""
    # Curves take time and do not depend on the tables.
    results, answers = (dataclasses.replace(made, histories=NO_HISTORY) for made in (classified(), asked()))
    written = results.predictions.fillna("").astype(str)
    assert render_task_page(classification_page(dataclasses.replace(results, predictions=written), {}, {})) == (
        render_task_page(classification_page(results, {}, {}))
    )
    written = answers.predictions.astype(str)
    assert render_task_page(question_page(dataclasses.replace(answers, predictions=written), {}, {})) == (
        render_task_page(question_page(answers, {}, {}))
    )


def test_boxes_read_from_files_give_the_same_page() -> None:
    results = dataclasses.replace(detected(), histories=NO_HISTORY)
    written = dataclasses.replace(results, predictions=results.predictions.astype(object).fillna("").astype(str))
    assert render_task_page(detection_of(written)) == render_task_page(detection_of(results))


def test_nothing_asked_is_said_in_every_section() -> None:
    nothing: dict[str, Any] = {"test": {}, "per_type": {}, "choice": {}}
    empty = asked().predictions.iloc[:0]
    results = QuestionResults(nothing, [], empty, {"stage2": history(0), "control": history(0)}, "text", ["no questions"])
    page = Page(render_task_page(question_page(results, {}, {})))
    text = " ".join("".join(page.text).split())
    for sentence in (
        "There are no numbers to sum up", "There is no open question to test with.", "Nothing was trained.",
        "No open questions were asked.", "No multiple choice were asked.", "There are no records", "no questions",
    ):  # fmt: skip
        assert sentence in text
    assert page.all("table") == []


def test_protocol_cards_say_how_and_name_failures() -> None:
    html = page_of("classification")
    card = html[html.index('<article class="card protocol"><h4>classification/shape/stage2</h4>') :]
    card = card[: card.index("</article>")]
    told = dict(re.findall(r"<dt>([^<]+)</dt><dd[^>]*>([^<]+)</dd>", card))
    times = "\N{MULTIPLICATION SIGN}"
    assert told[f"frames {times} views"] == f"8 {times} 12 at 224 pixels"
    assert told["unreadable clips"] == "1, counted as wrong"
    assert (told["checkpoint"], told["annotations"]) == ("acacacacacac…", "9f9f9f9f9f9f…")
    assert "ac" * 32 in card
    assert 'title="clip5"' in card
    assert (told["clips"], told["setting: clips"], told["setting: crops"]) == ("6", "4", "3")
    assert "setting: none" not in told
    assert "top1 <b>50.00</b>" in card


def test_a_page_of_any_task_has_sections_and_clips_that_its_pipeline_names() -> None:
    film = Said("Stage 2", note="place 2", films=(Film("x", False), Film("y", True)))
    section = Section("Found & shown", [Example("a query", Film("y"), (film,), "miss")], explain="how")
    note = {"task": "detection", "values": {}, "protocol": None, "cost": None, "note": "no boxes"}
    page = TaskPage(
        title="Any task",
        tiles=[Tile("mAP", "12.0 %", ["chance 1.0 %"])],
        bars=[("mAP (%)", [Bar("model", 12.0), Bar("chance", 1.0, True)])],
        sections=[section, Section("Found & shown", [], missing="none")],
        records=[note, {**record("retrieval/x", r1=3.0), "cost": {"pairs": 1800, "seconds": 2.5}}],
    )

    def load(video_id: str) -> np.ndarray:
        if video_id == "x":
            raise VideoError("corrupt", "broken")
        return FRAMES

    html = render_task_page(with_frames(page, load))
    assert [a["id"] for a in Page(html).all("section")] == [
        "results", "found-shown-0", "found-shown-1", "protocol", "provenance"
    ]  # fmt: skip
    assert html.count('class="strip clip-0"') == 2, "asked about, and found"
    assert html.count('class="strip none"') == 1
    assert "no boxes" in html
    assert "1,800 pairs in 2.5 s" in html


def test_scores_mark_the_best_fair_model_and_ranks_are_better_low() -> None:
    rows = [
        Scored(Cell("a"), {"r1": 3.0, "medr": 2.0}),
        Scored(Cell("b"), {"r1": 5.0, "medr": 4.5}),
        Scored(Cell("c"), {"r1": 9.0}, fair=False),
    ]
    table = score_table("x", rows, {"r1": "R@1", "medr": "MedR"}, {"chance": {"r1": 99.0}, "none": {}}, ranks=["medr"])
    assert table is not None
    assert [[(c.text, c.style) for c in row.cells] for row in table.rows] == [
        [("3.0", ""), ("2", "best")], [("5.0", "best"), ("4.5", "")], [("9.0", ""), (NOTHING, "")],
        [("99.0", ""), (NOTHING, "")],
    ]  # fmt: skip
    assert score_table("x", [], {"r1": "R@1"}, {}) is None


def test_curves_leave_out_what_never_changed_and_runs_that_were_not() -> None:
    curves = training_curves("k", [("model", history(3, lr=[1.0, 2.0, 3.0], boxes=2.0)), ("control", history(0))])
    assert isinstance(curves, Curves)
    assert curves.lines == ("model",)
    assert [panel.title for panel in curves.panels] == ["total loss", "learning rate"]
    both = training_curves("k", [("model", history(3)), ("control", history(2, full=[0.5, 0.6], unreadable=0.0))])
    assert both is not None
    assert [panel.title for panel in both.panels] == ["total loss", "full"]
    apart = training_curves("k", [("model", history(3, lr=1.0)), ("control", history(3, lr=2.0))])
    assert apart is not None
    assert [panel.title for panel in apart.panels] == ["total loss", "learning rate"], "each constant, but not the same"
    once = training_curves("k", [("model", history(3, full=[None, None, 0.5], lr=[None, 0.0, None]))])
    assert once is not None
    assert [panel.title for panel in once.panels] == ["total loss", "full"]
    assert training_curves("k", [("model", history(0))]) is None


def test_examples_are_spread_evenly() -> None:
    assert spread(list(range(9)), 3) == [0, 4, 8]
    assert spread([1, 2], 3) == [1, 2]
    assert spread([], 2) == []
