"""Training, resuming, refusing."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_tasks import ToyTask, make_toy

from umt_pipeline.core.errors import CheckpointError, ConfigError, TrainingError
from umt_pipeline.training import loop, state
from umt_pipeline.training.loop import train
from umt_pipeline.training.metrics import COLUMNS
from umt_pipeline.training.state import Row, TrainResult
from umt_pipeline.training.task import TrainConfig

CONFIG = TrainConfig(
    steps=20, batch_size=8, lr=1e-2, warmup=1, clip_grad=1.0, log_every=1, checkpoint_every=5, device="cpu"
)


class StopHere(Exception):  # noqa: N818  # plays an interruption, not an error
    """Raised by a row callback."""


def _run(run_dir: Path, config: TrainConfig = CONFIG, stop_at: int | None = None, **kwargs: Any) -> TrainResult:
    def on_row(row: Row) -> None:
        if row["step"] == stop_at:
            raise StopHere

    torch.manual_seed(0)
    return train(make_toy(**kwargs), config, seed=1, run_dir=run_dir, on_row=on_row)


def _losses(history: list[Row]) -> list[tuple[float, ...]]:
    return [(row["step"], row["loss"], row["absolute"], row["lr"], row["grad_norm"]) for row in history]


def test_trains_and_reports(tmp_path: Path) -> None:
    result = _run(tmp_path, CONFIG.model_copy(update={"steps": 60, "log_every": 20, "checkpoint_every": 50}))
    assert [row["step"] for row in result.history] == [20, 40, 50, 60]
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]
    assert set(result.history[0]) == {*COLUMNS, "absolute"} - {"mfu", "tflops"}
    assert result.history[-1]["epoch"] == 12
    assert result.history[-1]["eta_s"] == 0
    assert 0 <= result.history[0]["data_wait"] <= 1
    assert json.loads((tmp_path / "history.jsonl").read_text().splitlines()[0]) == result.history[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "final", "history.jsonl"]


@pytest.mark.parametrize("stop_at", [3, 7, 10, 19])
def test_resumed_run_is_bit_equal(tmp_path: Path, stop_at: int) -> None:
    whole = _run(tmp_path / "whole")
    with pytest.raises(StopHere):
        _run(tmp_path / "cut", stop_at=stop_at)
    resumed = _run(tmp_path / "cut")
    assert _losses(resumed.history) == _losses(whole.history)
    weights = [state.final_weights(tmp_path / name).read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_resumed_average_is_bit_equal(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"ema": 0.9, "accumulate": 2})
    whole = _run(tmp_path / "whole", config)
    with pytest.raises(StopHere):
        _run(tmp_path / "cut", config, stop_at=13)
    assert _losses(_run(tmp_path / "cut", config).history) == _losses(whole.history)
    for name in ("model", "raw"):
        files = [tmp_path / run / "final" / f"{name}.safetensors" for run in ("whole", "cut")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_average_is_the_result_and_does_not_touch_training(tmp_path: Path) -> None:
    _run(tmp_path / "plain")
    torch.manual_seed(0)
    task = make_toy()
    train(task, CONFIG.model_copy(update={"ema": 0.9}), seed=1, run_dir=tmp_path / "ema")
    raw = (tmp_path / "ema" / "final" / "raw.safetensors").read_bytes()
    assert raw == state.final_weights(tmp_path / "plain").read_bytes()
    assert not (tmp_path / "plain" / "final" / "raw.safetensors").exists()
    average = state.load_file(state.final_weights(tmp_path / "ema"))
    weights = task.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in average.items())
    last = state.load_file(state.final_weights(tmp_path / "plain"))
    assert not torch.equal(average["0.weight"], last["0.weight"])


def test_checkpoint_without_its_average_is_refused(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"ema": 0.9})
    with pytest.raises(StopHere):
        _run(tmp_path, config, stop_at=7)
    next(tmp_path.glob("checkpoint/*/ema.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="step-00000005 does not fit the model or is damaged"):
        _run(tmp_path, config)


def test_dropout_and_noise_are_seeded(tmp_path: Path) -> None:
    plain = _losses(_run(tmp_path / "plain", dropout=0.0, noise=0.0).history)
    assert plain != _losses(_run(tmp_path / "dropout", noise=0.0).history)
    assert plain != _losses(_run(tmp_path / "noise", dropout=0.0).history)


def test_operational_settings_do_not_change_weights(tmp_path: Path) -> None:
    _run(tmp_path / "a")
    with pytest.raises(StopHere):
        _run(tmp_path / "b", stop_at=7)
    other = CONFIG.model_copy(update={"workers": 1, "log_every": 4, "checkpoint_every": 3, "keep": 2})
    _run(tmp_path / "b", other)
    assert state.final_weights(tmp_path / "a").read_bytes() == state.final_weights(tmp_path / "b").read_bytes()


def test_accumulation_gives_the_same_mean(tmp_path: Path) -> None:
    exact: dict[str, Any] = {"dropout": 0.0, "noise": 0.0}
    whole = _run(tmp_path / "one", **exact)
    pieces = _run(tmp_path / "three", CONFIG.model_copy(update={"accumulate": 3}), **exact)  # 3 + 3 + 2 samples
    for one, three in zip(_losses(whole.history), _losses(pieces.history), strict=True):
        assert three == pytest.approx(one, rel=1e-4)


def test_rows_before_a_resume_are_given_again(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        _run(tmp_path, stop_at=7)
    steps: list[float] = []
    train(make_toy(), CONFIG, seed=1, run_dir=tmp_path, on_row=lambda row: steps.append(row["step"]))
    assert steps == list(range(1, 21))


def test_finished_run_is_returned_and_not_trained_again(tmp_path: Path) -> None:
    first = _run(tmp_path)
    before = state.final_weights(tmp_path).stat().st_mtime_ns
    task = make_toy()
    again = train(task, CONFIG, seed=1, run_dir=tmp_path)
    assert task.seen == []
    weights = state.load_file(state.final_weights(tmp_path))
    assert all(torch.equal(value, weights[name]) for name, value in task.model.state_dict().items())
    assert again == first
    assert state.final_weights(tmp_path).stat().st_mtime_ns == before


@pytest.mark.parametrize("stop_at", [7, None])
def test_folder_of_another_run_is_refused(tmp_path: Path, stop_at: int | None) -> None:
    if stop_at:
        with pytest.raises(StopHere):
            _run(tmp_path, stop_at=stop_at)
    else:
        _run(tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        _run(tmp_path, CONFIG.model_copy(update={"lr": 2e-2}))


def test_checkpoint_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        _run(tmp_path, stop_at=7)
    with pytest.raises(CheckpointError, match="40 samples, the data set now has 41"):
        _run(tmp_path, size=41)


def test_non_finite_loss_names_step_and_clips_and_keeps_the_batch(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"log_every": 4, "checkpoint_every": 100})
    with pytest.raises(TrainingError, match=r"not finite at step \d+ .*loss nan.*clip17.*saved in") as caught:
        _run(tmp_path, config, bad=17)
    (path,) = (tmp_path / "nonfinite").iterdir()
    dump = torch.load(path, weights_only=True)
    assert f"step {dump['step']} " in str(caught.value)
    assert "clip17" in dump["ids"]
    assert 17 in dump["indices"][0].tolist()
    assert dump["batches"][0]["x"].isnan().sum() == 1
    assert state.newest_checkpoint(tmp_path) is None


def test_clashing_loss_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umt_pipeline.training.metrics.COLUMNS", (*COLUMNS, "absolute"))
    with pytest.raises(TrainingError, match="absolute"):
        _run(tmp_path)


def test_length_is_counted_in_steps_of_the_real_loader(tmp_path: Path) -> None:
    # 40 samples make 2 batches of 16 an epoch; 40 / 16 would make 2.5 of them.
    torch.manual_seed(0)
    task = make_toy()
    config = TrainConfig(epochs=3, batch_size=16, lr=1e-2, warmup=1, log_every=1, device="cpu")
    history = train(task, config, seed=1, run_dir=tmp_path).history
    assert len(task.seen) == len(history) == 6
    assert history[-1]["epoch"] == 3
    assert [row["lr"] for row in history[:3]] == [0.0, 1e-2, 1e-2]


def test_utilisation_is_measured_against_the_devices_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "matmul_peak", lambda device, dtype: 5e13)
    history = _run(tmp_path / "counted", flops=2e6).history
    assert [row["mfu"] for row in history] == pytest.approx([row["clips_per_s"] * 2e6 / 5e13 for row in history])

    # Measured on a busy machine: no row says more than 1, and what training did counts from then on.
    monkeypatch.setattr(loop, "matmul_peak", lambda device, dtype: 1.0)
    history = _run(tmp_path / "busy", flops=2e6).history
    best = itertools.accumulate((row["clips_per_s"] for row in history), max)
    assert [row["mfu"] for row in history] == pytest.approx(
        [row["clips_per_s"] / most for row, most in zip(history, best, strict=True)]
    )
    assert history[0]["mfu"] == 1.0

    def unwanted(*_: object) -> float:
        raise AssertionError("measured for nothing")

    monkeypatch.setattr(loop, "matmul_peak", unwanted)
    assert "mfu" not in _run(tmp_path / "uncounted").history[-1]


def test_what_the_steps_computed_is_counted_and_repeats(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"log_every": 3})
    first, second = (_run(tmp_path / name, config, flops=2e6).history for name in ("a", "b"))
    steps = [3, 2, 1, 3, 1, 2, 3, 3, 2]  # a checkpoint writes a row, too
    assert [row["tflops"] for row in first] == pytest.approx([step * 8 * 2e6 / 1e12 for step in steps])
    assert [row["tflops"] for row in first] == [row["tflops"] for row in second]


def test_looks_at_held_out_data_leave_the_run_as_it_is(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"log_every": 4, "ema": 0.9})
    plain = _run(tmp_path / "plain", config)

    def look(run_dir: Path, stop_at: int | None = None) -> tuple[list[Row], ToyTask]:
        def on_row(row: Row) -> None:
            if row["step"] == stop_at:
                raise StopHere

        torch.manual_seed(0)
        task = make_toy()
        task.score_every = 0.65  # epochs of 5 steps: 3.25 steps
        return train(task, config, seed=1, run_dir=run_dir, on_row=on_row).history, task

    looked, task = look(tmp_path / "looked")
    for name in ("model", "raw"):
        files = [tmp_path / run / "final" / f"{name}.safetensors" for run in ("plain", "looked")]
        assert files[0].read_bytes() == files[1].read_bytes()
    seen = {int(row["step"]): row["held_out"] for row in looked if "held_out" in row}
    assert list(seen) == [4, 7, 10, 13, 17, 20], "the first step at or after each multiple, and the last one"
    assert task.looks == [False] * 6
    assert not any("held_out" in row for row in plain.history)

    with pytest.raises(StopHere):
        look(tmp_path / "cut", stop_at=12)
    resumed, _ = look(tmp_path / "cut")
    assert {int(row["step"]): row["held_out"] for row in resumed if "held_out" in row} == seen
    assert _losses(resumed) == _losses(looked)


def test_measuring_the_peak_does_not_change_the_run(tmp_path: Path) -> None:
    assert _losses(_run(tmp_path / "a", flops=2e6).history) == _losses(_run(tmp_path / "b").history)


def test_recomputing_without_a_video_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`recompute_blocks` is 1, but ToyTask trains no video encoder"):
        _run(tmp_path, CONFIG.model_copy(update={"recompute_blocks": 1}))


def test_bf16_runs(tmp_path: Path) -> None:
    half = _run(tmp_path / "bf16", CONFIG.model_copy(update={"precision": "bf16"}))
    full = _run(tmp_path / "fp32", CONFIG.model_copy(update={"precision": "fp32"}))
    assert half.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.05)
    assert half.history[-1]["loss"] != full.history[-1]["loss"]


def test_copied_run_folder_still_resumes(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        _run(tmp_path / "a", stop_at=7)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert _run(tmp_path / "a").history[-1]["loss"] == _run(tmp_path / "b").history[-1]["loss"]
