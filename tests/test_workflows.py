"""The workflows: actions pinned, permissions least, credentials not kept, triggers that can fire."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.conftest import ROOT
from umt_pipeline.commands.main import app

WORKFLOWS = {file.stem: file for file in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}
# What `umt init mine` and `dvc add` make in a repository.
OF_A_CORPUS = ("conf/mine/corpus.yml", "corpora/mine/dvc.yaml", "data/mine/01_raw/videos.csv.dvc")


def load(name: str) -> dict[Any, Any]:
    return yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in load(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_and_say_of_which_tag(name: str) -> None:
    lines = [line for line in WORKFLOWS[name].read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_an_action_has_one_version() -> None:
    used = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert len({action.partition("@")[0] for action in used}) == len(used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_permissions_are_granted_job_by_job(name: str) -> None:
    content = load(name)
    assert content["permissions"] == {}
    for job in content["jobs"].values():
        assert job["permissions"]
        assert job["timeout-minutes"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_checkout_keeps_credentials(name: str) -> None:
    found = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert found
    assert all(step["with"]["persist-credentials"] is False for step in found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_pasted_into_scripts(name: str) -> None:
    assert not [step["run"] for step in steps(name) if "${{" in step.get("run", "")]


def test_what_may_write_on_a_pull_request_runs_nothing_of_it() -> None:
    content = load("ci")
    assert set(content[True]) == {"pull_request", "push"}  # YAML reads `on` as true
    for job in content["jobs"].values():
        if "write" in job["permissions"].values():
            assert not [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
            assert [step["run"].split()[0] for step in job["steps"] if "run" in step] == ["gh"]


def test_the_search_page_is_tested_in_a_browser() -> None:
    done = [step["run"] for step in load("ci")["jobs"]["test"]["steps"] if "run" in step]
    assert done == ["make venv", ".venv/bin/playwright install --with-deps chromium", ".ci/run"]


def test_each_path_that_starts_a_retraining_can_change() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file() and ".git" not in path.parts]
    for pattern in load("retrain")[True]["push"]["paths"]:
        name = pattern.removeprefix("!").replace("**", "*")
        if pattern.startswith("!"):
            assert name in ("corpora/*/dvc.lock", "corpora/*/results/*"), "what a retraining writes"
        else:
            assert [file for file in (*files, *OF_A_CORPUS) if fnmatch(file, name)], pattern


def test_everything_that_decides_a_result_starts_a_retraining() -> None:
    paths = load("retrain")[True]["push"]["paths"]
    patterns = [pattern.replace("**", "*") for pattern in paths if not pattern.startswith("!")]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    outs = [out for stage in stages for key in ("outs", "metrics", "plots") for out in stage.get(key, ())]
    made = {next(iter(out)) if isinstance(out, dict) else out for out in outs}
    read = {path for stage in stages for path in stage["deps"]} - made
    read |= {file for stage in stages for entry in stage["params"] for file in entry}
    for path in (*read, *OF_A_CORPUS):
        # A room of code is a folder.
        assert [pattern for pattern in patterns if fnmatch(path, pattern) or fnmatch(f"{path}/x", pattern)], path


def test_a_retraining_is_one_call_with_options_that_exist() -> None:
    (script,) = [step["run"] for step in steps("retrain") if "umt retrain" in step.get("run", "")]
    command = get_command(app).commands["retrain"]  # type: ignore[attr-defined]
    known = {option for param in command.params for option in param.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", script)) <= known
    assert script.count("umt ") == 1


def test_the_token_that_may_write_is_given_to_one_step() -> None:
    assert WORKFLOWS["retrain"].read_text(encoding="utf-8").count("secrets.RETRAIN_TOKEN") == 1
