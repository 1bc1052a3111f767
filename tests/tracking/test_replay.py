"""What is replayed from finished files equals what a run would have sent, and is sent once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from umt_pipeline.tracking import live, metric_logger
from umt_pipeline.tracking.finished import Output, TrackedDataset, read_finished
from umt_pipeline.tracking.record import KEY, Input, RunRecord, flat_params, kept_records
from umt_pipeline.tracking.replay import bring_up_to_date
from umt_pipeline.tracking.server import Server
from umt_pipeline.tracking.target import Experiment, Target, Tracking
from umt_pipeline.tracking.target import Server as ServerSettings

ROWS = [{"step": step, "loss": 1 / step, "lr": 0.1 + step / 3} for step in range(1, 31)]


@pytest.fixture
def target(tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Target:
    """An experiment of its own in the database of all tests."""
    monkeypatch.chdir(tmp_path)  # artifacts go to ./mlruns
    MlflowClient(tracking_uri).search_experiments()  # makes the database, which takes long on a busy machine
    experiment = Experiment(name=f"replay-{tmp_path.name}")
    return Target(
        server=ServerSettings(mlflow_tracking_uri=tracking_uri), tracking=Tracking(experiment=experiment, system_metrics=False)
    )


@pytest.fixture
def outputs(tmp_path: Path) -> list[Output]:
    folder = tmp_path / "results"
    folder.mkdir()
    pd.DataFrame(ROWS).to_csv(folder / "history.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps({"test": {f"m{index}": index for index in range(1100)}}))
    (folder / "page.html").write_text("<p>")
    return [
        Output("train_history", folder / "history.csv", TrackedDataset(history="train", artifact="history")),
        Output("train_metrics", folder / "metrics.json", TrackedDataset(metrics="train", artifact="reports")),
        Output("train_report", folder / "page.html", TrackedDataset(artifact="reports")),
    ]


def new_record() -> RunRecord:
    return RunRecord(
        name="train",
        corpus="mine",
        tags={"git.commit": "abc"},
        params=flat_params({"train": {"lr": 0.1, "betas": [0.9, 0.95], "note": "x" * 7000}, "seed": 3}),
        inputs=(Input(name="videos", path="data/videos.parquet", md5="1" * 32),),
        dependencies={"data/videos.parquet": "1" * 32},
    )


def trained(target: Target, workspace: Path | None, outputs: Sequence[Output]) -> None:
    live.begin(target, new_record(), workspace)
    log_row = metric_logger("train")
    for row in ROWS:
        log_row(row)
    live.end("FINISHED", {"train": outputs}, {"dvc.md5.data/model": "2.dir"})


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def all_runs(target: Target) -> list[Run]:
    client = MlflowClient(target.uri)
    experiment = client.get_experiment_by_name(target.experiment)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def content(target: Target, run: Run) -> dict[str, Any]:
    """All that a run says, but when and under which key."""
    client, run_id = MlflowClient(target.uri), run.info.run_id
    folders = ("", "history", "reports")
    return {
        "status": run.info.status,
        "name": run.info.run_name,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name not in (KEY, "mlflow.runName")},
        "metrics": run.data.metrics,
        "history": sorted((m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")),
        "files": {item.path: item.file_size for folder in folders for item in client.list_artifacts(run_id, folder)},
        "inputs": [(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs],
    }


def test_without_a_run_nothing_happens() -> None:
    metric_logger("train")({"step": 1, "loss": 0.5})
    live.end("FINISHED", {}, {})


def test_a_run_that_nothing_disturbs(target: Target, outputs: list[Output], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        trained(target, None, outputs)
    (run,) = all_runs(target)
    found = content(target, run)
    assert found["status"] == "FINISHED"
    assert found["params"]["train.betas"] == "[0.9, 0.95]"
    assert len(found["metrics"]) == 1102
    assert found["history"] == [(row["step"], row["loss"]) for row in ROWS]
    assert set(found["files"]) == {
        "dvc_dependencies.json", "history", "reports", "history/history.csv", "reports/metrics.json", "reports/page.html",
    }  # fmt: skip
    assert found["inputs"] == [("videos", "1" * 32)]
    assert found["tags"]["dvc.md5.data/model"] == "2.dir"
    assert not warnings(caplog)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["create", "describe", "log_rows", "log_files", "end"])
def test_what_was_not_sent_is_replayed(
    target: Target, outputs: list[Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:  # fmt: skip
    trained(target, None, outputs)
    (undisturbed,) = all_runs(target)

    with monkeypatch.context() as patch:
        whole = getattr(Server, broken)

        def in_parts(self: Server, *arguments: Any) -> None:
            if broken == "log_rows":
                whole(self, arguments[0], list(arguments[1])[:7])
            raise MlflowException("the disk is full")

        patch.setattr(Server, broken, in_parts)
        with caplog.at_level(logging.WARNING):
            trained(target, tmp_path / "workspace", outputs)
    assert [("disk is full" in record.message, "umt track mine" in record.message) for record in warnings(caplog)] == [
        (True, True)
    ]

    (record,) = kept_records(tmp_path / "workspace")
    finished = read_finished(outputs, record.began_ms, record.ended_ms or 0)
    assert record.outputs == {"train": finished.digest}
    server = Server(target.uri, target.experiment)
    sent = bring_up_to_date(server, record, {"train": finished})
    assert sent.anything
    assert sent.fresh == (broken == "create")
    again = bring_up_to_date(server, record, {"train": finished})
    assert not again.anything
    runs = all_runs(target)
    assert len(runs) == 2
    (replayed,) = (run for run in runs if run.info.run_id != undisturbed.info.run_id)
    assert content(target, replayed) == content(target, undisturbed)
    assert replayed.info.start_time == record.began_ms
    assert replayed.info.end_time == record.ended_ms


def test_a_server_that_is_back_at_the_end_gets_everything(
    target: Target, outputs: list[Output], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []
    whole = Server.log_rows

    def once(self: Server, run_id: str, rows: Sequence[Any]) -> None:
        calls.append(run_id)
        if len(calls) == 1:
            raise ConnectionError("gone for a moment")
        whole(self, run_id, rows)

    monkeypatch.setattr(Server, "log_rows", once)
    with caplog.at_level(logging.INFO):
        trained(target, None, outputs)
    (run,) = all_runs(target)
    assert content(target, run)["history"] == [(row["step"], row["loss"]) for row in ROWS]
    assert run.info.status == "FINISHED"
    assert "MLflow answers again" in caplog.text


def test_steps_that_an_earlier_process_trained_are_sent_at_the_end(target: Target, outputs: list[Output]) -> None:
    live.begin(target, new_record(), None)
    log_row = metric_logger("train")
    for row in ROWS[20:]:
        log_row(row)
    live.end("FINISHED", {"train": outputs}, {})
    (run,) = all_runs(target)
    assert sorted(content(target, run)["history"]) == [(row["step"], row["loss"]) for row in ROWS]


def test_a_failed_run_keeps_what_was_on_its_way(target: Target) -> None:
    live.begin(target, new_record(), None)
    metric_logger("train")(ROWS[0])
    live.end("FAILED", {}, {})
    (run,) = all_runs(target)
    assert (run.info.status, content(target, run)["history"]) == ("FAILED", [(1, 1.0)])


def test_a_run_that_was_left_open_is_ended_by_the_next(target: Target) -> None:
    for _ in range(2):
        live.begin(target, new_record(), None)
    live.end("FINISHED", {}, {})
    assert sorted(run.info.status for run in all_runs(target)) == ["FINISHED", "KILLED"]


def test_nobody_waits_longer_than_promised(
    target: Target, outputs: list[Output], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import threading
    import time

    monkeypatch.setattr(live, "WAIT_S", 0.5)
    hold = threading.Event()
    monkeypatch.setattr(Server, "create", lambda *_: hold.wait(20))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        trained(target, None, outputs)
    hold.set()
    assert time.monotonic() - began < 2.0
    assert len(warnings(caplog)) == 1


def test_a_file_that_cannot_be_read_is_told_and_harms_nothing(
    target: Target, outputs: list[Output], caplog: pytest.LogCaptureFixture
) -> None:
    outputs[1].path.write_text("{")
    with caplog.at_level(logging.WARNING):
        trained(target, None, outputs)
    (record,) = warnings(caplog)
    assert "metrics.json: expected the numbers of a finished run" in record.message


def test_what_the_machine_does_is_a_series_of_its_own(
    target: Target, monkeypatch: pytest.MonkeyPatch, outputs: list[Output]
) -> None:
    import time

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    watched = target.model_copy(update={"tracking": target.tracking.model_copy(update={"system_metrics": True})})
    live.begin(watched, new_record(), None)
    time.sleep(0.6)
    live.end("FINISHED", {"train": outputs}, {})
    (run,) = all_runs(target)
    values: Mapping[str, float] = run.data.metrics
    assert 0.0 < values["system/system_memory_usage_percentage"] <= 100.0
    assert len(MlflowClient(target.uri).get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")) > 1
