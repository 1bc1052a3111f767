"""Curves of versions out of git, and of the last runs out of MLflow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from umt_pipeline.commands.histories import last_runs, version_history
from umt_pipeline.registry.reading import Version, connect


@pytest.fixture
def connected(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project, whose MLflow is a database of its own."""
    earlier = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    connect(project)
    yield project
    mlflow.set_tracking_uri(earlier)


def git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_version_has_the_curves_of_its_commit(project: Path) -> None:
    file = project / "results" / "plots" / "stage2_history.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    git(project, "init", "-q")
    commits = []
    for loss in (2.0, 1.0):
        file.write_text(f"step,loss\n1,{loss}\n", encoding="utf-8")
        git(project, "add", "-A", "results")
        git(project, "commit", "-qm", "trained")
        commits.append(git(project, "rev-parse", "HEAD"))
    found = [
        version_history(project, None, "stage2", Version("demo_stage2", "1", {"git.commit": commit}, {}))
        for commit in (*commits, "0" * 40)
    ]
    assert [history.rows["loss"].tolist() for history in found[:2]] == [[2.0], [1.0]]
    assert found[2].rows.empty
    assert found[2].missing.startswith("results/plots/stage2_history.csv of commit 000000000000 cannot be read here")


def test_the_last_runs_are_finished_ones_of_the_corpus(connected: Path) -> None:
    client = MlflowClient()
    assert last_runs(connected, None, "stage2", ["loss"]) == {}, "nothing was tracked yet"
    experiment = client.create_experiment("umt_pipeline")

    def track(name: str, corpus: str, status: str = "FINISHED") -> str:
        run = client.create_run(experiment, run_name=name, tags={"umt.corpus": corpus})
        for step in (2, 1):
            client.log_metric(run.info.run_id, "stage2/loss", 1 / step, step=step)
        client.log_metric(run.info.run_id, "stage2/lr", 0.1, step=2)
        client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    for others in (("stage1", "demo"), ("stage2", "mine"), ("stage2", "demo", "FAILED")):
        track(*others)
    mine = [track("stage2", "demo") for _ in range(5)]
    found = last_runs(connected, None, "stage2", ["loss", "lr", "other"])
    assert list(found) == [f"run {run_id[:8]}" for run_id in mine[:0:-1]]
    expected = pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5], "lr": [None, 0.1]})
    pd.testing.assert_frame_equal(next(iter(found.values())), expected)
