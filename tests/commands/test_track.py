"""`umt track`: MLflow is made again from DVC's files, and from the record of a run where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.tracking.toy import free_port
from umt_pipeline.commands.track import track_corpus
from umt_pipeline.core.errors import ConfigError, UmtError
from umt_pipeline.tracking.dependencies import dvc_md5
from umt_pipeline.tracking.finished import Output, TrackedDataset, digest_of
from umt_pipeline.tracking.record import RunRecord, keep

METRICS, HISTORY = "data/08_reporting/stage1_metrics.json", "results/plots/stage1_history.csv"
ROWS = [{"step": step, "loss": 1 / step} for step in range(1, 6)]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, of which making takes longer than copying."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def finished(project: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stage 1 has finished elsewhere: its results and lock are here, its model and pages are not."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    shutil.copy(database, project / "mlflow.db")
    (project / METRICS).parent.mkdir(parents=True)
    (project / HISTORY).parent.mkdir(parents=True)
    pd.DataFrame(ROWS).to_csv(project / HISTORY, index=False)
    (project / METRICS).write_text(json.dumps({"final_loss": 0.2}))
    paths = (METRICS, HISTORY)
    made = [{"path": path, "md5": dvc_md5(project / path)} for path in paths]
    stage = {
        "deps": [{"path": "data/04_feature/store", "md5": "5.dir"}, {"path": "src/umt_pipeline/models", "md5": "6.dir"}],
        "params": {"conf/base/parameters_stage1.yml": {"stage1": {"train": {"lr": 0.0015, "min_lr": 1e-05}}}},
        "outs": [{"path": "data/06_models/stage1", "md5": "7.dir"}, *made],
    }
    (project / "dvc.lock").write_text(yaml.safe_dump({"stages": {"stage1": stage}}))
    return project


def runs(project: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("umt_pipeline")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def losses(project: Path, run: Run) -> list[tuple[int, float]]:
    history = MlflowClient(f"sqlite:///{project}/mlflow.db").get_metric_history(run.info.run_id, "stage1/loss")
    return [(metric.step, metric.value) for metric in history]


def test_a_run_is_made_of_the_files_of_dvc_once(finished: Path) -> None:
    lines = track_corpus(finished, None)
    (run,) = runs(finished)
    assert lines == [f"stage1: 6 values and 2 files sent to a new run {run.info.run_id}"]
    assert (run.info.run_name, run.info.status) == ("stage1", "FINISHED")
    assert losses(finished, run) == [(row["step"], row["loss"]) for row in ROWS]
    assert run.data.metrics["stage1/final_loss"] == 0.2
    assert run.data.params == {"stage1.train.lr": "0.0015", "stage1.train.min_lr": "1e-05"}
    assert run.data.tags["dvc.md5.data/04_feature/store"] == "5.dir"
    assert run.data.tags["dvc.md5.data/06_models/stage1"] == "7.dir"
    assert run.data.tags["umt.corpus"] == "demo"
    assert {"umt.join", "dvc.dependencies"} <= set(run.data.tags)
    assert [(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs] == [("feature_store", "5.dir")]
    assert track_corpus(finished, "demo") == [f"stage1: run {run.info.run_id} has everything"]
    assert len(runs(finished)) == 1


def test_the_commit_is_that_of_the_lock(finished: Path) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-q", "-m", "run"]):
        subprocess.run([*git, *arguments], cwd=finished, check=True)
    track_corpus(finished, None)
    (run,) = runs(finished)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=finished, check=True, capture_output=True, text=True)
    assert (run.data.tags["git.commit"], run.data.tags["git.dirty"]) == (commit.stdout.strip(), "false")


def test_the_record_of_the_run_is_taken_where_there_is_one(finished: Path) -> None:
    outputs = [
        Output("stage1_metrics", finished / METRICS, TrackedDataset(metrics="stage1")),
        Output("stage1_history", finished / HISTORY, TrackedDataset(history="stage1")),
    ]
    tags, params = {"git.commit": "abc"}, {"seed": "3"}
    begun = RunRecord(name="stage1", corpus="demo", tags=tags, params=params, inputs=(), dependencies={})
    keep(begun.ended("FINISHED", {}).complete({"stage1": digest_of(outputs)}), finished / "data/.checkpoints")
    track_corpus(finished, None)
    (run,) = runs(finished)
    assert (run.data.params, run.data.tags["git.commit"]) == ({"seed": "3"}, "abc")
    assert run.info.start_time == begun.began_ms
    assert "has everything" in track_corpus(finished, None)[0]


def test_other_results_are_another_run(finished: Path) -> None:
    track_corpus(finished, None)
    (finished / METRICS).write_text(json.dumps({"final_loss": 0.1}))
    (line,) = track_corpus(finished, None)
    assert "dvc.lock does not know these files" in line
    assert len(runs(finished)) == 2


@pytest.mark.slow
def test_a_page_that_comes_later_is_sent_then(finished: Path) -> None:
    track_corpus(finished, None)
    (finished / "data/08_reporting/ingestion_report.json").write_text("{}")
    assert len(track_corpus(finished, None)) == 2
    (finished / "data/08_reporting/ingestion.html").write_text("<p>")
    assert "ingestion: 0 values and 1 files sent to run" in track_corpus(finished, None)[0]
    assert "has everything" in track_corpus(finished, None)[0]


def test_what_is_not_finished_is_said(finished: Path) -> None:
    (finished / HISTORY).unlink()
    assert track_corpus(finished, None) == [f"stage1: {finished}/{HISTORY} is missing: run it, or fetch it (dvc pull)"]
    (finished / METRICS).unlink()
    (line,) = track_corpus(finished, None)
    assert "nothing of demo has finished here" in line


@pytest.mark.slow
def test_no_server_and_no_corpus_are_told(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="found 'nowhere'"):
        track_corpus(finished, "nowhere")
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UmtError, match=rf"MLflow at {uri}: expected an answer"):
        track_corpus(finished, None)
