"""What would run is known from what git keeps: in a fresh clone, without any data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands.small_project import PARAMETERS, clone, finish, git, make_project
from tests.project_copies import edit
from umt_pipeline.commands.stage_states import EARLIER, MISSING, RUNS, UP_TO_DATE, WAITS, due, stage_states, study_states
from umt_pipeline.dvc_repo import dvc_repo


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have run."""
    project = make_project(tmp_path_factory.mktemp("small"))
    finish(project)
    return project


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """A clone of it, without data."""
    return shutil.move(clone(finished, "fresh"), tmp_path / "fresh")


def states(project: Path) -> dict[str, tuple[str, str]]:
    with dvc_repo(project) as repo:
        return {state.name: (state.state, "; ".join(state.why)) for state in stage_states(repo, project / "dvc.yaml")}


def test_what_is_locked_and_missing_is_no_reason_to_run(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    found = states(fresh)
    assert {state for state, _ in found.values()} == {MISSING}
    assert "dvc pull" in found["evaluation"][1]


def test_a_changed_parameter_is_named_and_what_follows_waits(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    edit(fresh / PARAMETERS, "width: 1", "width: 2")
    found = states(fresh)
    assert found["stage2"] == (RUNS, "parameter stage2.width: 1 became 2")
    assert found["evaluation"] == (WAITS, "after stage2, if what it reads of it changes")


def test_changed_code_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    edit(fresh / "src/use.py", "[:5]", "[:4]")
    found = states(fresh)
    assert found["stage2"][0] == MISSING
    assert found["evaluation"] == (RUNS, "src/use.py changed")
    (fresh / "src/use.py").unlink()
    assert states(fresh)["evaluation"] == (RUNS, "src/use.py is missing")


def test_another_lock_of_what_is_read_is_a_reason(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    lock = yaml.safe_load((fresh / "dvc.lock").read_text(encoding="utf-8"))
    lock["stages"]["stage2"]["outs"][0]["md5"] = "0" * 32
    (fresh / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    assert states(fresh)["evaluation"] == (RUNS, "data/06_models/model changed, as stage2 has made it anew")


def test_a_result_that_git_keeps_must_be_there(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)
    (fresh / "results/headline.json").unlink()
    assert states(fresh)["stage2"][0] == RUNS
    git(fresh, "restore", "results/headline.json")
    (fresh / "results/headline.json").write_text("{}", encoding="utf-8")
    assert states(fresh)["stage2"] == (RUNS, "results/headline.json, a result, was changed by hand")


def test_with_data_all_is_up_to_date(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    assert {state for state, _ in states(finished).values()} == {UP_TO_DATE}


def test_a_study_may_be_of_earlier_code_and_of_no_other_parameters(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh)

    def told() -> dict[str, tuple[str, str]]:
        with dvc_repo(fresh) as repo:
            found = study_states(repo, fresh / "dvc.yaml")
            return {state.name: (state.state, "; ".join(state.why)) for state in found} | {"due": (str(due(found)), "")}

    assert told()["stage2"] == (UP_TO_DATE, "")
    edit(fresh / "src/make.py", "model ", "Model ")
    assert told()["stage2"] == (EARLIER, "src/make.py changed")
    assert told()["due"] == ("False", "")
    edit(fresh / PARAMETERS, "width: 1", "width: 2")
    assert told()["stage2"] == (RUNS, "parameter stage2.width: 1 became 2")
    assert told()["due"] == ("True", "")
