"""What stage 1 will cost, computed before anything is spent: work, hours and bytes of both ways to the targets.

Online, every step decodes its clips and runs the teacher. Cached, extraction decodes a clip once for its V recorded views,
runs the teacher on each of them, and the epochs read the store. Work is counted exactly (``models.flops``,
``features.manifest``) and turned into hours by :mod:`umt_pipeline.commands.plan_phases`. Every number has a line that says how
it came about.

Ingestion, evaluation, the training of a small teacher, what a codec learns, and the rows that are computed again before cached
training (``stage1.verify``) are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import open_clip

from umt_pipeline.commands.plan_hardware import Hardware
from umt_pipeline.commands.plan_numbers import NOTHING, Explained, Number, count, explained
from umt_pipeline.commands.plan_phases import Mode, Phase, Setup, Work
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.demo_world import teacher as demo_teacher
from umt_pipeline.features.codecs import Fp16, Int8, Pq
from umt_pipeline.features.extract import FeatureConfig, make_header
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.models.flops import TowerSize, student_macs, teacher_macs, training_flops
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, TRAIN_SMALL
from umt_pipeline.models.teacher_sources import FOLDER_PREFIX, HUB_PREFIX, OPEN_CLIP_PREFIX
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.small_teacher import SmallClipConfig
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.task import TrainConfig

# Codecs with their defaults, whose stores are compared.
_CODECS = (Fp16(), Int8(), Pq())
# Views recorded per clip in the cached mode where the parameters record none.
ASSUMED_VIEWS = 10
_SOURCE = "teacher_features.teacher.source"


class StagePlan(Explained):
    """What ``umt plan`` says of either stage.

    Attributes:
        views_assumed: the parameters record no views, their number is ours.
        epochs: passes over the samples, each without the last ones that fill no batch.
        steps: optimiser steps of one training.
        batch_size: samples per step.
        teacher: its source.
        targets: the mode that the parameters choose.
        store_bytes: size of the cached mode's stores.
        store_bytes_by_codec: the same by codec, each with its defaults.
        hardware: rates.
        online: cost.
        cached: cost.
    """

    # Properties that JSON has too.
    computed: ClassVar[tuple[str, ...]] = ("cheaper",)

    views_assumed: bool
    epochs: float
    steps: int
    batch_size: int
    teacher: str
    targets: Literal["online", "cached"]
    store_bytes: int
    store_bytes_by_codec: dict[str, int]
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


def find_tower(features: FeatureConfig, small: SmallClipConfig | None) -> TowerSize:
    """Return the sizes of the teacher that the parameters name; no weights are read.

    Raises:
        ConfigError: the source names none whose cost is known.
    """
    source = features.teacher.source
    if source == TRAIN_SMALL and small is not None:
        return TowerSize.of_config(small.model_config_for(features.view.size, features.patch_size, small.vocab_size))
    if source == demo_teacher.SOURCE:
        model_config = _model_config(f"{OPEN_CLIP_PREFIX}{FOLDER_PREFIX}{demo_teacher.FOLDER}")
    else:
        model_config = _model_config(source) if source.startswith(OPEN_CLIP_PREFIX) else None
    if model_config is None:
        raise ConfigError(
            f"{_SOURCE}: expected {TRAIN_SMALL!r} (with teacher_features.train_small), {demo_teacher.SOURCE!r} or "
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


def codec_headers(header: StoreHeader) -> dict[str, StoreHeader]:
    """Return the header as it were with each codec's defaults, and as it is for its own codec."""
    headers: dict[str, StoreHeader] = {}
    for codec in _CODECS:
        own = header.codec if codec.kind == header.codec.kind else codec.for_width(header.target_dim)
        headers[codec.kind] = header.model_copy(update={"codec": own})
    return headers


def planned_header(features: FeatureConfig, tower: TowerSize) -> StoreHeader:
    """Return the header of the store that would be recorded, with views where the parameters record none."""
    views = features.views or ASSUMED_VIEWS
    return make_header(features.model_copy(update={"views": views}), tower.output_dim, weights_sha256="")


def both_modes(
    features: FeatureConfig, train: TrainConfig, hardware: Hardware, online: Work, extraction: Work, cached: Work
) -> tuple[Mode, Mode]:
    """Return training with online targets, and extraction with training on what was extracted.

    Where ``teacher_features.nproc`` is null, all devices of the machine that trains extract.
    """
    training = Setup("training", train.nproc, train.precision, train.workers)
    devices = features.nproc or (1 if hardware.shared else train.nproc)
    extracting = Setup("extraction", devices, features.precision, features.workers)
    return (
        Mode(phases=(Phase.of(training, online, hardware),)),
        Mode(phases=(Phase.of(extracting, extraction, hardware), Phase.of(training, cached, hardware))),
    )


