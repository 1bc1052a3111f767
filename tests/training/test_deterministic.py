"""The option is on while a run trains, is given back, and changes neither a CPU's bits nor a run's identity."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from toy_tasks import ToySpec

from umt_pipeline.training.deterministic import CUBLAS, deterministic_algorithms
from umt_pipeline.training.launch import run
from umt_pipeline.training.state import final_weights
from umt_pipeline.training.task import TrainConfig


@pytest.fixture(autouse=True)
def _no_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS[0], "")
    monkeypatch.delenv(CUBLAS[0])


def test_it_holds_within_the_block() -> None:
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ[CUBLAS[0]] == CUBLAS[1]
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_gives_the_same_bits_with_it_and_the_run_stays_the_same(tmp_path: Path) -> None:
    loop = {"steps": 4, "batch_size": 8, "lr": 0.01, "device": "cpu"}
    specs = [ToySpec(train=TrainConfig.model_validate({**loop, "deterministic": wanted}), seed=0) for wanted in (False, True)]
    assert specs[0].identity() == specs[1].identity()
    plain, strict = (run(spec, tmp_path / str(number)).folder for number, spec in enumerate(specs))
    assert final_weights(plain).read_bytes() == final_weights(strict).read_bytes()
    assert not torch.are_deterministic_algorithms_enabled()
