from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from umt_pipeline import tracking


@pytest.fixture
def run(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.ActiveRun]:
    monkeypatch.chdir(tmp_path)  # artifacts of a SQLite store go to ./mlruns
    mlflow.set_tracking_uri(tracking_uri)
    name = f"test-{tmp_path.name}"
    mlflow.create_experiment(name, artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment(name)
    with mlflow.start_run() as active:
        yield active


def test_without_a_run_the_logger_does_nothing() -> None:
    assert mlflow.active_run() is None
    tracking.metric_logger()({"step": 1, "loss": 0.5})


def test_rows_arrive_with_their_steps(run: mlflow.ActiveRun) -> None:
    log_row = tracking.metric_logger("stage2")
    for step in (1, 2):
        log_row({"step": step, "loss": step / 2, "phase": "warm-up", "grad_norm": float("inf"), "ok": True})
    tracking.flush()
    client = MlflowClient()
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "stage2/loss")] == [
        (1, 0.5),
        (2, 1.0),
    ]
    assert set(client.get_run(run.info.run_id).data.metrics) == {"stage2/loss"}


def test_flatten_numbers() -> None:
    nested = {
        "rows": {"in": 3, "by reason": {"too_short": 1}},
        "text": "x",
        "list": [1],
        "flag": True,
        "nan": float("nan"),
    }
    assert tracking.flatten_numbers(nested, "ingestion") == {
        "ingestion/rows/in": 3.0,
        "ingestion/rows/by reason/too_short": 1.0,
    }
    assert tracking.flatten_numbers({"t2v_r@1": 4}) == {"t2v_r_1": 4.0}


def test_many_numbers_are_sent_in_pieces(run: mlflow.ActiveRun) -> None:
    tracking.log_numbers({f"m{index}": index for index in range(1100)})
    assert len(MlflowClient().get_run(run.info.run_id).data.metrics) == 1100


def test_a_registered_model_is_the_challenger_and_can_be_fetched(run: mlflow.ActiveRun, tmp_path: Path) -> None:
    folder = tmp_path / "stage1"
    folder.mkdir()
    name = f"umt_test_{tmp_path.name}"
    client = MlflowClient()
    for number, weights in enumerate(["one", "two"], start=1):
        (folder / "model.safetensors").write_text(weights)
        (folder / "config.json").write_text("{}")
        assert tracking.register_model(name, folder, {"stage1/loss": "0.5"}) == str(number)
    version = client.get_model_version_by_alias(name, tracking.CHALLENGER)
    assert int(version.version) == 2
    assert version.run_id == run.info.run_id
    assert version.tags["stage1/loss"] == "0.5"
    assert version.tags["sha256.model.safetensors"] == tracking.sha256_file(folder / "model.safetensors")
    fetched = Path(
        mlflow.artifacts.download_artifacts(f"models:/{name}@challenger", dst_path=str(tmp_path / "fetched"))
    )
    assert (fetched / "model.safetensors").read_text() == "two"


def test_a_model_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="expected an active MLflow run"):
        tracking.register_model("umt_test", tmp_path, {})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_provenance(tmp_path: Path) -> None:
    assert tracking.provenance_tags(tmp_path, {}) == {}
    git(tmp_path, "init", "--quiet")
    (tmp_path / "results").mkdir()
    for name in ("code.py", "dvc.lock", "results/metrics.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("2")
    (tmp_path / "results" / "metrics.json").write_text("2")
    clean = {"git.commit": commit, "git.dirty": "false"}
    assert tracking.provenance_tags(tmp_path, {"DVC_STAGE": ""}) == clean
    (tmp_path / "code.py").write_text("2")
    environment = {"DVC_STAGE": "stage1", "DVC_EXP_NAME": "bold-cat", "DVC_EXP_BASELINE_REV": "abc", "OTHER": "x"}
    assert tracking.provenance_tags(tmp_path, environment) == {
        "git.commit": commit,
        "git.dirty": "true",
        "dvc.stage": "stage1",
        "dvc.exp_name": "bold-cat",
        "dvc.exp_baseline_rev": "abc",
    }
