"""`umt describe`, `umt classify`, `umt ask` on real files and models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import ROOT
from tests.evaluation.tiny import make_tables
from tests.registry.finished import FinishedProject
from tests.serving.folders import ANSWERS, MOTIONS, write_folder
from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import ConfigError, VideoError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.tables import Tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands need no project."""
    monkeypatch.chdir(tmp_path)


def umt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object, status: int = 0) -> Any:
    found = umt(*arguments, "--json")
    assert found.exit_code == status, found.output or found.exception
    return json.loads(found.stdout)


def test_describe_says_what_a_model_is(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("stage2", tmp_path / "stage2", tables)
    found = umt("describe", folder)
    assert found.exit_code == 0
    for words in ("stage2", "2 frames of 32 x 32 pixels of a video", "attention, videos, match, texts", "text.vocab_size"):
        assert words in found.stdout
    assert told("describe", folder)["abilities"] == ["attention", "videos", "match", "texts"]


@pytest.mark.slow
def test_standard_output_is_the_document_alone(tmp_path: Path, tables: Tables) -> None:
    """Outside of a project too, where Kedro would log to it."""
    folder = write_folder("stage1", tmp_path / "stage1", tables)
    environment = {name: value for name, value in os.environ.items() if name != "KEDRO_LOGGING_CONFIG"}
    command = [sys.executable, "-m", "umt_pipeline.commands.main", "describe", str(folder), "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "stage1"
    own, projects = ROOT / "src" / "umt_pipeline" / "commands" / "logging.yml", ROOT / "conf" / "logging.yml"
    assert own.read_text(encoding="utf-8") == projects.read_text(encoding="utf-8"), "logged is as in a project"


def test_classify_names_what_cannot_be_read_and_says_so(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("classification", tmp_path / "model", tables)
    clips = [tables.media_root / "clip0.mp4", tables.media_root / "clip1.mp4"]
    found = told("classify", *clips, "--model", folder, "--top", 1)
    assert [row["video"] for row in found["videos"]] == [str(path) for path in clips]
    (best,) = found["videos"][0]["tasks"]["motion"]
    assert best["label"] in MOTIONS
    assert 0.5 <= best["probability"] <= 1
    lines = umt("classify", *clips, "--model", folder)
    assert lines.stdout.count("motion: ") == 2
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    found = told("classify", clips[0], tmp_path / "broken.mp4", "--model", folder, status=3)
    assert ["tasks" in row for row in found["videos"]] == [True, False]
    assert "broken.mp4" in found["videos"][1]["failure"]
    assert "broken.mp4" in umt("classify", tmp_path / "broken.mp4", "--model", folder).stderr


def test_ask_gives_answers_of_a_list(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("question_answering", tmp_path / "model", tables)
    write_json(tmp_path / "answers.json", list(ANSWERS))
    clip = tables.media_root / "clip0.mp4"
    found = told("ask", clip, "what goes left?", "--model", folder, "--answers", tmp_path / "answers.json", "--top", 2)
    assert len(found["answers"]) == 2
    assert found["answers"][0]["probability"] >= found["answers"][1]["probability"]
    lines = umt("ask", clip, "what goes left?", "--model", folder, "--answers", tmp_path / "answers.json").stdout.splitlines()
    assert lines[0].endswith(found["answers"][0]["text"])
    assert isinstance(umt("ask", clip, "what", "--model", folder).exception, ConfigError)
    refused = umt("ask", tmp_path / "nowhere.mp4", "what", "--model", folder, "--answers", tmp_path / "answers.json")
    assert isinstance(refused.exception, VideoError)


def test_a_model_of_the_project_is_asked_as_in_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FinishedProject(tmp_path / "project", ("classification", "question_answering"))
    monkeypatch.chdir(made.folder)
    clip = made.tables.media_root / "clip0.mp4"
    found = told("ask", clip, "what is it", "--model", "data/06_models/question_answering")
    assert {row["text"] for row in found["answers"]} == set(ANSWERS), "those of the training questions"
    found = told("classify", clip, "--model", "data/06_models/classification")
    assert set(found["videos"][0]["tasks"]) == {"motion", "shape"}
    other = write_folder("classification", tmp_path / "other", made.tables)
    refused = umt("classify", clip, "--model", other, "--env", "base").exception
    assert isinstance(refused, ConfigError)
    assert "leave --env out" in str(refused)
