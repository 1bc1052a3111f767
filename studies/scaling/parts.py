"""What a cluster's parts can do for a job, each alone: the ceilings below which the simulation stays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from studies.scaling.inputs import of
from umt_pipeline.commands.plan_hardware import Hardware, find_device, hardware_values
from umt_pipeline.commands.plan_phases import share_together
from umt_pipeline.commands.plan_stage1 import CostPlan, find_tower, make_plan, planned_header
from umt_pipeline.models.flops import TowerSize
from umt_pipeline.models.student import Student
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import config_loader, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config

ROOT = Path(__file__).resolve().parents[2]
ModelName = Literal["UMT-B/16", "UMT-L/16"]
MODELS: dict[ModelName, str] = {"UMT-B/16": "umt_b16", "UMT-L/16": "umt_l16"}
Mode = Literal["online", "int8", "pq", "fp16"]


@dataclass(frozen=True)
class Corpus:
    """What is trained on.

    Args:
        name: of it.
        clips: in it.
        epochs: that it is seen.
    """

    name: str
    clips: int
    epochs: int


# 10 million clips are seen as often in all as 10 times fewer: the authors' advice is a tenth of the epochs.
CORPORA = (Corpus("K400", 240_000, 200), Corpus("K710", 650_000, 200), Corpus("10 M clips", 10_000_000, 20))
VIEWS = 10
BATCH = 2048


@dataclass(frozen=True)
class Model:
    """What a clip costs, counted by `umt plan`.

    Args:
        student: FLOPs of a clip, forward and back.
        teacher: FLOPs of a view.
        frame_bytes: of a decoded view.
        row_bytes: of the store, by codec.
        parameters: of the student.
    """

    student: float
    teacher: float
    frame_bytes: float
    row_bytes: dict[str, float]
    parameters: int


@cache
def model(name: ModelName) -> Model:
    """Count what a clip costs in a recipe."""
    loader = config_loader(ROOT, MODELS[name])
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    stage1 = typed_parameters(loader, "stage1", Stage1Config)
    tower: TowerSize = find_tower(features, None)
    hardware = Hardware.model_validate(hardware_values(find_device("h100"), {}, {}))
    plan: CostPlan = make_plan(features, stage1, tower, BATCH, BATCH, hardware)
    header = planned_header(features, tower)
    with torch.device("meta"):
        student = Student(stage1.student.student_config(header))
    rows = BATCH * plan.views
    return Model(
        student=plan.student_flops,
        teacher=plan.teacher_flops,
        frame_bytes=header.frames * header.view.size**2 * 3,
        row_bytes={codec: size / rows for codec, size in plan.store_bytes_by_codec.items()},
        parameters=sum(parameter.numel() for parameter in student.parameters()),
    )


@dataclass(frozen=True)
class Job:
    """A training on a cluster.

    Args:
        name: of the model.
        mode: online, or cached with this codec.
        gpus: in all.
        clips: of the corpus, which decide where the store lies.
        decode: views/s of a core.
        workers: that decode beside a GPU.
    """

    name: ModelName
    mode: Mode
    gpus: int
    clips: int = 650_000
    decode: float = of("decode_small")
    workers: float = of("workers")

    @property
    def model(self) -> Model:
        """What a clip costs."""
        return model(self.name)

    @property
    def machines(self) -> float:
        """Whole ones, or a share of one."""
        return max(self.gpus / of("node"), 1.0)

    @property
    def flops(self) -> float:
        """Of a clip."""
        return self.model.student + (self.model.teacher if self.mode == "online" else 0.0)

    @property
    def read_bytes(self) -> float:
        """Of a clip, from files or store."""
        return of("clip_mb") * 1e6 if self.mode == "online" else self.model.row_bytes[self.mode]

    @property
    def size_bytes(self) -> float:
        """Of all that is read."""
        return self.clips * self.read_bytes * (1 if self.mode == "online" else VIEWS)

    @property
    def local(self) -> bool:
        """Whether each machine has a copy of all that it reads on its own disks."""
        return self.size_bytes <= of("disk_tb") * 1e12

    def read_rate(self) -> float:
        """Return the bytes/s that all machines together read."""
        share = min(self.gpus / of("node"), 1.0)
        own = self.machines * share * of("disk") * 1e9
        return own if self.local else min(self.machines * share * of("network"), of("shared")) * 1e9

    def gradient_s(self) -> float:
        """Return the seconds in which gradients in float32 go round between machines; inside of one they take none."""
        if self.machines <= 1:
            return 0.0
        return 2 * (1 - 1 / self.machines) * 4 * self.model.parameters / (of("network") * 1e9)

    def ceilings(self) -> dict[str, float]:
        """Return the clips/s that each part alone would allow; those that are not used are left out."""
        found = {"computing": self.gpus * of("peak") * 1e12 * of("mfu") / self.flops}
        if self.mode == "online":
            found["decoding"] = self.gpus * self.workers * self.decode
        else:
            # One thread beside each device reads.
            found["reading"] = self.gpus * of("store_core")
        found["own disks" if self.local else "shared disks"] = self.read_rate() / self.read_bytes
        if (seconds := self.gradient_s()) > 0:
            found["gradients"] = BATCH / seconds
        return found


def extraction_rate(job: Job) -> tuple[float, str]:
    """Return views/s of extraction on the job's devices, and what limits them; all cores decode, a clip once for its views."""
    parts = {
        "computing": job.gpus * of("peak") * 1e12 * of("mfu") / job.model.teacher,
        "decoding": job.gpus * of("cores") * job.decode / share_together(VIEWS),
        "writing": job.read_rate() / job.read_bytes,
    }
    slowest = min(parts, key=lambda part: parts[part])
    return parts[slowest], slowest
