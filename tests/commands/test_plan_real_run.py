"""`umt plan` against a real run: what it says of parts that were measured, and what the whole then took, within a quarter.

Time is that of the processor, with one thread, so other work on the machine does not count; whole and parts are measured
in turns in one process, and medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
from open_clip.model import CLIP

from umt_pipeline.commands.plan_hardware import Hardware, hardware_values
from umt_pipeline.commands.plan_stage1 import CostPlan, make_plan
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.features.extract import FeatureConfig, plan_extraction
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.runner import extract
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.models.flops import TowerSize
from umt_pipeline.models.student import Student
from umt_pipeline.models.teacher import TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.training.loop import train
from umt_pipeline.training.stage1 import Stage1Config, Stage1Task, StudentSize
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.decode_rate import decode_rate
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig

TEACHER = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 112, "layers": 6, "width": 384, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
FEATURES = FeatureConfig(
    dataset_id="plan", teacher=TeacherConfig(layers=3), view=ViewConfig(frames=4, size=112), views=1, codec="int8",
    batch_size=8, workers=0, nproc=1, precision="fp32",
)  # fmt: skip
TRAIN = TrainConfig(
    steps=1000, batch_size=8, lr=1e-4, precision="fp32", device="cpu", log_every=1, checkpoint_every=1000
)  # fmt: skip
STAGE1 = Stage1Config(student=StudentSize(dim=384, depth=8, heads=6), train=TRAIN)
CLIPS, FILES, STEPS, ROUNDS = 16, 4, 4, 3
WITHIN = 0.25


class EnoughError(Exception):
    """Training has made the steps that are timed; it would go on, so that its loader is as busy to the end."""


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def draw_file(path: Path, seed: int) -> None:
    """Write 60 frames of 340 x 256 pixels that move, as large clips do: decoding must be worth counting."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(canvas[number : number + 256, :340]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@dataclass
class World:
    """A corpus, a teacher and a store in one folder."""

    folder: Path

    def __post_init__(self) -> None:
        rows = []
        for number in range(FILES):
            draw_file(self.folder / f"{number}.mp4", number)
            info = asdict(probe(self.folder / f"{number}.mp4", VideoRules()))
            rows += [{**info, "path": f"{number}.mp4", "video_id": f"{number}-{copy}"} for copy in range(CLIPS // FILES)]
        self.videos = pd.DataFrame(rows).assign(split="train", corpus="plan")
        write_mapped(self.folder / "clips.arrow", self.videos)
        clip = CLIP(**TEACHER)
        clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
        (self.folder / "teacher").mkdir()
        save_open_clip(clip, TEACHER, None, self.folder / "teacher")
        self.names = (f"{number}" for number in count())
        self.report = self.extract("store")

    @cached_property
    def teacher(self) -> Any:
        return load_teacher(self.folder / "teacher", FEATURES.teacher, FEATURES.grid)

    def extract(self, name: str = "") -> dict[str, Any]:
        plan = plan_extraction(FEATURES, self.teacher, self.videos)
        return extract(FEATURES, self.teacher, plan, self.folder, self.folder / (name or f"store{next(self.names)}"))

    def task(self, targets: Targets) -> Stage1Task:
        source = TargetSource(
            store=self.folder / "store", targets=targets, teacher=self.folder / "teacher",
            clips=self.folder / "clips.arrow", media_root=self.folder,
        )  # fmt: skip
        student = STAGE1.student.student_config(read_manifest(self.folder / "store"))
        return Stage1Task(Student(student), source.open())

    def step_seconds(self, targets: Targets) -> float:
        """Return the processor's seconds of one step; the first one is warm-up."""
        clock: list[float] = []

        def on_row(row: Row) -> None:
            clock.append(time.process_time())
            if len(clock) > STEPS:
                raise EnoughError

        with suppress(EnoughError):
            train(self.task(targets), TRAIN, seed=0, run_dir=self.folder / f"run{next(self.names)}", on_row=on_row)
        return (clock[-1] - clock[0]) / STEPS

    def plan(self, flop_rate: float, decoding: float) -> CostPlan:
        """Plan for a core that computes and decodes so fast, and disks that nobody waits for."""
        core = {"name": "core", "bf16_tflops": flop_rate / 1e12, "fp32_tflops": flop_rate / 1e12, "sources": {}, "shared": True}
        rates = {"mfu": 1.0, "cores": 1, "decode_rate": decoding, "store_rate": 1e3, "media_rate": 1e3}
        hardware = Hardware.model_validate(hardware_values(core, rates, {}))
        return make_plan(FEATURES, STAGE1, TowerSize.of_config(TEACHER), CLIPS, CLIPS, hardware)


@pytest.mark.slow
def test_the_plan_of_measured_parts_is_what_the_whole_takes(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"extraction": [], "online": []}
    with one_thread():
        world = World(tmp_path)
        counted = world.plan(1e12, 1.0)
        for _ in range(ROUNDS):
            # Two parts alone: decoding, and the student's steps from a store. The wholes have the teacher too.
            decoding = decode_rate(world.videos, tmp_path, FEATURES.view, CLIPS)
            plan = world.plan(counted.student_flops * TRAIN.batch_size / world.step_seconds("cached"), decoding)
            found["extraction"].append(plan.cached.phases[0].hours * 3600 / seconds(world.extract))
            found["online"].append(plan.online.hours * 3600 / plan.steps / world.step_seconds("online"))
    assert plan.online.phases[0].decode_device_hours > 0.1 * plan.online.device_hours, "decoding is worth counting"
    ratios = {name: round(statistics.median(values), 3) for name, values in found.items()}
    assert all(1 - WITHIN < ratio < 1 + WITHIN for ratio in ratios.values()), (ratios, found)


def test_work_and_bytes_are_exactly_those_of_the_run(tmp_path: Path) -> None:
    with one_thread():
        world = World(tmp_path)
    plan = world.plan(1e12, 1.0)
    seen = plan.steps * plan.batch_size
    online, (extraction, cached) = plan.online.phases[0], plan.cached.phases
    assert world.task("online").flops_per_clip({}) == plan.student_flops + plan.teacher_flops == online.flops / seen
    assert world.task("cached").flops_per_clip({}) == plan.student_flops == cached.flops / seen
    assert (extraction.views_decoded, extraction.flops) == (CLIPS, CLIPS * plan.teacher_flops)
    assert plan.store_bytes == extraction.store_bytes == world.report["store_bytes"]
    files = sum(path.stat().st_size for name in plan.bytes_per_clip_view for path in (tmp_path / "store").rglob(f"{name}.*"))
    assert plan.store_bytes <= files < 1.01 * plan.store_bytes, "arrays have small headers"
    assert plan.bytes_per_clip_view == {
        name: size for name, size in world.report["bytes_per_clip_view"].items() if name != "total"
    }
