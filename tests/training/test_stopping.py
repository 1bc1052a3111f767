"""Training that is asked to stop: a checkpoint, the right status, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_tasks import ToySpec, make_toy

from umt_pipeline.core.errors import TrainingInterrupted
from umt_pipeline.training import launch, state, stopping
from umt_pipeline.training.loop import train
from umt_pipeline.training.spec import write_spec
from umt_pipeline.training.state import TrainResult
from umt_pipeline.training.task import TrainConfig

CONFIG = TrainConfig(steps=20, batch_size=8, lr=1e-2, log_every=10, checkpoint_every=100, device="cpu")


def test_a_stop_between_rows_saves_the_step_and_the_rest_is_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str) -> TrainResult:
        torch.manual_seed(0)
        return train(make_toy(), CONFIG, seed=1, run_dir=tmp_path / name)

    run("whole")
    asked = iter([False] * 12 + [True])
    monkeypatch.setattr(stopping, "asked", lambda: next(asked))
    with pytest.raises(TrainingInterrupted, match="stopped after step 13 of 20"):
        run("cut")
    assert [row["step"] for row in state.read_history(tmp_path / "cut")] == [10, 13]
    monkeypatch.setattr(stopping, "asked", lambda: False)
    assert [row["step"] for row in run("cut").history] == [10, 13, 20]
    assert state.final_weights(tmp_path / "cut").read_bytes() == state.final_weights(tmp_path / "whole").read_bytes()


def test_a_wish_after_the_last_step_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([False] * 19 + [True])
    monkeypatch.setattr(stopping, "asked", lambda: next(asked))
    train(make_toy(), CONFIG, seed=1, run_dir=tmp_path)
    assert state.final_weights(tmp_path).is_file()


# A scheduler sends them to all processes of a job, loader workers too.
@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [*((number, 0) for number in stopping.SIGNALS), (signal.SIGUSR1, 1)])
def test_a_process_alone_ends_with_the_status_that_means_again(tmp_path: Path, number: signal.Signals, workers: int) -> None:
    config = CONFIG.model_copy(update={"steps": 4000, "log_every": 1, "workers": workers})
    spec = ToySpec(train=config, seed=1, pause=0.02)
    write_spec(tmp_path / launch.SPEC_FILE, spec)
    command = [sys.executable, "-m", "umt_pipeline.training.launch", str(tmp_path / launch.SPEC_FILE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not state.read_history(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, number)
        assert process.wait(60) == stopping.INTERRUPTED_STATUS
    newest = state.newest_checkpoint(tmp_path)
    assert newest is not None
    assert state.read_info(newest).step == state.read_history(tmp_path)[-1]["step"]
