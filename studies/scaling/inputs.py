"""All numbers that go into the model, in one place, each with where it is from.

Measured are decoding, reading the store and the rest of what a CPU does. No GPU was ever measured: what is said of GPUs is from
data sheets, and how much of their peak is reached is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Input:
    """One number.

    Args:
        value: of it.
        unit: of the value.
        what: it is.
        source: command that measured it, publication, or on what grounds it is assumed.
        kind: how far to trust it.
    """

    value: float
    unit: str
    what: str
    source: str
    kind: Literal["measured", "published", "assumed"]


MEASURED_CLIPS = "`benchmarks/stage1.py --videos DIR`, 33 real clips (benchmarks_stage1_real_clips.md)"
MEASURED_PREPARE = "`benchmarks/prepare.py`, drawn videos (benchmarks_prepare.md)"
INPUTS: dict[str, Input] = {
    "decode_small": Input(5.9, "views/s of a core", "decoding small files, some 320 x 240 pixels", MEASURED_CLIPS, "measured"),
    "decode_hd": Input(1.2, "views/s of a core", "decoding 1080p files", MEASURED_PREPARE, "measured"),
    "decode_prepared": Input(
        18.7, "views/s of a core", "decoding files that `prepare` made of them", MEASURED_PREPARE, "measured"
    ),
    "prepare_speed": Input(5.8, "s of video a s of a core", "`prepare`, from 1080p", MEASURED_PREPARE, "measured"),
    "store_core": Input(4_074, "views/s of a core", "reading the store from memory", MEASURED_CLIPS, "measured"),
    "clip_mb": Input(1.1, "MB", "a clip's file", MEASURED_CLIPS, "measured"),
    "clip_s": Input(10, "s", "a clip's length", "Kinetics", "published"),
    "peak": Input(989, "TFLOP/s", "H100 SXM, dense, bf16", "NVIDIA's data sheet", "published"),
    "mfu": Input(
        0.4, "of the peak", "in training and extraction", "torchtitan has 0.33 to 0.39 on H100; aim of this project", "assumed"
    ),
    "cores": Input(16, "cores", "beside a GPU", "usual machines: 8 GPUs, 128 cores", "assumed"),
    "workers": Input(12, "processes", "that decode beside a GPU in training", "the recipes", "published"),
    "node": Input(8, "GPUs", "in a machine", "usual machines", "assumed"),
    "disk": Input(16, "GB/s", "a machine's own drives, records of 1 MB at random", "8 NVMe drives, 2 GB/s each", "assumed"),
    "disk_tb": Input(28, "TB", "that they hold", "8 drives of 3.5 TB", "assumed"),
    "network": Input(50, "GB/s", "a machine to all others", "400 Gbit/s; many have 100, some 3,200", "assumed"),
    "shared": Input(40, "GB/s", "a shared file system, all machines together", "a middling cluster", "assumed"),
    "overlap": Input(
        0.6, "of a step", "in which gradients can travel unnoticed", "the way back without its first blocks", "assumed"
    ),
    "jitter": Input(0.02, "of a step", "standard deviation of computing, per GPU", "usual clocks", "assumed"),
    "hiccup": Input(1e-4, "per GPU and step", "chance of a stall", "system noise, a slow file", "assumed"),
    "hiccup_s": Input(0.5, "s", "length of a stall", "system noise, a slow file", "assumed"),
    "spread": Input(
        0.6, "of the mean", "deviation of the time that one file takes", "files of 16 sizes in the folder above", "assumed"
    ),
    "mtbf": Input(
        50_000, "GPU-hours", "from failure to failure", "Llama 3's report: 419 in 54 days of 16,384 GPUs", "published"
    ),
    "preempted": Input(
        24, "machine-hours", "from failure to failure where machines can be taken away", "offers differ", "assumed"
    ),
    "restart_s": Input(600, "s", "from a failure to the next step", "queue, start, read ahead", "assumed"),
    "checkpoint": Input(
        1, "GB/s", "writing a checkpoint, by one process, while all wait", "one writer on a shared disk", "assumed"
    ),
    "gpu_price": Input(2.5, "$/h", "a rented H100 with its share of the machine", "offers of 2 to 4", "assumed"),
    "core_price": Input(0.04, "$/h", "a rented core", "usual offers", "assumed"),
    "disk_price": Input(20, "$ per TB and month", "storage", "object stores; fast disks cost four times as much", "assumed"),
}


def of(name: str) -> float:
    """Return an input's value."""
    return INPUTS[name].value
