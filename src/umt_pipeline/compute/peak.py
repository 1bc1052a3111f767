"""How fast the device multiplies matrices: what model FLOPs utilisation (MFU) is measured against.

A data sheet's number is for another clock, another precision or sparse matrices; this one is of the device as it is. Other
work on the machine slows a measurement down, so it is repeated now and then, and the best one counts.
"""

from __future__ import annotations

import logging
import time

import torch

logger = logging.getLogger(__name__)

# Large enough that a multiplication is bound by arithmetic: 8192 takes an H100 about 2 ms, 1024 a CPU core about 20 ms.
SIDE = {"cuda": 8192, "cpu": 1024}
SECONDS, FEWEST = 0.1, 3
# At most so often: a five-hundredth of the time.
EVERY_SECONDS = 60.0
# The best so far, and when it was last measured.
_measured: dict[tuple[torch.device, torch.dtype], tuple[float, float]] = {}


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best measured speed of a large matrix multiplication.

    Measures if this process has not done so within the last minute, which takes a fraction of a second, leaves torch's random
    state as it is, and on CUDA starts the allocator's peak anew.

    Args:
        device: CPU or CUDA.
        dtype: of the matrices; fp32 follows torch's own setting of TF32.

    Returns:
        floating-point operations per second, a multiplication and an addition counted as two.
    """
    best, at = _measured.get((device, dtype), (0.0, -EVERY_SECONDS))
    if time.monotonic() - at >= EVERY_SECONDS:
        if (found := _measure(device, dtype)) > best:
            logger.info("%s multiplies %s matrices at %.2f TFLOP/s", device, str(dtype).removeprefix("torch."), found / 1e12)
            best = found
        _measured[device, dtype] = best, time.monotonic()
    return best


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    side = SIDE[device.type]
    generator = torch.Generator(device).manual_seed(0)
    # Random values: a GPU is faster on zeros, because they take less power.
    left, right = (torch.randn(side, side, generator=generator, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    seconds: list[float] = []
    deadline = time.perf_counter() + SECONDS
    # The first one starts libraries and clocks.
    while len(seconds) <= FEWEST or time.perf_counter() < deadline:
        wait_for(device)
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    del left, right, out
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that clocks tell the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
