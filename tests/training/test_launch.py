"""Specs, ranks, and processes that are killed."""

import dataclasses
import multiprocessing
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from toy_tasks import ToySpec

from umt_pipeline import __version__
from umt_pipeline.compute import precision
from umt_pipeline.compute.gain import Speeds
from umt_pipeline.core.errors import CheckpointError, ConfigError, TrainingError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.identity import code_parts
from umt_pipeline.training import launch, state
from umt_pipeline.training.metrics import MEASURED
from umt_pipeline.training.peers import Peers
from umt_pipeline.training.spec import read_spec, write_spec
from umt_pipeline.training.state import Row


def _spec(toy: dict[str, Any] | None = None, **train: Any) -> ToySpec:
    settings = {"steps": 20, "batch_size": 8, "lr": 0.01, "log_every": 1, "checkpoint_every": 5, "device": "cpu"}
    return ToySpec.model_validate({"train": {**settings, **train}, "seed": 1, **(toy or {})})


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_spec_survives_json(tmp_path: Path) -> None:
    spec = _spec({"size": 30})
    write_spec(tmp_path / "spec.json", spec)
    again = read_spec(tmp_path / "spec.json")
    assert again == spec
    assert again.identity() == spec.identity()


def test_identity_follows_what_weights_depend_on() -> None:
    spec = _spec()
    same = [_spec({"pause": 1.0}), _spec(workers=2, log_every=3, nproc=2, keep=4, recompute_blocks=1)]
    other = [
        _spec(lr=0.02),
        _spec(ema=0.9),
        _spec(layer_decay=0.75),
        _spec({"size": 41}),
        _spec({"content": "other rows"}),
        spec.model_copy(update={"seed": 2}),
    ]
    assert {s.identity().key for s in same} == {spec.identity().key}
    assert len({s.identity().key for s in [spec, *other]}) == 7


@pytest.mark.parametrize("kind", ["toy_tasks:Nothing", "no_such_module:Spec", "pathlib:Path", None])
def test_spec_of_an_unknown_class_is_refused(tmp_path: Path, kind: str | None) -> None:
    write_json(tmp_path / "spec.json", {"class": kind, "spec": {}})
    with pytest.raises(ConfigError, match="spec"):
        read_spec(tmp_path / "spec.json")


def test_a_spec_of_another_version_is_refused(tmp_path: Path) -> None:
    write_spec(tmp_path / "spec.json", _spec())
    document = read_json(tmp_path / "spec.json")
    assert document["version"] == __version__
    document |= {"version": "0.0.1", "spec": {**document["spec"], "gone": 1}}
    write_json(tmp_path / "spec.json", document)
    with pytest.raises(ConfigError, match=r"(?s)not a ToySpec of this version .*written by 0\.0\.1.*gone.*Write it anew"):
        read_spec(tmp_path / "spec.json")


