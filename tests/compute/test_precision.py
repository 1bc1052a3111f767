"""Which precision work takes, and what stays in float32 in it."""

import logging

import pytest
import torch
from torch import nn

from umt_pipeline.compute import gain, precision
from umt_pipeline.compute.gain import Speeds
from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.compute.precision import autocast, dtype_of, exactly, full_precision, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "where", "times", "expected", "level", "said"),
    [
        ("fp32", CUDA, 9.0, "fp32", None, ""),
        ("bf16", CPU, 0.1, "bf16", None, ""),
        ("bf16", CUDA, 9.0, "bf16", None, ""),
        ("bf16", CUDA, None, "fp32", logging.WARNING, "torch has no bf16"),
        ("auto", CUDA, None, "fp32", logging.INFO, "torch has no bf16"),
        ("auto", CPU, 1.29, "fp32", logging.INFO, "1.000 TFLOP/s in fp32 and at 1.290 in bf16: 1.29 times"),
        ("auto", CPU, 1.3, "bf16", logging.INFO, "precision: bf16 on cpu"),
        ("auto", CUDA, 9.0, "bf16", logging.INFO, "precision: bf16 on cuda"),
    ],
)
def test_precision(
    asked: AskedPrecision,
    where: torch.device,
    times: float | None,
    expected: str,
    level: int | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "measured_speeds", lambda device: Speeds(1e12, (times or 0.0) * 1e12))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: times is not None)
    with caplog.at_level(logging.INFO):
        assert resolve_precision(asked, where) == expected
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_speeds_are_measured_once_and_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain, "ROWS", {"cpu": 64})
    monkeypatch.setattr(gain, "SECONDS", 0.0)
    gain.measured_speeds.cache_clear()
    before = torch.random.get_rng_state()
    found = gain.measured_speeds(CPU)
    assert 1e8 < found.fp32 < 1e14
    assert found.bf16 > 0
    assert gain.measured_speeds(CPU) is found
    assert torch.equal(torch.random.get_rng_state(), before)
    gain.measured_speeds.cache_clear()


def test_a_device_that_emulates_bf16_is_not_measured_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(device: torch.device, rows: int, seconds: float) -> Speeds:
        asked.append(rows)
        return Speeds(1.0, 0.05)

    monkeypatch.setattr(gain, "_measure", measure)
    gain.measured_speeds.cache_clear()
    assert gain.measured_speeds(CPU).gain == 0.05
    assert asked == [gain.FEW_ROWS]
    gain.measured_speeds.cache_clear()


def test_contexts() -> None:
    linear, x = nn.Linear(4, 4), torch.randn(2, 4)
    with autocast("fp32", CPU):
        assert torch.equal(linear(x), linear(x.clone()))
        assert linear(x).dtype == dtype_of("fp32")
    with autocast("bf16", CPU):
        assert linear(x).dtype == dtype_of("bf16")
        assert exactly(linear, linear(x)).dtype == torch.float32
        with full_precision(CPU):
            assert linear(x).dtype == torch.float32
