"""Which kind of machine a number is from."""

from __future__ import annotations

import platform

import pytest
import torch

from umt_pipeline.compute.machine import Machine, this_machine


def test_a_cpu_is_known_by_its_widest_instructions_and_the_threads_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert this_machine(torch.device("cpu")) == Machine("x86_64 avx512", torch.get_num_threads())


def test_a_gpu_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert this_machine(torch.device("cuda")).processor == "NVIDIA H200"
