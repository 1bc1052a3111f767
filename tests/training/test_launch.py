"""Specs, ranks, and processes that are killed."""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.training import launch, state
from umt_pipeline.training.launch import RunSpec
from umt_pipeline.training.state import Row


def _spec(
    run_dir: Path, *, task: str = "toy_tasks:make_toy", kwargs: dict[str, Any] | None = None, **train: Any
) -> RunSpec:
    settings = {"steps": 20, "batch_size": 8, "lr": 0.01, "log_every": 1, "checkpoint_every": 5, "device": "cpu"}
    train = {**settings, **train}
    return RunSpec.model_validate(
        {"task": task, "kwargs": kwargs or {}, "inputs": "toy", "train": train, "seed": 1, "run_dir": run_dir}
    )


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_spec_survives_json(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.fingerprint == spec.fingerprint


def test_fingerprint_follows_what_weights_depend_on(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    same = [_spec(tmp_path / "elsewhere"), _spec(tmp_path, workers=2, log_every=3, nproc=2, keep=4, recompute_blocks=1)]
    other = [
        _spec(tmp_path, lr=0.02),
        _spec(tmp_path, ema=0.9),
        _spec(tmp_path, layer_decay=0.75),
        _spec(tmp_path, kwargs={"size": 41}),
        spec.model_copy(update={"seed": 2}),
        spec.model_copy(update={"inputs": "other"}),
    ]
    assert {s.fingerprint for s in same} == {spec.fingerprint}
    assert len({s.fingerprint for s in [spec, *other]}) == 7


@pytest.mark.parametrize("value", [Path("x"), (1, 2), {1: 2}])
def test_arguments_that_are_not_json_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValidationError, match="argument 'size'"):
        _spec(tmp_path, kwargs={"size": value})


@pytest.mark.parametrize("task", ["toy_tasks:nothing", "no_such_module:make", "os:getcwd"])
def test_task_that_cannot_be_made_is_refused(tmp_path: Path, task: str) -> None:
    with pytest.raises(ConfigError, match="task"):
        launch.run(_spec(tmp_path, task=task))


def test_in_process_run_reports_rows(tmp_path: Path) -> None:
    rows: list[Row] = []
    result = launch.run(_spec(tmp_path), rows.append)
    assert rows == result.history
    assert len(rows) == 20


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    exact = {"dropout": 0.0, "noise": 0.0, "size": 47}
    common: dict[str, Any] = {"kwargs": exact, "batch_size": 9, "clip_grad": 0.5, "accumulate": 2}  # 5 + 4 samples
    one = launch.run(_spec(tmp_path / "one", **common))
    rows: list[Row] = []
    two = launch.run(_spec(tmp_path / "two", nproc=2, **common), rows.append)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows == two.history
    for a, b in zip(one.history, two.history, strict=True):
        assert [b[k] for k in ("loss", "absolute", "grad_norm", "lr")] == pytest.approx(
            [a[k] for k in ("loss", "absolute", "grad_norm", "lr")], rel=2e-6
        )
    replayed: list[Row] = []
    assert launch.run(_spec(tmp_path / "two", nproc=2, **common), replayed.append) == two
    assert replayed == rows


def test_failure_of_a_rank_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)2 processes failed.*clip17"):
        launch.run(_spec(tmp_path, nproc=2, kwargs={"bad": 17}))
    assert (tmp_path / "nonfinite").is_dir()


def test_killed_runs_end_in_the_same_file(tmp_path: Path) -> None:
    # A checkpoint at every step, so that many of the moments of the kill fall into the writing of one.
    train: dict[str, Any] = {"steps": 60, "checkpoint_every": 1, "ema": 0.9, "kwargs": {"pause": 0.002}}
    whole = launch.run(_spec(tmp_path / "whole", **train))
    cut = _spec(tmp_path / "cut", **train)
    processes = multiprocessing.get_context("forkserver")  # imports once; each process is forked from a clean server
    processes.set_forkserver_preload(["umt_pipeline.training.launch", "torch._dynamo", "toy_tasks"])
    chance = random.Random(5)
    for rows in (5, 20, 35, 45):
        process = processes.Process(target=launch.run, args=(cut,))
        process.start()
        deadline = time.monotonic() + 60
        while len(state.read_history(cut.run_dir)) < rows and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.join()
        assert rows <= len(state.read_history(cut.run_dir)) < 60
        assert not state.final_weights(cut.run_dir).exists()
    result = launch.run(cut)
    assert [row["loss"] for row in result.history] == [row["loss"] for row in whole.history]
    assert state.final_weights(cut.run_dir).read_bytes() == state.final_weights(tmp_path / "whole").read_bytes()
