"""What stage 1 will cost, computed before anything is spent: work, hours and bytes of both ways to the targets.

Online, every step decodes its clips and runs the teacher. Cached, extraction does both once for each of V recorded views
of a clip, and the epochs read the store. FLOPs and bytes are counted exactly (``models.flops``, ``features.manifest``);
hours follow from three rates that are assumptions until they are measured: how much of the device's peak is used, how fast
a core decodes, how fast the store is read and written.

Decoding and the store work beside the device, which waits for them where they are slower: a phase takes the longest of the
three times. Ingestion, evaluation and the training of a small teacher are not counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import open_clip
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.features.extract import FeatureConfig, make_header
from umt_pipeline.models.flops import TowerSize, student_macs, teacher_macs, training_flops
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, TRAIN_SMALL
from umt_pipeline.models.teacher_sources import FOLDER_PREFIX, HUB_PREFIX, OPEN_CLIP_PREFIX
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.small_teacher import SmallClipConfig
from umt_pipeline.training.stage1 import Stage1Config

# Dense bf16 peak in TFLOP/s, from NVIDIA's data sheets of the SXM modules.
PEAK_TFLOPS = {"a100": 312.0, "h100": 989.0, "h200": 989.0}
# Views recorded per clip in the cached mode where the parameters record none.
ASSUMED_VIEWS = 10
_SOURCE = "teacher_features.teacher.source"


class Hardware(Config):
    """What the run would have.

    Attributes:
        name: of the device, for people.
        peak_tflops: of one device, dense, in the precision of training.
        mfu: share of the peak that the counted FLOPs reach.
        cores: CPU cores beside each device, all of them decoding.
        decode_rate: clip views that one core decodes per second.
        image_rate: images that one core decodes per second.
        store_rate: GB/s that one device's share of the disks reads or writes.
    """

    name: str
    peak_tflops: float = Field(gt=0)
    mfu: float = Field(gt=0, le=1)
    cores: int = Field(ge=1)
    decode_rate: float = Field(gt=0)
    image_rate: float = Field(gt=0)
    store_rate: float = Field(gt=0)

    def compute_s(self, flops: float) -> float:
        """Return the seconds that one device computes."""
        return flops / (self.peak_tflops * 1e12 * self.mfu)

    def decode_s(self, views: float) -> float:
        """Return the seconds that the cores of one device decode."""
        return views / (self.decode_rate * self.cores)

    def decode_images_s(self, views: float) -> float:
        """Return the seconds that the cores of one device decode images."""
        return views / (self.image_rate * self.cores)

    def store_s(self, size: float) -> float:
        """Return the seconds in which one device's share of the disks moves so many bytes."""
        return size / (self.store_rate * 1e9)


class Phase(Config):
    """One part of a mode.

    Attributes:
        name: ``extraction`` or ``training``.
        devices: that work at the same time.
        compute_device_hours: all devices' hours of computing.
        decode_device_hours: all devices' hours until their cores have decoded what the phase sees.
        store_device_hours: all devices' hours until the store is written (extraction) or read (training).
    """

    name: Literal["extraction", "training"]
    devices: int
    compute_device_hours: float
    decode_device_hours: float
    store_device_hours: float

    @classmethod
    def of(
        cls,
        name: Literal["extraction", "training"],
        devices: int,
        hardware: Hardware,
        *,
        flops: float,
        decode_s: float,
        moved: float,
    ) -> Self:
        """Compute a phase.

        Args:
            name: of the phase.
            devices: that work at the same time.
            hardware: rates.
            flops: all that the devices compute.
            decode_s: seconds of decoding with one device's cores.
            moved: bytes that the store is read or written.
        """
        return cls(
            name=name,
            devices=devices,
            compute_device_hours=hardware.compute_s(flops) / 3600,
            decode_device_hours=decode_s / 3600,
            store_device_hours=hardware.store_s(moved) / 3600,
        )

    @property
    def device_hours(self) -> float:
        """What the phase costs."""
        return max(self.compute_device_hours, self.decode_device_hours, self.store_device_hours)

    @property
    def hours(self) -> float:
        """What the clock on the wall shows."""
        return self.device_hours / self.devices


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
        phases = [
            {**phase.model_dump(mode="json"), "device_hours": phase.device_hours, "hours": phase.hours} for phase in self.phases
        ]
        return {"phases": phases, "device_hours": self.device_hours, "hours": self.hours}