def micro_batch(train: TrainConfig, batch_size: int) -> Number:
    """Return how many samples a process reads at once."""
    return count(-(-batch_size // (train.nproc * train.accumulate)), "samples")


def frame_bytes(header: StoreHeader) -> Number:
    """Return the bytes of a decoded view."""
    return Number(header.frames * header.view.size**2 * 3, f"{header.frames} frames x {header.view.size}^2 pixels x 3 B")


def teacher_cost(tower: TowerSize, header: StoreHeader) -> Number:
    """Return the FLOPs of the teacher on one view."""
    macs = teacher_macs(tower, header.frames, header.grid, header.layers, header.visible_per_frame)
    parts = f"patches {macs.patch_embedding:,} + blocks {macs.blocks:,} + attention row {macs.attention_row:,}"
    return Number(2 * macs.total, f"2 FLOP x ({parts} + projection {macs.projection:,}) MACs")


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
        features: what is recorded, or would be, and who does it.
        stage1: student and loop.
        tower: sizes of the teacher's image tower.
        clips: number of training clips.
        recorded_clips: number of clips of the splits to record.
        hardware: rates.

    Raises:
        ConfigError: the parameters do not fit these clips.
        TrainingError: there are no clips.
    """
    header = planned_header(features, tower)
    sampler = Sampler(clips, stage1.train.batch_size, seed=0)
    steps = make_schedule(stage1.train, sampler.steps_per_epoch, sampler.batch_size).total_steps
    macs = student_macs(stage1.student.student_config(header), header.frames * header.visible_per_frame)
    teacher = teacher_cost(tower, header)
    student = Number(training_flops(macs), f"2 FLOP x 3 (back counted as twice forward) x {macs:,} MACs")
    sizes = header.row_bytes()
    row = count(sum(sizes.values()), "B")
    recorded = count(recorded_clips, "clips") * count(header.views, "views")
    stored = recorded * row
    by_codec = {kind: recorded * count(sum(one.row_bytes().values()), "B") for kind, one in codec_headers(header).items()}
    work = _Work(
        steps=count(steps, "steps") * count(sampler.batch_size, "clips"),
        recorded=recorded,
        student=student.called("student", "FLOP"),
        teacher=teacher.called("teacher", "FLOP"),
        written=stored,
        # Training leaves the teacher's attention unread.
        read=count(row.value - sizes["attention"], "B read of a row"),
    )
    online, cached = work.modes(features, stage1, header, sampler.batch_size, hardware)
    # So much an epoch saves, which must earn the extraction.
    epochs = steps / sampler.steps_per_epoch
    saved = (online.device_hours - cached.phases[-1].device_hours) / epochs
    values, how = explained(
        teacher_flops=teacher, student_flops=student, store_bytes=stored,
        epochs=count(steps, "steps") / count(sampler.steps_per_epoch, "steps per epoch"),
    )  # fmt: skip
    arrays = {name: f"{spec.dtype} {list(spec.shape)}" for name, spec in header.arrays().items()}
    return CostPlan(
        clips=clips,
        recorded_clips=recorded_clips,
        views=header.views,
        views_assumed=features.views == 0,
        steps=steps,
        batch_size=sampler.batch_size,
        teacher=features.teacher.source,
        bytes_per_clip_view=sizes,
        store_bytes_by_codec={kind: round(size.value) for kind, size in by_codec.items()},
        targets=stage1.targets,
        hardware=hardware,
        online=online,
        cached=cached,
        break_even=cached.phases[0].device_hours / header.views / saved if saved > 0 else None,
        **values,  # type: ignore[arg-type]
        how={
            **how,
            "clips": "training clips of the clean table, or --clips",
            "recorded_clips": "clips of teacher_features.splits in the clean table, or --clips",
            "views": "assumed, since teacher_features.views is 0" if features.views == 0 else "teacher_features.views",
            "steps": "stage1.train, on whole batches",
            "batch_size": "stage1.train.batch_size, no more than there are clips",
            "break_even": "device-hours of extraction per view / device-hours that a cached epoch saves",
            **{f"bytes_per_clip_view.{name}": text for name, text in arrays.items()},
            **{f"store_bytes_by_codec.{kind}": size.how for kind, size in by_codec.items()},
        },
    )


@dataclass(frozen=True)
class _Work:
    """What stage 1 does.

    Args:
        steps: clips that training sees.
        recorded: views that extraction records.
        student: FLOPs of a clip.
        teacher: FLOPs of a view.
        written: bytes of the store.
        read: bytes of a row that training reads.
    """

    steps: Number
    recorded: Number
    student: Number
    teacher: Number
    written: Number
    read: Number

    def modes(
        self, features: FeatureConfig, stage1: Stage1Config, header: StoreHeader, batch_size: int, hardware: Hardware
    ) -> tuple[Mode, Mode]:
        """Return the cost of training online, and of extraction and training from the store."""
        nothing, batch = NOTHING, micro_batch(stage1.train, batch_size)
        rows = count(self.recorded.value, "rows")
        online = Work(
            flops=self.steps * (self.student + self.teacher), videos=self.steps, images=nothing, moved=nothing, batch=batch,
            sample_bytes=frame_bytes(header), rows=nothing,
        )  # fmt: skip
        extraction = Work(
            flops=self.recorded * self.teacher, videos=self.recorded, images=nothing, moved=self.written,
            batch=count(features.batch_size, "views"), sample_bytes=frame_bytes(header), rows=rows,
            together=min(header.views, features.batch_size),
        )  # fmt: skip
        cached = Work(
            flops=self.steps * self.student, videos=nothing, images=nothing, moved=self.steps * self.read, batch=batch,
            sample_bytes=self.read, rows=rows,
        )  # fmt: skip
        return both_modes(features, stage1.train, hardware, online, extraction, cached)
