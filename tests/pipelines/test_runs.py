"""Runs in the workspace: which one is gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy_tasks import ToySpec
from umt_pipeline.compute import precision
from umt_pipeline.compute.gain import Speeds
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.identity import work_folder
from umt_pipeline.pipelines.runs import train
from umt_pipeline.training.task import TrainConfig

SPEC = ToySpec(train=TrainConfig(steps=2, batch_size=8, lr=1e-2, device="cpu"), seed=0)


def test_a_run_begun_in_another_precision_is_not_left_behind_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = work_folder(tmp_path / "toy", SPEC.resolved().identity())
    (begun / "checkpoint" / "step-00000001").mkdir(parents=True)
    monkeypatch.setattr(precision, "measured_speeds", lambda device: Speeds(1.0, 2.0))
    with pytest.raises(
        CheckpointError, match=r"in bf16, which .* auto` takes on this device.*begun in fp32"
    ):
        train("toy", SPEC, tmp_path)
    anew = SPEC.model_copy(update={"train": SPEC.train.model_copy(update={"precision": "bf16"})})
    assert train("toy", anew, tmp_path).folder != begun