class StagePlan(Config):
    """What ``umt plan`` says of either stage.

    Attributes:
        views_assumed: the parameters record no views, their number is ours.
        epochs: passes over the samples, each without the last ones that fill no batch.
        steps: optimiser steps of one training.
        batch_size: samples per step.
        teacher: its source.
        targets: the mode that the parameters choose.
        hardware: rates.
        online: cost.
        cached: cost.
    """

    # Properties that JSON has too.
    computed: ClassVar[tuple[str, ...]] = ("store_bytes", "cheaper")

    views_assumed: bool
    epochs: float
    steps: int
    batch_size: int
    teacher: str
    targets: Literal["online", "cached"]
    hardware: Hardware
    online: Mode
    cached: Mode

    @property
    def cheaper(self) -> Literal["online", "cached"]:
        """The mode that costs fewer device-hours."""
        return "cached" if self.cached.device_hours < self.online.device_hours else "online"

    def to_json(self) -> dict[str, Any]:
        """Return all numbers under the names that they have here."""
        record = self.model_dump(mode="json") | {"online": self.online.to_json(), "cached": self.cached.to_json()}
        return record | {name: getattr(self, name) for name in self.computed}


class CostPlan(StagePlan):
    """What ``umt plan`` says of stage 1.

    Attributes:
        clips: an epoch trains on.
        recorded_clips: of all splits that extraction records.
        views: recorded per clip in the cached mode.
        teacher_flops: per clip view.
        student_flops: per clip, forward and back.
        bytes_per_clip_view: of the store's records, by array.
        break_even: the cached mode is the cheaper if there are more epochs per view than this; None: it never is.
    """

    clips: int
    recorded_clips: int
    views: int
    teacher_flops: int
    student_flops: int
    bytes_per_clip_view: dict[str, int]
    break_even: float | None

    @property
    def store_bytes(self) -> int:
        """Size of the cached mode's store."""
        return self.recorded_clips * self.views * sum(self.bytes_per_clip_view.values())


def find_device(text: str) -> tuple[str, float]:
    """Return name and peak of a device that is given by name or by its TFLOP/s.

    Raises:
        ConfigError: neither.
    """
    if text.lower() in PEAK_TFLOPS:
        return text.lower(), PEAK_TFLOPS[text.lower()]
    try:
        peak = float(text)
    except ValueError:
        peak = math.nan
    if not 0 < peak < math.inf:
        raise ConfigError(
            f"--device: expected {', '.join(PEAK_TFLOPS)} or a peak in TFLOP/s (dense, in bf16), found '{text}'"
        )
    return f"{peak:g} TFLOP/s", peak


def find_tower(features: FeatureConfig, small: SmallClipConfig | None) -> TowerSize:
    """Return the sizes of the teacher that the parameters name; no weights are read.

    Raises:
        ConfigError: the source names none whose cost is known.
    """
    source = features.teacher.source
    if source == TRAIN_SMALL and small is not None:
        return TowerSize.of_config(small.model_config_for(features.view.size, features.patch_size, small.vocab_size))
    model_config = _model_config(source) if source.startswith(OPEN_CLIP_PREFIX) else None
    if model_config is None:
        raise ConfigError(
            f"{_SOURCE}: expected {TRAIN_SMALL!r} (with teacher_features.train_small) or "
            f"'{OPEN_CLIP_PREFIX}<model>/<tag or file>' with a model that open_clip knows, found {source!r}"
        )
    try:
        return TowerSize.of_config(model_config)
    except ConfigError as error:
        raise ConfigError(f"{_SOURCE} {source!r}: {error}") from error
    except (TypeError, KeyError) as error:  # a folder's file may hold anything
        raise ConfigError(f"{_SOURCE} {source!r}: no description of a model of open_clip: {error!r}") from error


