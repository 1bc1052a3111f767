"""How fast the device is."""

import pytest
import torch

from umt_pipeline.compute import peak
from umt_pipeline.compute.peak import matmul_peak

CPU = torch.device("cpu")


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
