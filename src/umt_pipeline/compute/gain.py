"""Whether bf16 pays on a device: one product of the size that models have, measured in both precisions."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from umt_pipeline.compute.peak import wait_for

# The product: rows of tokens by the first matrix of a ViT-B's MLP, 4.8 GFLOP on a CPU.
ROWS = {"cuda": 16384, "cpu": 1024}
WIDTH, HIDDEN = 768, 3072
# A first try of fewer rows: where torch emulates bf16, the whole product would take seconds.
FEW_ROWS, HOPELESS = 32, 0.1
SECONDS, FEWEST = 0.3, 4


@dataclass(frozen=True)
class Speeds:
    """How fast a device multiplies, in floating-point operations per second."""

    fp32: float
    bf16: float

    @property
    def gain(self) -> float:
        """How many times as fast bf16 is."""
        return self.bf16 / self.fp32


@functools.cache
def measured_speeds(device: torch.device) -> Speeds:
    """Measure the product, once in this process: a fraction of a second, after which torch's random state is as it was.

    fp32 follows torch's own setting of TF32.
    """
    speeds = _measure(device, FEW_ROWS, seconds=0.0)
    if speeds.gain >= HOPELESS:
        speeds = _measure(device, ROWS[device.type], SECONDS)
    return speeds


def _measure(device: torch.device, rows: int, seconds: float) -> Speeds:
    generator = torch.Generator(device).manual_seed(0)
    tokens_RW = torch.randn(rows, WIDTH, generator=generator, device=device)
    weight_HW = torch.randn(HIDDEN, WIDTH, generator=generator, device=device)
    pairs = {dtype: (tokens_RW.to(dtype), weight_HW.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    found: dict[torch.dtype, list[float]] = {dtype: [] for dtype in pairs}
    deadline = time.perf_counter() + seconds
    # By turns, so that other work on the machine slows both. The first of each starts libraries and clocks.
    while len(found[torch.bfloat16]) <= FEWEST or time.perf_counter() < deadline:
        for dtype, pair in pairs.items():
            wait_for(device)
            began = time.perf_counter()
            F.linear(*pair)
            wait_for(device)
            found[dtype].append(time.perf_counter() - began)
    operations = 2.0 * rows * WIDTH * HIDDEN
    return Speeds(*(operations / min(taken[1:]) for taken in found.values()))
