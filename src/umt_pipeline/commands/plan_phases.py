"""A phase of a stage, extraction or training: what it does, what that takes, and which part of the machine it waits for.

FLOPs, bytes and counts are exact. Hours follow from the rates of :mod:`umt_pipeline.commands.plan_hardware`. Decoders, disks
and network work beside the device, which waits for the slowest of them. Where the device is the cores themselves, decoding and
computing take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from umt_pipeline.commands.plan_hardware import Hardware
from umt_pipeline.commands.plan_numbers import Explained, Number, amount, count, explained, hours, longest
from umt_pipeline.compute.names import AskedPrecision, Precision
from umt_pipeline.core.config import Config

# Memory that a process of training or extraction has for itself after its imports, and a decoder that has read 340 x 256
# pixels, measured with torch 2.14 on Linux (`Private_Dirty`); larger frames take more.
PROCESS_BYTES, WORKER_BYTES = 500e6, 40e6
# Batches that the loader reads ahead (`training.sampler.Loader`), and those that wait for the teacher (`video.decode`; more
# where a batch is of fewer files than there are decoders).
AHEAD = 2
# What a further view of a video costs that is decoded together with others (`video.decode`), as a share of one that is decoded
# alone: benchmarks/decode_rate.py found 0.2 of 33 real clips with ten views, and 0.08 of drawn files. Where key frames are
# close (`prepare`), one alone costs less, and a further one more.
FURTHER_VIEW = 0.2
# Of the store's index, which each rank holds.
INDEX_BYTES = 64

PhaseName = Literal["extraction", "training"]


@dataclass(frozen=True)
class Setup:
    """Who does a phase.

    Args:
        name: of the phase.
        devices: that work at the same time, each with a process of its own.
        asked: the precision that the parameters ask for.
        workers: decoding processes beside each device; None: one per core, 0: one thread.
    """

    name: PhaseName
    devices: int
    asked: AskedPrecision
    workers: int | None

    def decoders(self, cores: int) -> int:
        """Return how many cores decode beside each device."""
        return cores if self.workers is None else max(1, min(self.workers, cores))

    def in_turns(self, hardware: Hardware) -> float:
        """Return how much of the decoders' time the device cannot compute: 0 where they work beside it."""
        # Of a CPU all cores compute, and some of them decode.
        return self.decoders(hardware.cores) / hardware.cores if hardware.shared else 0.0


@dataclass(frozen=True)
class Work:
    """What is done in a phase by all devices together.

    Args:
        flops: computed.
        videos: views of videos decoded.
        images: views of images decoded.
        moved: bytes of the store written (extraction) or read (training).
        batch: samples that a process handles at once.
        sample_bytes: of one of them in the host's memory.
        rows: of the store's index that each process holds.
        together: views of a video that are decoded at once.
    """

    flops: Number
    videos: Number
    images: Number
    moved: Number
    batch: Number
    sample_bytes: Number
    rows: Number
    together: int = 1


class Phase(Explained):
    """One part of a mode.

    Attributes:
        name: ``extraction`` or ``training``.
        devices: that work at the same time.
        precision: that they compute in.
        flops: all that is computed.
        views_decoded: of videos and images.
        store_bytes: written or read.
        compute_device_hours: all devices' hours of computing.
        decode_device_hours: all devices' hours until their cores have decoded what the phase sees.
        media_device_hours: all devices' hours until disks or network have given the files that are decoded.
        store_device_hours: all devices' hours until the store is written or read.
        device_hours: what the phase costs.
        hours: what the clock on the wall shows.
        host_bytes: memory of the host that each device's process and its decoders take, without pages of files.
        waits_for: the part that takes the longest.
    """

    name: PhaseName
    devices: int
    precision: Precision
    flops: float
    views_decoded: float
    store_bytes: float
    compute_device_hours: float
    decode_device_hours: float
    media_device_hours: float
    store_device_hours: float
    device_hours: float
    hours: float
    host_bytes: float
    waits_for: str

    @classmethod
    def of(cls, setup: Setup, work: Work, hardware: Hardware) -> Phase:
        """Compute a phase."""
        precision = hardware.resolve(setup.asked)
        compute = _compute(work.flops.called("all FLOPs", "FLOP"), precision, hardware)
        decode = _decode(setup, work, hardware)
        media = _media(work, hardware)
        moved = _hours(work.moved.called("the store's bytes", "B") / amount(hardware.store_rate * 1e9, "B/s"))
        parts = {"compute": compute.value, "decode": decode.value, "files": media.value, "store": moved.value}
        if turns := setup.in_turns(hardware):
            parts["compute and decode in turns"] = parts.pop("compute") + turns * decode.value
        whole = longest(parts)
        values, how = explained(
            flops=work.flops,
            views_decoded=work.videos + work.images,
            store_bytes=work.moved,
            compute_device_hours=compute,
            decode_device_hours=decode,
            media_device_hours=media,
            store_device_hours=moved,
            device_hours=whole,
            hours=Number(whole.value, f"{hours(whole.value)} device-hours") / count(setup.devices, "devices"),
            host_bytes=_host(setup, work, hardware),
        )
        source = "teacher_features.nproc; null: as many as train" if setup.name == "extraction" else "train.nproc"
        return cls(
            name=setup.name,
            devices=setup.devices,
            precision=precision,
            waits_for=max(parts, key=lambda name: parts[name]),
            **values,
            how={"devices": source, **how},
        )