class _OtherFirst(Peers):
    """Two processes: the first one is like this one, but for some changes."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(1.0)
        self.changes = changes

    def gather(self, value: Any) -> list[Any]:
        return [dataclasses.replace(value, host="node1", **self.changes), value]


def test_processes_that_differ_are_named_with_what_differs() -> None:
    spec = _spec()
    launch.require_one_mind(_OtherFirst(), spec)
    code = {**code_parts(*spec.code_sources()), "training/loop.py": "another"}
    others = [
        ({"torch": "2.0.0"}, rf"torch {re.escape(torch.__version__)} in place of 2\.0\.0"),
        ({"identity": _spec(lr=0.5).identity().as_json()}, r"train\.lr: 0\.5 became 0\.01"),
        ({"identity": _spec({"content": "old"}).identity().as_json()}, "content: .*; rows has other content"),
        ({"identity": {**spec.identity().as_json(), "code": "x"}, "code": code}, r"other code in training/loop\.py$"),
    ]
    for changes, message in others:
        with pytest.raises(ConfigError, match=rf"(?m)Different from node1.*\n  {socket.gethostname()}: {message}"):
            launch.require_one_mind(_OtherFirst(**changes), spec)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    launch.run(_spec(), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"train\.lr: 0\.01 became 0\.02"):
        launch.run(_spec(lr=0.02), tmp_path / "run")


def test_a_run_is_known_by_the_precision_that_auto_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _spec().resolved().identity().key == _spec(precision="fp32").identity().key, "auto takes fp32 in tests"
    launch.run(_spec(), tmp_path / "run")
    monkeypatch.setattr(precision, "measured_speeds", lambda device: Speeds(1.0, 2.0))
    with pytest.raises(CheckpointError, match=r"precision: 'fp32' became 'bf16'.*set train.precision to fp32 to go on with it"):
        launch.run(_spec(), tmp_path / "run")
    assert launch.run(_spec(precision="fp32"), tmp_path / "run").result.steps == 20


@pytest.mark.slow
def test_ranks_take_the_precision_of_rank_0(tmp_path: Path) -> None:
    # Written without being resolved, as on another machine: the ranks measure this one.
    write_spec(tmp_path / "run" / "spec.json", _spec(nproc=2, steps=2))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "umt_pipeline.training.launch", str(tmp_path / "run" / "spec.json")]
    environment = launch._rank_environment(_spec(nproc=2))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("TFLOP/s in fp32") == 1, "one rank measures"
    assert read_json(tmp_path / "run" / "identity.json")["settings"]["train.precision"][0] in ("fp32", "bf16")


def test_in_process_run_reports_rows(tmp_path: Path) -> None:
    rows: list[Row] = []
    finished = launch.run(_spec(), tmp_path, rows.append)
    assert rows == finished.result.history
    assert len(rows) == 20
    assert finished.summary()["steps"] == 20


def test_what_a_run_says_of_itself_is_what_is_the_same_each_time(tmp_path: Path) -> None:
    one, two = (launch.run(_spec(), tmp_path / name) for name in ("one", "two"))
    assert one.summary() == two.summary()
    pd.testing.assert_frame_equal(one.history, two.history)
    assert not set(MEASURED) & set(one.history)
    times = one.times()
    assert times["seconds"] == round(one.result.seconds, 1)
    assert times["rows"]["clips_per_s"] == [row["clips_per_s"] for row in one.result.history]
    assert times["rows"]["step"] == one.history["step"].tolist()
    assert {"median_clips_per_s", "median_data_wait", "peak_memory_mib"} <= set(times)


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    exact = {"dropout": 0.0, "noise": 0.0, "size": 47}
    common: dict[str, Any] = {"batch_size": 9, "clip_grad": 0.5, "accumulate": 2}  # 5 + 4 samples
    one = launch.run(_spec(exact, **common), tmp_path / "one").result
    rows: list[Row] = []
    two = launch.run(_spec(exact, nproc=2, **common), tmp_path / "two", rows.append).result
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows == two.history
    for a, b in zip(one.history, two.history, strict=True):
        assert [b[k] for k in ("loss", "absolute", "grad_norm", "lr")] == pytest.approx(
            [a[k] for k in ("loss", "absolute", "grad_norm", "lr")], rel=2e-6
        )
    replayed: list[Row] = []
    assert launch.run(_spec(exact, nproc=2, **common), tmp_path / "two", replayed.append).result == two
    assert replayed == rows


@pytest.mark.slow
def test_failure_of_a_rank_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)2 processes failed.*clip17"):
        launch.run(_spec({"bad": 17}, nproc=2), tmp_path)
    assert (tmp_path / "nonfinite").is_dir()


@pytest.mark.slow
def test_ranks_end_when_the_process_that_wants_them_is_killed(tmp_path: Path) -> None:
    spec = _spec({"pause": 0.05}, nproc=2, steps=2000, checkpoint_every=1000)
    parent = multiprocessing.get_context("spawn").Process(target=launch.run, args=(spec, tmp_path))
    parent.start()
    deadline = time.monotonic() + 120
    while len(state.read_history(tmp_path)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.join()
    step = 0
    while not step:
        assert time.monotonic() < deadline
        newest = state.newest_checkpoint(tmp_path)
        step = 0 if newest is None else state.read_info(newest).step
        time.sleep(0.02)
    assert step < 1000, "they were asked to stop, and saved what they had"


@pytest.mark.slow
def test_killed_runs_end_in_the_same_file(tmp_path: Path) -> None:
    # A checkpoint at every step, so that many of the moments of the kill fall into the writing of one.
    # The processes measure for themselves what `auto` is, and this one is told by conftest.
    spec = _spec({"pause": 0.002}, steps=60, checkpoint_every=1, ema=0.9, precision="fp32")
    whole = launch.run(spec, tmp_path / "whole").result
    cut = tmp_path / "cut"
    processes = multiprocessing.get_context("forkserver")  # imports once; each process is forked from a clean server
    processes.set_forkserver_preload(["umt_pipeline.training.launch", "torch._dynamo", "toy_tasks"])
    chance = random.Random(5)
    for rows in (5, 20, 35, 45):
        process = processes.Process(target=launch.run, args=(spec, cut))
        process.start()
        deadline = time.monotonic() + 60
        while len(state.read_history(cut)) < rows and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.join()
        assert rows <= len(state.read_history(cut)) < 60
        assert not state.final_weights(cut).exists()
    result = launch.run(spec, cut).result
    assert [row["loss"] for row in result.history] == [row["loss"] for row in whole.history]
    assert state.final_weights(cut).read_bytes() == state.final_weights(tmp_path / "whole").read_bytes()
