"""What a run would have: rates of devices, cores, disks and network, each with where it is from.

What nobody has measured is assumed, and says so. `--rates` takes your numbers; `--device here` measures those of this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field

from umt_pipeline.compute.names import AskedPrecision, Precision
from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import PAYS
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.processes import cores
from umt_pipeline.training.device import resolve_device

# Dense peaks in TFLOP/s from NVIDIA's data sheets of the SXM modules: bf16, and fp32 without TF32, which torch leaves off.
PEAK_TFLOPS = {"a100": (312.0, 19.5), "h100": (989.0, 67.0), "h200": (989.0, 67.0)}
HERE = "here"
# Rates that `--rates` takes, with what is assumed where nobody gives them, and on what grounds.
ASSUMED: dict[str, tuple[float, str]] = {
    "mfu": (
        0.4,
        "assumed: on a CPU this code reaches 0.66 (docs/benchmarks_stage1.md); torchtitan publishes 0.33 to 0.39 for language "
        "models on H100",
    ),
    "cores": (16, "assumed: 128 cores beside 8 devices"),
    "decode_rate": (9.0, "assumed: between 12.4 of drawn files and 5.9 of 33 real clips (docs/benchmarks_stage1*.md)"),
    "image_rate": (200.0, "assumed: photographs of some 500 pixels a side"),
    "store_rate": (2.0, "assumed: a share of local NVMe drives"),
    "media_rate": (2.0, "assumed: a share of local NVMe drives"),
    "clip_mb": (1.1, "assumed: as 33 real clips have (docs/benchmarks_stage1_real_clips.md)"),
    "image_mb": (0.1, "assumed: photographs of some 500 pixels a side"),
}


class Hardware(Config):
    """What the run would have.

    Attributes:
        name: of the device, for people.
        bf16_tflops: peak of one device in bf16, dense.
        fp32_tflops: the same in fp32.
        mfu: share of the peak that the counted FLOPs reach.
        cores: CPU cores beside each device.
        shared: the device is these cores: they decode or compute, not both at a time.
        decode_rate: clip views that one core decodes per second.
        image_rate: images that one core decodes per second.
        store_rate: GB/s at which one device's share of the disks reads or writes the feature store.
        media_rate: GB/s at which one device's share of disks or network gives the media files.
        clip_mb: MB of a video file; a view reads all of it.
        image_mb: MB of an image file.
        sources: where each of these is from.
    """

    name: str
    bf16_tflops: float = Field(gt=0)
    fp32_tflops: float = Field(gt=0)
    mfu: float = Field(gt=0, le=1)
    cores: int = Field(ge=1)
    shared: bool = False
    decode_rate: float = Field(gt=0)
    image_rate: float = Field(gt=0)
    store_rate: float = Field(gt=0)
    media_rate: float = Field(gt=0)
    clip_mb: float = Field(gt=0)
    image_mb: float = Field(gt=0)
    sources: dict[str, str] = Field(default_factory=dict)

    def peak(self, precision: Precision) -> float:
        """Return the FLOP/s of one device."""
        return (self.bf16_tflops if precision == "bf16" else self.fp32_tflops) * 1e12

    def resolve(self, asked: AskedPrecision) -> Precision:
        """Return the precision that a run computes in on this device, decided as a run does it by a measured product."""
        if asked != "auto":
            return asked
        return "bf16" if self.bf16_tflops >= PAYS * self.fp32_tflops else "fp32"


def hardware_values(device: Mapping[str, Any], rates: Mapping[str, float], sources: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of :class:`Hardware`: a device, rates, and what is assumed where there is none.

    Args:
        device: from :func:`find_device`.
        rates: by name, of those that are assumed else.
        sources: where they are from; those without one were given.
    """
    assumed = {name: value for name, (value, _) in ASSUMED.items()}
    said = {name: source for name, (_, source) in ASSUMED.items()} | dict.fromkeys(rates, "given") | dict(sources)
    said |= device["sources"]
    return {**assumed, **device, **rates, "sources": said}


def find_device(text: str) -> dict[str, Any]:
    """Return name and peaks of a device: given by its name, by its peaks, or the one that is here, which is measured.

    Raises:
        ConfigError: none of these.
    """
    if text.lower() == HERE:
        return _device_here()
    if text.lower() in PEAK_TFLOPS:
        bf16, fp32 = PEAK_TFLOPS[text.lower()]
        return _device(text.lower(), bf16, fp32, "NVIDIA's data sheet, dense, without TF32")
    try:
        peaks = [float(part) for part in text.split("/")]
    except ValueError:
        peaks = []
    if not 1 <= len(peaks) <= 2 or not all(0 < peak < math.inf for peak in peaks):
        raise ConfigError(
            f"--device: expected {', '.join(PEAK_TFLOPS)}, {HERE}, or dense peaks in TFLOP/s as BF16/FP32 (one number: no "
            f"faster in bf16), found '{text}'"
        )
    return _device(f"{text} TFLOP/s", peaks[0], peaks[-1], "given")


def parse_rates(text: str) -> dict[str, float]:
    """Read rates written as ``name=value,name=value``.

    Raises:
        ConfigError: an unknown name, or no number.
    """
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in ASSUMED or not math.isfinite(number):
            raise ConfigError(f"--rates: expected name=value with a name of {', '.join(ASSUMED)}, found {part!r}")
        rates[name] = number
    return rates


def measured_here(
    device: Mapping[str, Any], decode_rate: Callable[[], float | None]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return rates of this machine, and where they are from.

    Args:
        device: from :func:`find_device`.
        decode_rate: measures the corpus' own files; None: there are none.
    """
    devices = 1 if device["shared"] else max(torch.cuda.device_count(), 1)
    rates: dict[str, float] = {"cores": max(cores() // devices, 1)}
    sources = {"cores": "counted on this machine"}
    if (rate := decode_rate()) is not None:
        rates["decode_rate"] = rate
        sources["decode_rate"] = "measured on this machine, on videos of the clean table"
    return rates, sources


def _device(name: str, bf16: float, fp32: float, source: str) -> dict[str, Any]:
    sources = dict.fromkeys(("bf16_tflops", "fp32_tflops"), source)
    return {"name": name, "bf16_tflops": bf16, "fp32_tflops": fp32, "sources": sources}


def _device_here() -> dict[str, Any]:
    device = resolve_device("auto")
    bf16, fp32 = (matmul_peak(device, dtype) / 1e12 for dtype in (torch.bfloat16, torch.float32))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    return {**_device(name, bf16, fp32, "measured on this machine"), "shared": device.type == "cpu"}
