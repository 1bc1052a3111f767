"""How fast the device multiplies matrices: what model FLOPs utilisation (MFU) is measured against.

A data sheet's number is for another clock, another precision or sparse matrices; this one is of the device as it is now.
"""

from __future__ import annotations

import functools
import time

import torch

# Large enough that a multiplication is bound by arithmetic: 8192 takes an H100 about 2 ms, 1024 a CPU core about 20 ms.
SIDE = {"cuda": 8192, "cpu": 1024}
SECONDS, FEWEST = 0.1, 3


@functools.cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the best speed of a large matrix multiplication; takes a fraction of a second, once per process.

    Leaves torch's random state as it is, and on CUDA starts the allocator's peak anew.

    Args:
        device: CPU or CUDA.
        dtype: of the matrices; fp32 follows torch's own setting of TF32.

    Returns:
        floating-point operations per second, a multiplication and an addition counted as two.
    """
    side = SIDE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    # Random values: a GPU is faster on zeros, because they take less power.
    left, right = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    seconds: list[float] = []
    deadline = time.perf_counter() + SECONDS
    # The first one starts libraries and clocks.
    while len(seconds) <= FEWEST or time.perf_counter() < deadline:
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    del left, right, out
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