class Mode(Config):
    """One way to train."""

    phases: tuple[Phase, ...]

    @property
    def device_hours(self) -> float:
        """What the mode costs."""
        return sum(phase.device_hours for phase in self.phases)

    @property
    def hours(self) -> float:
        """What the clock on the wall shows, phase after phase."""
        return sum(phase.hours for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers under the names that they have here."""
        parts = " + ".join(phase.name for phase in self.phases)
        how = {"device_hours": parts, "hours": f"{parts}, one after the other"}
        phases = [phase.model_dump(mode="json") for phase in self.phases]
        return {"phases": phases, "device_hours": self.device_hours, "hours": self.hours, "how": how}


def _compute(flops: Number, precision: Precision, hardware: Hardware) -> Number:
    peak = Number(hardware.peak(precision), f"{hardware.peak(precision) / 1e12:.4g} TFLOP/s in {precision}")
    return _hours(flops / (peak * Number(hardware.mfu, f"MFU {hardware.mfu:.3g}")))


def _decode(setup: Setup, work: Work, hardware: Hardware) -> Number:
    cores = setup.decoders(hardware.cores)
    limit = "cores" if setup.workers is None or setup.workers > hardware.cores else "decoding processes"
    beside = count(cores, f"{limit} beside a device")
    alone = work.videos
    if work.together > 1:
        share = share_together(work.together)
        alone = alone * Number(share, f"{share:.2g} of a view's cost, for {work.together} of a file are decoded together")
    videos = alone / (count(hardware.decode_rate, "views/s") * beside)
    if not work.images.value:
        return _hours(videos)
    return _hours(videos + work.images / (count(hardware.image_rate, "images/s") * beside))


def share_together(views: int) -> float:
    """Return what each of the views of a video costs that are decoded together, as a share of one that is decoded alone."""
    return (1 + FURTHER_VIEW * (views - 1)) / views


def _media(work: Work, hardware: Hardware) -> Number:
    opened = work.videos if work.together == 1 else work.videos / count(work.together, "views of a file")
    size = opened * amount(hardware.clip_mb * 1e6, "B")
    if work.images.value:
        size = size + work.images * amount(hardware.image_mb * 1e6, "B")
    return _hours(size / amount(hardware.media_rate * 1e9, "B/s"))


def _host(setup: Setup, work: Work, hardware: Hardware) -> Number:
    workers = hardware.cores if setup.workers is None else setup.workers
    # Training's decoders are read ahead each for itself; extraction's share the batches that wait for the teacher. One more
    # is being made, and one is with the device.
    batches = AHEAD * (max(workers, 1) if setup.name == "training" else 1) + 2
    waiting = count(batches, "batches") * work.batch * work.sample_bytes
    # Training's decoders are forked from a process that has made the imports for them.
    main = count(2 if setup.name == "training" and workers else 1, "processes") * amount(PROCESS_BYTES, "B")
    processes = main + count(workers, "decoders") * amount(WORKER_BYTES, "B")
    return processes + waiting + work.rows * amount(INDEX_BYTES, "B")


def _hours(seconds: Number) -> Number:
    return Number(seconds.value / 3600, f"{seconds.how} / 3600 s", simple=False)
