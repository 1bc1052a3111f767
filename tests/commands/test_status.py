"""`umt status`: what is in the folder and not in the tables, told as often as it is asked, and what would run without data."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.conftest import ROOT
from umt_pipeline.commands.corpus import Corpus
from umt_pipeline.commands.init import Given, init_corpus
from umt_pipeline.commands.main import app
from umt_pipeline.commands.stage_states import RUNS, UP_TO_DATE, WAITS, StageState
from umt_pipeline.commands.status import Status, folder_news, markdown_status, print_status, project_status
from umt_pipeline.dvc_stages import describe_stages, render_stages
from umt_pipeline.project_config import ProjectConfigLoader


def test_a_changed_file_of_the_same_size_is_told_again(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media))
    corpus = Corpus(dvc_project, "mine")
    assert folder_news(corpus) == []
    (media / "a.mp4").write_text("b.mp4")
    os.utime(media / "a.mp4", (1, 1))
    told = folder_news(corpus)
    assert told[0] == f"1 files in {media.resolve()} are changed: a.mp4"
    assert folder_news(corpus) == told, "though its new hash is known by now"


def test_the_configuration_is_read_once_however_many_files_there_are(
    dvc_project: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_corpus(dvc_project, "mine", Given(media))
    read: list[str] = []
    kedro_reads = ProjectConfigLoader._read_raw_config

    def counted(loader: ProjectConfigLoader, kind: str) -> Any:
        read.append(kind)
        return kedro_reads(loader, kind)

    monkeypatch.setattr(ProjectConfigLoader, "_read_raw_config", counted)
    assert folder_news(Corpus(dvc_project, "mine")) == []
    assert read.count("catalog") == 1


@pytest.fixture
def fresh(dvc_project: Path) -> Path:
    """What a clone of this checkout holds: no data."""
    for name in ("dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, dvc_project)
    for name in ("results", "studies"):
        shutil.copytree(ROOT / name, dvc_project / name, ignore=shutil.ignore_patterns("__pycache__"))
    return dvc_project


@pytest.mark.slow
def test_a_clone_without_data_names_the_stages_of_a_changed_parameter(fresh: Path) -> None:
    before = {state.name: state.why for state in project_status(fresh, None)[0].states}
    file = fresh / "conf/base/parameters_retrieval.yml"
    file.write_text(file.read_text(encoding="utf-8").replace("batch_size: ", "batch_size: 1", 1), encoding="utf-8")
    states = {state.name: state for state in project_status(fresh, None)[0].states}
    changed = [name for name, state in states.items() if state.why != before[name]]
    assert changed == ["retrieval", "evaluation"], "only those that read the parameter"
    assert "batch_size" in " ".join(states["retrieval"].why)
    assert not [why for state in states.values() for why in state.why if "is missing" in why]
    assert not print_status(Console(file=io.StringIO(), width=200), fresh, None)


@pytest.mark.slow
def test_a_pipeline_without_a_stage_is_told(fresh: Path) -> None:
    assert not project_status(fresh, None)[0].stale
    names = [state.name for state in project_status(fresh, None)[0].states if state.name != "detection"]
    (fresh / "dvc.yaml").write_text(render_stages(describe_stages(fresh, None, names), None), encoding="utf-8")
    assert project_status(fresh, None)[0].stale


@pytest.mark.slow
def test_the_command_ends_well_unless_it_is_to_check(fresh: Path) -> None:
    file = fresh / "conf/base/parameters.yml"
    file.write_text(file.read_text(encoding="utf-8").replace("seed: 0", "seed: 1"), encoding="utf-8")
    told = CliRunner().invoke(app, ["status", "demo", "--markdown"])
    assert told.exit_code == 0
    assert "| demo_corpus | will run | parameter seed: 0 became 1" in told.stdout
    assert CliRunner().invoke(app, ["status", "--check"]).exit_code == 1
    assert json.loads(CliRunner().invoke(app, ["status", "--due"]).stdout) == ["demo"]


def test_markdown_shows_what_is_to_do_and_counts_the_rest() -> None:
    states = [StageState("a", UP_TO_DATE), StageState("b", RUNS, ["x | y", "z"]), StageState("c", WAITS, ["after b"])]
    found = markdown_status([Status("dvc repro dvc.yaml", states, ["a note"])])
    assert "| b | will run | x \\| y<br>z |" in found
    assert "| c | waits | after b |" in found
    assert "1 of 3 stages is up to date." in found
    assert "a note" in found
