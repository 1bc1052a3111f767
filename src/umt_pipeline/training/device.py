"""Where a run computes and in which precision."""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.samples import Batch

logger = logging.getLogger(__name__)


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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware: CUDA from Ampere on, x86 with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute under bf16 autocast; says so in one line wherever the answer is no.

    ``auto`` takes bf16 on a CUDA device that is fast at it, and fp32 on every CPU, so that a CPU run does not get other
    numbers from the next machine's CPU. ``bf16`` takes it on any device that is fast at it, elsewhere fp32.
    """
    fast = has_fast_bf16(device)
    if precision == "fp32" or (precision == "bf16" and fast) or (precision == "auto" and fast and device.type == "cuda"):
        return precision != "fp32"
    if precision == "bf16":
        logger.warning("precision: fp32, not the bf16 that is asked for, because this device (%s) has no fast bf16", device)
    elif device.type == "cuda":
        logger.warning("precision: fp32, because this device (%s) has no fast bf16", device)
    else:
        offer = "this one is fast at bf16: `precision: bf16` asks for it" if fast else "this one has no fast bf16"
        logger.info("precision: fp32, as on every CPU; %s", offer)
    return False


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors to ``device`` (asynchronously from pinned memory), anything else as it is."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
