"""Where a run computes."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor

from umt_pipeline.compute.names import AskedPrecision, Precision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.samples import Batch


def resolve_device(name: str) -> torch.device:
    """The device of this process: with CUDA the one of its local rank.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("`device: cuda` but torch finds no CUDA device; use `device: auto` or `cpu`")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def rank_and_world() -> tuple[int, int]:
    """The number of this process among those that train together, and how many they are: 0 of 1 without a process group."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def agreed_precision(asked: AskedPrecision, device: torch.device) -> Precision:
    """Return the precision that all ranks compute in: rank 0 resolves what is asked for and tells the others."""
    rank, world = rank_and_world()
    found = [resolve_precision(asked, device) if rank == 0 else None]
    if world > 1:
        dist.broadcast_object_list(found, src=0)
    assert found[0] is not None
    return found[0]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors to ``device`` (asynchronously from pinned memory), anything else as it is."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
