"""What do stored targets cost, and what do they lose? Stage 1 of the demo with each codec, with 1, 2, 4 and 8 recorded views
per clip, and online, where every epoch sees a new view.

    .venv/bin/python benchmarks/codec_study.py
    .venv/bin/python benchmarks/codec_study.py --seeds 0 1 2
    .venv/bin/python benchmarks/codec_study.py --epochs 1 --clips 128 --output codec_study_small.md    # does it work at all?

Reads what `make demo` left: tables, videos, the teacher; and the parameters in `conf/base`, all of which stay as they are but
codec and views. Stores and students go to a temporary folder. Writes `docs/codec_study.md`.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import yaml

from umt_pipeline.core.processes import cores
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.evaluation.encoders import VideoEncoder, clip_loader
from umt_pipeline.evaluation.feature_cache import Features, encode_group, missing_groups, plan_features, read_features
from umt_pipeline.evaluation.params import EvaluationParams
from umt_pipeline.evaluation.probes import Labelled, linear_probe
from umt_pipeline.features.extract import FeatureConfig, plan_extraction
from umt_pipeline.features.index import column_of
from umt_pipeline.features.manifest import StoreHeader, read_manifest
from umt_pipeline.features.reuse import begin_store
from umt_pipeline.features.runner import extract
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.writer import UnfinishedStore
from umt_pipeline.losses import alignment_loss
from umt_pipeline.models.folders import load_weights
from umt_pipeline.models.student import Student, untrained_student
from umt_pipeline.models.teacher import load_teacher
from umt_pipeline.training.launch import run
from umt_pipeline.training.stage1 import Stage1Config, Stage1Spec
from umt_pipeline.video.pixels import normalise_patches
from umt_pipeline.video.views import counter_hash

ROOT = Path(__file__).resolve().parents[1]
TASK = "shape"
CODECS = ("fp16", "int8", "pq")
VIEWS = (1, 2, 4, 8)
# Views at which the codecs are compared; the views are compared with the codec of conf/base.
CODEC_VIEWS = 4


@dataclass(frozen=True)
class World:
    """The demo's data and parameters, and a folder for stores and students."""

    features: FeatureConfig
    stage1: Stage1Config
    evaluation: EvaluationParams
    videos: pd.DataFrame
    labels: dict[str, str]
    media: Path
    teacher: Path
    work: Path


@dataclass(frozen=True)
class Arm:
    """One row of the table: where targets come from. ``report`` is the extraction's, None online."""

    name: str
    store: Path
    targets: Targets
    views: int | None
    report: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """What one training run gave."""

    training_loss: float
    held_out_loss: float
    accuracy: float
    seconds: float


def load_world(data: Path, work: Path, epochs: float | None, clips: int | None) -> World:
    """Read the demo's tables and parameters; with ``clips``, keep so many training clips."""

    def parameters(name: str) -> dict[str, Any]:
        return dict(yaml.safe_load((ROOT / f"conf/base/parameters_{name}.yml").read_text(encoding="utf-8"))[name])

    features = parameters("teacher_features")
    features.pop("train_small")
    stage1 = parameters("stage1")
    if epochs is not None:
        stage1["train"] |= {"epochs": epochs, "warmup": min(stage1["train"]["warmup"], epochs / 10)}
    videos = pd.read_parquet(data / "03_primary/videos.parquet")
    videos = videos[videos["media"] == "video"]
    if clips is not None:
        train = sorted(videos.loc[videos["split"] == "train", "video_id"], key=lambda clip: counter_hash("study", clip))
        videos = videos[(videos["split"] != "train") | videos["video_id"].isin(train[:clips])]
    write_mapped(work / "videos.arrow", videos)
    labels = pd.read_parquet(data / "03_primary/labels.parquet")
    shapes = labels[labels["task"] == TASK]
    return World(
        features=FeatureConfig.model_validate(features),
        stage1=Stage1Config.model_validate(stage1),
        evaluation=EvaluationParams.model_validate(parameters("evaluation")),
        videos=videos.reset_index(drop=True),
        labels=dict(zip(shapes["video_id"], shapes["label"], strict=True)),
        media=data / "01_raw/demo/videos",
        teacher=data / "06_models/teacher",
        work=work,
    )