def _model_config(source: str) -> Mapping[str, Any] | None:
    """Return open_clip's description of a model of open_clip; None: it knows none of this name."""
    name = source.removeprefix(OPEN_CLIP_PREFIX)
    if name.startswith(HUB_PREFIX):
        raise ConfigError(
            f"{_SOURCE} {source!r}: the sizes of a hub model are not known before it is fetched. Plan with "
            f"'{OPEN_CLIP_PREFIX}<model>/<tag>' of the same sizes, or fetch the model and name its folder, "
            f"'{OPEN_CLIP_PREFIX}{FOLDER_PREFIX}<folder>'"
        )
    if not name.startswith(FOLDER_PREFIX):
        known: dict[str, Any] | None = open_clip.get_model_config(name.partition("/")[0])
        return known
    file = Path(name.removeprefix(FOLDER_PREFIX)) / CLIP_CONFIG_FILE
    try:
        described: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{_SOURCE} {source!r}: expected a folder with {CLIP_CONFIG_FILE}, JSON with the key 'model_cfg'; {file} cannot be "
            f"read: {error!r}"
        ) from error
    return described


def make_plan(
    features: FeatureConfig,
    stage1: Stage1Config,
    tower: TowerSize,
    clips: int,
    recorded_clips: int,
    hardware: Hardware,
) -> CostPlan:
    """Compute the cost of stage 1 with these parameters.

    Args:
        features: what is recorded, or would be.
        stage1: student and loop; ``train.nproc`` devices train, one extracts.
        tower: sizes of the teacher's image tower.
        clips: number of training clips.
        recorded_clips: number of clips of the splits to record.
        hardware: rates.

    Raises:
        ConfigError: the parameters do not fit these clips.
        TrainingError: there are no clips.
    """
    views = features.views or ASSUMED_VIEWS
    header = make_header(features.model_copy(update={"views": views}), tower.output_dim, weights_sha256="")
    student = student_macs(stage1.student.student_config(header), header.frames * header.visible_per_frame)
    teacher = teacher_macs(tower, header.frames, header.grid, header.layers, header.visible_per_frame).total
    sampler = Sampler(clips, stage1.train.batch_size, seed=0)
    steps = make_schedule(stage1.train, sampler.steps_per_epoch, sampler.batch_size).total_steps
    passes, recorded = steps * sampler.batch_size, recorded_clips * views
    devices = stage1.train.nproc

    sizes = header.row_bytes()
    written = sum(sizes.values())
    read = written - sizes["attention"]  # which training leaves unread
    decode_s = hardware.decode_s
    online = Phase.of(
        "training", devices, hardware, flops=passes * training_flops(student, teacher), decode_s=decode_s(passes), moved=0
    )
    extraction = Phase.of(
        "extraction", 1, hardware, flops=recorded * 2 * teacher, decode_s=decode_s(recorded), moved=recorded * written
    )
    cached = Phase.of(
        "training", devices, hardware, flops=passes * training_flops(student), decode_s=0, moved=passes * read
    )
    # So much an epoch saves, which must earn the extraction.
    epochs = steps / sampler.steps_per_epoch
    saved_per_epoch = (online.device_hours - cached.device_hours) / epochs
    return CostPlan(
        clips=clips,
        recorded_clips=recorded_clips,
        views=views,
        views_assumed=features.views == 0,
        epochs=epochs,
        steps=steps,
        batch_size=sampler.batch_size,
        teacher=features.teacher.source,
        teacher_flops=2 * teacher,
        student_flops=training_flops(student),
        bytes_per_clip_view=sizes,
        targets=stage1.targets,
        hardware=hardware,
        online=Mode(phases=(online,)),
        cached=Mode(phases=(extraction, cached)),
        break_even=extraction.device_hours / views / saved_per_epoch if saved_per_epoch > 0 else None,
    )
