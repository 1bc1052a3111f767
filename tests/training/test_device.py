"""Precision by device, and how fast the device is."""

import logging

import pytest
import torch
from umt_pipeline.training.peak import matmul_peak

from umt_pipeline.training import device, peak

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "where", "fast", "expected", "level", "said"),
    [
        ("fp32", CUDA, True, False, None, ""),
        ("bf16", CPU, True, True, None, ""),
        ("bf16", CUDA, True, True, None, ""),
        ("auto", CUDA, True, True, None, ""),
        ("bf16", CPU, False, False, logging.WARNING, "not the bf16 that is asked for"),
        ("bf16", CUDA, False, False, logging.WARNING, "not the bf16 that is asked for"),
        ("auto", CUDA, False, False, logging.WARNING, "no fast bf16"),
        ("auto", CPU, True, False, logging.INFO, "`precision: bf16` asks for it"),
        ("auto", CPU, False, False, logging.INFO, "this one has no fast bf16"),
    ],
)
def test_precision(
    precision: str,
    where: torch.device,
    fast: bool,
    expected: bool,
    level: int | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(device, "has_fast_bf16", lambda _: fast)
    with caplog.at_level(logging.INFO):
        assert device.uses_bf16(precision, where) is expected
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_fast_bf16_of_this_cpu_is_known() -> None:
    assert isinstance(device.has_fast_bf16(CPU), bool)


def test_peak_is_plausible_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_measured", {})
    before = torch.random.get_rng_state()
    assert 1e8 < matmul_peak(CPU, torch.float32) < 1e14
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_best_measurement_counts_and_is_repeated_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds, now = iter([2e9, 5e9, 3e9]), [100.0]
    monkeypatch.setattr(peak, "_measured", {})
    monkeypatch.setattr(peak, "_measure", lambda device, dtype: next(speeds))
    monkeypatch.setattr(peak.time, "monotonic", lambda: now[0])
    found = []
    for second in (100.0, 159.0, 160.0, 221.0):
        now[0] = second
        found.append(matmul_peak(CPU, torch.float32))
    assert found == [2e9, 2e9, 5e9, 5e9]
    assert next(speeds, None) is None
