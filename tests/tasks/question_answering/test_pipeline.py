"""The question-answering nodes on a tiny world: what is written, what is rejected, and what is refused before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from tests.evaluation.tiny import make_tables, make_video_text
from tests.evidenced import check_evidence
from tests.pipelines.clean import clean
from tests.tables.reading import read
from tests.tasks.running import run_task
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.datasets import TableDataset
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.models.folders import SKIPPED_FILE, weights_sha256
from umt_pipeline.tables.annotations import write_annotations
from umt_pipeline.tasks.question_answering.data import QuestionData
from umt_pipeline.tasks.question_answering.model import load_question_answering
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams
from umt_pipeline.tasks.question_answering.task import TASK

SPLITS = ("train",) * 5 + ("test",) * 3


def params(**changes: Any) -> QuestionAnsweringParams:
    loop = {"steps": 2, "batch_size": 4, "lr": 1e-3, "device": "cpu", "log_every": 1}
    values = {
        "fine_tuning": {"view": {"frames": 2, "size": 32, "flip": False}, "max_question_length": 8, "train": loop},
        "test": {"workers": 1, "types": "text"},
    }
    return QuestionAnsweringParams.model_validate({**values, **changes})


def question(question_id: str, video: str, text: str, *answers: str) -> dict[str, Any]:
    return {"question_id": question_id, "video": video, "question": text, "answers": list(answers)}


def choice(question_id: str, video: str, options: list[str], correct: int) -> dict[str, Any]:
    return {"question_id": question_id, "video": video, "question": "", "options": options, "correct": correct}


def rows(videos: pd.DataFrame) -> list[dict[str, Any]]:
    """Two open questions about each video, the last one said by two people; a choice about each test video."""
    found = []
    for number, (path, split) in enumerate(zip(videos["path"], videos["split"], strict=True)):
        found.append(question(f"what{number}", path, "What moves?", ("disc", "star")[number % 2]))
        found.append(question(f"where{number}", path, "where does it go", "left", "up", "left"))
        if split == "test":
            found.append(choice(f"choice{number}", path, ["a disc", "a star", "moving up"][: 2 + number % 2], number % 2))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("question_answering")
    tables = make_tables(folder / "media", SPLITS)
    for name, seed in (("stage2", 2), ("control", 3)):
        (folder / name).mkdir()
        make_video_text(folder / name, tables, seed)
    return {
        "videos": tables.videos,
        "raw_media": tables.media_root,
        "stage2_model": folder / "stage2",
        "stage2_control_model": folder / "control",
        "workspace": folder / "workspace",
    }


def raw(world: dict[str, Any]) -> pd.DataFrame:
    videos = world["videos"]
    return pd.DataFrame.from_records(rows(videos[videos["media"] == "video"]))


def tables_of(world: dict[str, Any], table: pd.DataFrame, **changes: Any) -> dict[str, Any]:
    questions = clean("questions", table, world["videos"])[0]
    return {**{name: value for name, value in world.items() if name != "workspace"}, "questions": questions, **changes}


def gather(settings: QuestionAnsweringParams, world: dict[str, Any], table: pd.DataFrame, **changes: Any) -> QuestionData:
    return TASK.gather(settings, tables_of(world, table, **changes), world["workspace"])


def finish(
    settings: QuestionAnsweringParams, world: dict[str, Any], table: pd.DataFrame, **changes: Any
) -> tuple[Path, Path, dict[str, Any], list[dict[str, Any]], pd.DataFrame, str]:
    found = run_task(TASK, settings, tables_of(world, table, **changes), world["workspace"])
    metrics = {**found["metrics"], "times": found["times"]}
    json.dumps(metrics)
    check_evidence(found["evidence"], found["records"])
    table = found["predictions"].assign(right=found["predictions"]["right"] == "True")
    return found["model"], found["control_model"], metrics, found["records"], table, found["report"]


def test_both_models_are_trained_asked_and_recorded(world: dict[str, Any]) -> None:
    settings = params()
    model, control, metrics, records, table, html = finish(settings, world, raw(world))
    assert [record["task"] for record in records] == [
        "question_answering/test/majority",
        "question_answering/test/stage2",
        "question_answering/test/control",
        "multiple_choice/test/stage2",
        "multiple_choice/test/control",
    ]
    first = records[1]["protocol"]
    assert (first["clips"], first["queries"], first["k"], first["frames"], first["resolution"]) == (3, 6, 4, 2, 32)
    assert first["checkpoint_sha256"] == weights_sha256(model) != weights_sha256(control)
    assert records[3]["protocol"]["checkpoint_sha256"] == weights_sha256(world["stage2_model"])
    assert first["annotation_sha256"] == records[0]["protocol"]["annotation_sha256"]
    assert metrics["test"]["test"]["majority"] == pytest.approx(100 * 4 / 6), "disc is right for 1 of 3, left for 3 of 3"
    assert metrics["per_type"]["test"]["where does it go"]["majority"] == 100.0
    assert set(metrics["per_type"]["test"]) == {"what moves", "where does it go"}
    assert metrics["choice"]["test"]["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 3) / 3)
    assert metrics["answers"]["listed"] == 4
    assert metrics["training"]["stage2"]["steps"] == metrics["training"]["control"]["steps"] == 2
    assert metrics["times"]["training"]["stage2"]["median_mfu"] > 0
    for record in records:
        kind, split, name = record["task"].split("/")
        part = table[(table["model"] == name) & (table["kind"] == ("choice" if kind == "multiple_choice" else "open"))]
        assert part["right"].mean() * 100 == pytest.approx(record["values"]["accuracy"])
        assert metrics["choice" if kind == "multiple_choice" else "test"][split][name] == record["values"]["accuracy"]
    assert len(table) == 3 * 6 + 2 * 3
    assert load_question_answering(model)[0].config.vision.frames == 2
    assert html.count('<article class="card protocol">') == len(records)
    assert html.count("background-image") == 3, "each test clip is read once"
    assert "where does it go (3)" in html


def test_refused_before_anything_is_trained(world: dict[str, Any], tmp_path: Path) -> None:
    table = raw(world)
    only_test = table[table["question_id"].str[-1].astype(int) >= 5]
    with pytest.raises(ConfigError, match=r"train_split and in each of test_splits, .* found: train 0, test 6"):
        gather(params(), world, only_test)
    with pytest.raises(ConfigError, match="found: train 10, test 6, later 0"):
        gather(params(test_splits=["test", "later"]), world, table)
    with pytest.raises(ConfigError, match="expected a JSON list of texts, found"):
        gather(params(answers=str(tmp_path / "missing.json")), world, table)
    write_json(tmp_path / "answers.json", ["disc", "disc"])
    with pytest.raises(EvaluationError, match="'disc' is there 2 times"):
        gather(params(answers=str(tmp_path / "answers.json")), world, table)
    with pytest.raises(ValidationError, match="a test is of other videos"):
        params(test_splits=["train"])
    with pytest.raises(ValidationError, match="names one more than once"):
        params(test_splits=["test", "test"])


def test_an_answer_outside_the_list_is_wrong_and_counted(world: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "answers.json", ["disc", "up"])
    settings = params(answers=str(tmp_path / "answers.json"), control=False)
    _, control, metrics, records, table, html = finish(settings, world, raw(world))
    assert metrics["answers"]["not_in_list"] == {"test": 3 + 2}, "left thrice, star twice"
    assert records[1]["protocol"]["settings"]["truth_not_in_list"] == 5
    assert records[1]["protocol"]["k"] == 2, "no more than the list has"
    assert set(table["model"]) == {"majority", "stage2"}
    assert read_json(control / SKIPPED_FILE)["reason"] == "question_answering.control is false"
    assert "There is no control: question_answering.control is false." in html
    assert "The true answer to 5 open questions of test is not in the list" in html


def test_a_project_without_questions_is_told_so(world: dict[str, Any], tmp_path: Path) -> None:
    empty = TableDataset(str(tmp_path / "questions.jsonl"), optional=True).load()
    model, control, metrics, records, predictions, html = finish(params(), world, empty)
    assert "no open question" in read_json(model / SKIPPED_FILE)["reason"]
    assert read_json(control / SKIPPED_FILE) == read_json(model / SKIPPED_FILE)
    assert (metrics["test"], metrics["choice"], records, len(predictions)) == ({}, {}, [], 0)
    assert "nothing was measured" in html


def test_choices_alone_need_no_training(world: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "skipped").mkdir()
    write_json(tmp_path / "skipped" / SKIPPED_FILE, {"reason": "stage2.control is false"})
    table = raw(world)
    table = table[table["correct"].notna()].drop(columns=["answers", "question"])
    model, _, metrics, records, _, html = finish(params(), world, table, stage2_control_model=tmp_path / "skipped")
    assert [record["task"] for record in records] == ["multiple_choice/test/stage2"]
    assert (model / SKIPPED_FILE).is_file()
    assert set(metrics["choice"]["test"]) == {"chance", "stage2"}
    assert "captions are chosen right (stage 2; chance" in html


def test_tables_of_public_data_sets_are_read(world: dict[str, Any], tmp_path: Path) -> None:
    """What `umt tables read msrvtt-qa` writes needs no change."""
    qa = [{"id": 7, "video_id": 6513, "question": "what moves?", "answer": "disc", "category_id": 1}]
    mc = [{"video": "video6513.mp4", "caption": ["a", "b", "c"], "answer": 2}]
    files = {"msrvtt-qa": {"train_qa.json": qa, "answer_set.txt": "disc\nup\n"}, "msrvtt-mc": {"msrvtt_mc_test.json": mc}}
    for reader, content in files.items():
        write_annotations(read(tmp_path, reader, content), tmp_path / reader)
        videos = world["videos"].iloc[[-1]].assign(path="video6513.mp4", video_id="video6513")
        table = TableDataset(str(tmp_path / reader / "questions.jsonl")).load()
        accepted, rejected, _ = clean("questions", table, videos)
        assert (accepted["video_id"].tolist(), len(rejected)) == (["video6513"], 0)
    assert accepted["options"].tolist() == [["a", "b", "c"]]
    settings = params(answers=str(tmp_path / "msrvtt-qa" / "answers.json"))
    assert gather(settings, world, raw(world)).answers == ("disc", "up")
