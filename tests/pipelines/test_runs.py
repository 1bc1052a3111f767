"""Runs in the workspace: which one is gone on with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.training.toy_tasks import ToySpec
from umt_pipeline.compute import precision
from umt_pipeline.compute.gain import Speeds
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.identity import work_folder
from umt_pipeline.pipelines.runs import train, with_speeds, without_rows
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


def test_a_page_shows_the_speeds_of_the_run_that_is_shown() -> None:
    history = pd.DataFrame({"step": [10, 20], "loss": [2.0, 1.0]})
    times = {"seconds": 3.0, "rows": {"step": [10, 20], "clips_per_s": [5.0, 6.0]}}
    assert with_speeds(history, times)["clips_per_s"].tolist() == [5.0, 6.0]
    assert list(with_speeds(history, {})) == ["step", "loss"], "of a run whose times are not here"
    parts = pd.concat([history.assign(part=part) for part in ("shape", "motion")])
    found = with_speeds(parts, {"motion": times})
    assert found.loc[found["part"] == "motion", "clips_per_s"].tolist() == [5.0, 6.0]
    assert found.loc[found["part"] == "shape", "clips_per_s"].isna().all()
    assert found["part"].tolist() == ["shape", "shape", "motion", "motion"]


def test_what_each_row_took_is_no_number_of_a_run() -> None:
    times = {"text": {"seconds": 1.0, "rows": {"step": [1]}}, "stage2": {"seconds": 2.0, "rows": {}}}
    assert without_rows(times) == {"text": {"seconds": 1.0}, "stage2": {"seconds": 2.0}}
