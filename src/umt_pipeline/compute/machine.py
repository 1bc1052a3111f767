"""Which kind of machine a number was measured on: between kinds, sums of floats are made in another order."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """What decides the order of sums, beside the code.

    Attributes:
        processor: the architecture and the widest vector instructions of a CPU that torch knows how to use, such as ``x86_64
            avx512``; or a GPU's name.
        threads: that one computation on the CPU may use.
    """

    processor: str
    threads: int


def this_machine(device: torch.device) -> Machine:
    """Return the kind of machine that work on a device is done by."""
    import torch  # who reads records needs none

    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability().lower()}"
    return Machine(processor, torch.get_num_threads())
