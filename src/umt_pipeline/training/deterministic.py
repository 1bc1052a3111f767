"""The same bits from the same run on one kind of GPU, at a price in speed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What cuBLAS asks for to add in one order: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Let torch take deterministic algorithms alone while the block runs, or, not wanted, whatever it takes.

    On a GPU sums of many threads come in any order otherwise, and two runs differ in their last bits; on a CPU a run gives the
    same bits as it is. What has no deterministic algorithm raises torch's RuntimeError, which names it.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(*CUBLAS)  # read when the first matrix is multiplied
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
