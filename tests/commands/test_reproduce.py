"""A run of MLflow is had again: its commit, what it read by md5, its numbers; and what is missing is said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import pytest

from tests.commands.small_project import PARAMETERS, clone, dvc, finish, git, make_project, programs
from tests.project_copies import edit
from umt_pipeline.commands.reproduce import Reproduction, TrackedRun, compare, read_run, told
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.tracking.dependencies import dvc_md5

MODEL = "data/06_models/model"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A finished project with a database of MLflow, as the current folder."""
    made = make_project(tmp_path)
    for name, value in programs(tmp_path).items():
        monkeypatch.setenv(name, value)
    finish(made)
    earlier = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(made)
    yield made
    mlflow.set_tracking_uri(earlier)


def tracked(tags: Mapping[str, str], dependencies: Mapping[str, str], metrics: Mapping[str, float], processor: str) -> str:
    """Make a run as tracking does, and return its id."""
    client = mlflow.MlflowClient()
    run_id = str(client.create_run("0", tags=dict(tags)).info.run_id)
    client.log_dict(run_id, dict(dependencies), "dvc_dependencies.json")
    client.log_text(run_id, json.dumps([{"protocol": {"processor": processor}}, {}]), "reports/evaluation_records.json")
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    return run_id


@pytest.mark.slow
def test_a_run_is_repeated_and_its_numbers_are_the_same(project: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project.parent}/mlflow.db")
    tags = {"git.commit": git(project, "rev-parse", "HEAD"), "git.dirty": "false", "dvc.stage": "stage2"}
    numbers = {"stage2/t2v_r1": 1.0, "stage2/clips_per_s": 12.0}
    run = read_run(project, tracked(tags, {"src/make.py": dvc_md5(project / "src/make.py")}, numbers, "abacus"))
    work = Reproduction(project, run, project.parent / "again")
    said = list(work.check_out())
    assert work.missing == said[1:]
    assert len(work.missing) == 1, "another kind of processor, and nothing else"
    assert "a processor of the kind abacus" in work.missing[0]
    comparison = work.run()
    assert comparison.is_same
    assert list(told(comparison)) == ["1 of 1 numbers are equal to the last bit"]
    assert git(project, "status", "--porcelain") == ""
    with pytest.raises(ConfigError, match="expected a new folder"):
        list(Reproduction(project, run, project.parent / "again").check_out())

    with pytest.raises(ConfigError, match="expected a run of sqlite"):
        read_run(project, "0" * 32)
    nameless = tracked({"git.commit": "0"}, {}, {}, "")
    with pytest.raises(ConfigError, match=r"found no dvc\.stage"):
        read_run(project, nameless)


@pytest.mark.slow
def test_data_is_fetched_as_the_run_read_it_though_the_lock_of_its_commit_is_older(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    edit(project / PARAMETERS, "width: 1", "width: 2")
    dvc(project, "repro")
    dvc(project, "push")
    read = {MODEL: dvc_md5(project / MODEL), "src/use.py": dvc_md5(project / "src/use.py")}
    elsewhere = clone(project, "elsewhere")
    tags = {"git.commit": commit, "git.dirty": "true", "dvc.stage": "evaluation"}
    work = Reproduction(elsewhere, TrackedRun("1", tags, {}, read), project.parent / "again")
    list(work.check_out())
    assert (project.parent / "again" / MODEL / "model.safetensors").read_text(encoding="utf-8") == "model 2", (
        "from the remote; the commit has 1"
    )
    assert [text.partition(":")[2][:40] for text in work.missing] == [" what was changed and not committed when"]

    gone = {MODEL: "0" * 32, "src/use.py": "1" * 32}
    work = Reproduction(elsewhere, TrackedRun("2", {**tags, "git.dirty": "false"}, {}, gone), project.parent / "third")
    list(work.check_out())
    assert len(work.missing) == 2
    assert f"{MODEL} ({'0' * 32}): it is neither in DVC's cache nor in its remote" in work.missing[0]
    assert "src/use.py as it was" in work.missing[1]

    with pytest.raises(ConfigError, match="expected the commit of the run here or in origin"):
        list(Reproduction(elsewhere, TrackedRun("3", {**tags, "git.commit": "f" * 40}, {}, {}), project / "x").check_out())
    stage = {**tags, "dvc.stage": "corpora/mine/dvc.yaml:claims"}
    with pytest.raises(ConfigError, match="expected the stage claims, found stage2, evaluation"):
        list(Reproduction(elsewhere, TrackedRun("4", stage, {}, {}), project.parent / "fourth").check_out())


def test_numbers_that_differ_are_listed_the_largest_difference_first() -> None:
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "time": 9.0}
    comparison = compare(first, {"a": 1.0, "b": 2.1, "c": 4.0, "new": 0.0})
    assert (comparison.equal, comparison.absent, comparison.is_same) == (1, ("new",), False)
    lines = list(told(comparison))
    assert lines[0] == "1 of 4 numbers are equal to the last bit"
    assert [line.split(":")[0].strip() for line in lines[1:3]] == ["c", "b"]
    assert "the run has no new" in lines[3]
    assert not compare({}, {}).is_same, "nothing was compared"
