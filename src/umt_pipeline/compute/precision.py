"""In which precision work runs: fp32, or bf16 where that pays on the device.

bf16 is torch's autocast: matrix products, convolutions and attention in bf16. Weights, the residual stream, norms, losses,
optimiser states and the importance of patches that draws masks stay in float32.

Whoever starts work resolves what is asked for, once, and hands on the answer: to ranks, to worker processes,
to the manifest of a store, to the protocol of a number. All of them compute alike, and what was computed says how.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from umt_pipeline.compute.gain import measured_speeds
from umt_pipeline.compute.names import AskedPrecision, Precision

logger = logging.getLogger(__name__)

# `auto` takes bf16 from so many times the speed of fp32 on: what a product does not show (casts, norms, copies) eats the rest.
PAYS = 1.3


def resolve_precision(asked: AskedPrecision, device: torch.device) -> Precision:
    """Return the precision to compute in, and say why it is what it is.

    Args:
        asked: ``fp32``: float32 everywhere. ``bf16``: bf16 wherever torch has it, fast or not; elsewhere fp32, with a warning.
            ``auto``: bf16 where a product measured now (:func:`measured_speeds`) is at least :data:`PAYS` times as fast in it.
        device: CPU or CUDA.
    """
    if asked == "fp32":
        return "fp32"
    if not _has_bf16(device):
        level = logging.WARNING if asked == "bf16" else logging.INFO
        logger.log(level, "precision: fp32, where %s is asked for: torch has no bf16 on this device (%s)", asked, device)
        return "fp32"
    if asked == "bf16":
        return "bf16"
    speeds = measured_speeds(device)
    found: Precision = "bf16" if speeds.gain >= PAYS else "fp32"
    logger.info(
        "precision: %s on %s, which multiplies at %.3f TFLOP/s in fp32 and at %.3f in bf16: %.2f times (auto asks for %.1f)",
        found,
        device,
        speeds.fp32 / 1e12,
        speeds.bf16 / 1e12,
        speeds.gain,
        PAYS,
    )
    return found


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which work of this precision runs; in fp32 it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context that computes in float32 inside of autocast, if what it is given is float32."""
    return torch.autocast(device.type, enabled=False)


def exactly(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module in float32 inside of autocast: a head whose outputs are put in order, which in bf16 would tie."""
    with full_precision(x.device):
        found: Tensor = module(x.float())
    return found


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of the matrices that are multiplied, which a peak must be measured with."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_bf16(device: torch.device) -> bool:
    # Be it by emulation: every CPU has it.
    return device.type == "cpu" or torch.cuda.is_bf16_supported()