def make_store(world: World, name: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """Extract a store with the demo's parameters and these changes."""
    config = FeatureConfig.model_validate({**world.features.model_dump(), **changes})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(world.teacher, config.teacher, config.grid).to(device)
    folder = world.work / "stores" / name
    print(f"extracting {name}", flush=True)
    return folder, extract(config, teacher, plan_extraction(config, teacher, world.videos), world.media, folder)


def first_views(store: FeatureStore, views: int, folder: Path) -> Path:
    """Copy the first views of each clip: a view depends on its number alone, so this is what extraction would write."""
    facts = {name: getattr(store.manifest, name) for name in StoreHeader.model_fields}
    header = StoreHeader.model_validate({**facts, "views": views})
    rows = np.flatnonzero(column_of(store.index, "view_number").to_numpy() < views)
    plan = store.index.take(pa.array(rows))
    begin_store(folder, header, plan, [store.folder])
    UnfinishedStore.begin(folder, header, plan, pa.nulls(len(rows), pa.string())).finish()
    return folder


def make_arms(world: World) -> list[Arm]:
    """Extract each codec once, with as many views as any row of the table needs of it."""
    default = world.features.codec.kind
    arms: list[Arm] = []
    for codec in CODECS:
        most = max(VIEWS) if codec == default else CODEC_VIEWS
        folder, report = make_store(world, f"{codec}_{most}", codec=codec, views=most)
        for views in VIEWS if codec == default else (CODEC_VIEWS,):
            name = f"{codec}, {views} view{'s' if views > 1 else ''}"
            path = folder
            if views < most:
                path = first_views(FeatureStore(folder), views, world.work / "stores" / f"{codec}_{views}")
            arms.append(Arm(name, path, "cached", views, report))
    return [*arms, Arm("online, a new view each epoch", arms[0].store, "online", None, None)]


def source_of(world: World, store: Path, targets: Targets, split: str = "train") -> TargetSource:
    """Return views and targets of the clips of a split."""
    clips = world.work / "videos.arrow"
    return TargetSource(store=store, targets=targets, teacher=world.teacher, clips=clips, media_root=world.media, split=split)


def train_arm(world: World, arm: Arm, seed: int) -> tuple[Student, float, float]:
    """Train a student; returns it with its last training loss and the seconds it took."""
    config = world.stage1.student.student_config(read_manifest(arm.store))
    source = source_of(world, arm.store, arm.targets)
    spec = Stage1Spec(student=config, source=source, teacher="the demo's", train=world.stage1.train, seed=seed)
    print(f"training: {arm.name}, seed {seed}", flush=True)
    finished = run(spec, world.work / "runs" / f"{arm.name} {seed}")
    student = Student(config).eval()
    load_weights(student, finished.weights(), source=arm.name)
    return student, float(finished.result.history[-1]["loss"]), finished.result.seconds


@torch.inference_mode()
def held_out_loss(student: Student, source: TargetSource) -> float:
    """Return the alignment loss on clips of the validation split against the teacher's own targets, for all arms the same."""
    provider = source.open()
    dataset = provider.dataset()
    total = 0.0
    for start in range(0, len(dataset), 64):
        indices = np.arange(start, min(start + 64, len(dataset)))
        batch = dataset.batch(indices, np.zeros_like(indices))
        target = provider.targets(batch)
        loss = alignment_loss(student(normalise_patches(target.patches_BVP), target.visible_BV), target.targets_KBVC)
        total += float(loss) * len(indices)
    return total / len(dataset)


def probe(world: World, students: dict[str, Student]) -> dict[str, float]:
    """Return the linear probe's test accuracy on shape of each student, in per cent, as the evaluation measures it."""
    params = world.evaluation

    def clips(split: str) -> list[str]:
        rows = world.videos[world.videos["split"] == split]
        return sorted(clip for clip in rows["video_id"] if clip in world.labels)

    train = sorted(clips(params.train_split), key=lambda clip: counter_hash("probe", clip))[: params.max_train_clips]
    parts = [train, clips(params.validation_split), clips(params.test_split)]
    encoders = [VideoEncoder(name, student.encoder) for name, student in students.items()]
    load = clip_loader(world.videos, world.media)
    asked = [clip for part in parts for clip in part]
    with tempfile.TemporaryDirectory(prefix="umt-benchmark-") as folder:
        plan = plan_features(
            Path(folder), asked, encoders, dict.fromkeys(asked, ""),
            batch_size=params.batch_size, threads=params.workers or cores(), title="clips to probe with",
        )  # fmt: skip
        for group in missing_groups(plan, 1):
            encode_group(encoders, load, group)
        features = read_features(plan)
        return {
            name: linear_probe(*(labelled(features, name, part, world.labels) for part in parts), params.linear).accuracy
            for name in students
        }


def labelled(features: Features, name: str, clips: list[str], labels: dict[str, str]) -> Labelled[np.ndarray]:
    """Put one encoder's features of these clips beside their labels."""
    places, rows = features.select(clips)
    kept = np.array([labels[clips[place]] for place in places], dtype=str)
    return Labelled(features.arrays[name][rows].float().numpy(), kept, failures=len(clips) - len(rows))


def study(world: World, seeds: list[int]) -> tuple[list[Arm], dict[str, list[Outcome]], float]:
    """Train every arm with every seed; returns arms, outcomes by arm, and the untrained student's accuracy."""
    arms = make_arms(world)
    store, _ = make_store(world, "held_out", codec="fp16", views=1, splits=("validation",))
    held_out = source_of(world, store, "cached", "validation")
    trained: dict[tuple[str, int], tuple[Student, float, float]] = {}
    for seed in seeds:
        for arm in arms:
            trained[arm.name, seed] = train_arm(world, arm, seed)
    students = {f"{name} {seed}": student for (name, seed), (student, _, _) in trained.items()}
    first = next(iter(students.values()))
    accuracy = probe(world, {**students, "untrained": untrained_student(first.config, seeds[0])})
    outcomes: dict[str, list[Outcome]] = {}
    for (name, seed), (student, loss, seconds) in trained.items():
        outcome = Outcome(loss, held_out_loss(student, held_out), accuracy[f"{name} {seed}"], seconds)
        outcomes.setdefault(name, []).append(outcome)
    return arms, outcomes, accuracy["untrained"]


def table(arms: list[Arm], outcomes: dict[str, list[Outcome]]) -> str:
    """Return the Markdown table: means over seeds, and the spread of the accuracy (largest minus smallest)."""
    lines = [
        "| targets | bytes per clip-view: targets | in all | bytes per clip | cosine error, mean | max | last training loss | "
        "held-out loss | probe, shape, % | spread | seconds of training |",
        "| --- |" + " ---: |" * 10,
    ]
    for arm in arms:
        cells = ["-"] * 5
        if arm.report is not None:
            assert arm.views is not None
            sizes, error = arm.report["bytes_per_clip_view"], arm.report["codec_cosine_error"]
            targets = sizes["targets"] + sizes.get("scales", 0)
            cells = [f"{targets:,}", f"{sizes['total']:,}", f"{sizes['total'] * arm.views:,}"]
            cells += [f"{error['mean']:.1e}", f"{error['max']:.1e}"]
        runs = outcomes[arm.name]
        accuracies = [outcome.accuracy for outcome in runs]
        cells += [f"{mean(outcome.training_loss for outcome in runs):.4f}"]
        cells += [f"{mean(outcome.held_out_loss for outcome in runs):.4f}"]
        cells += [f"{mean(accuracies):.1f}", f"{max(accuracies) - min(accuracies):.1f}"]
        cells += [f"{mean(outcome.seconds for outcome in runs):.0f}"]
        lines.append(f"| {arm.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(world: World, arms: list[Arm], outcomes: dict[str, list[Outcome]], untrained: float, seconds: float) -> str:
    """Return the page."""
    command = " ".join([".venv/bin/python", "benchmarks/codec_study.py", *sys.argv[1:]])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    train = world.stage1.train
    clips = int((world.videos["split"] == "train").sum())
    tested = int((world.videos["split"] == world.evaluation.test_split).sum())
    seeds = len(next(iter(outcomes.values())))
    length = f"{train.epochs:g} epochs" if train.epochs is not None else f"{train.steps} steps"
    return f"""# Codecs and recorded views

Written by `{command}` in {seconds:.0f} s on {os.cpu_count()} CPU cores ({platform.machine()}), {device}, torch \
{version("torch")}, faiss {version("faiss-cpu")}. Stage 1 of the demo: {clips} training clips, {length}, everything but codec \
and views as in `conf/base`; {seeds} seed{"s" if seeds > 1 else ""} of training, one corpus and teacher.

- **cosine error**: 1 - cosine between the teacher's token and what is read back, over the tokens of the first batch of each \
shard.
- **last training loss**: against the targets as they were stored, so it does not compare codecs.
- **held-out loss**: against the teacher's own tokens, on one view of each clip of the validation split: the same for all rows.
- **probe**: linear probe on {TASK}, fitted on train, chosen on validation, reported on the {tested} clips of test, so one \
clip is {100 / tested:.1f} points. The untrained student has {untrained:.1f}.
- **seconds**: of training alone. Extraction of a clip-view is paid once; online it is paid in every epoch, and is in the \
seconds.

{table(arms, outcomes)}
"""


def main() -> None:
    """Run the study and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training; several give a spread")
    parser.add_argument("--epochs", type=float, default=None, help="instead of those of conf/base")
    parser.add_argument("--clips", type=int, default=None, help="so many training clips instead of all")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where the demo's data are")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "codec_study.md")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="codec_study_") as work:
        world = load_world(options.data, Path(work), options.epochs, options.clips)
        arms, outcomes, untrained = study(world, options.seeds)
    page = report(world, arms, outcomes, untrained, time.perf_counter() - start)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    # Decoding processes import this file: only the first one runs the study.
    main()
