"""`umt plan`: the cost of both stages from the project's parameters, as tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.plan_stage1 import CostPlan, Hardware, Mode, StagePlan, find_tower, make_plan
from umt_pipeline.commands.plan_stage2 import Stage2Plan, make_stage2_plan
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.features.extract import select_clips
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.stage2 import Stage2Config

TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class Plans:
    """The plan of each stage; None where the overlay has no recipe for it."""

    stage1: CostPlan | None
    stage2: Stage2Plan | None

    def to_json(self) -> dict[str, Any]:
        """Return all numbers, of each stage that is planned."""
        plans = {"stage1": self.stage1, "stage2": self.stage2}
        return {name: plan.to_json() for name, plan in plans.items() if plan is not None}


@dataclass(frozen=True)
class Counts:
    """How many clips there are to train on, and for stage 2 captioned images."""

    clips: int
    images: int = 0


def plan_project(project: Path, loader: ProjectConfigLoader, counts: Counts | None, hardware: Hardware) -> Plans:
    """Compute the plans of a project.

    An overlay that has a recipe (``train``) for one stage alone is planned for that stage alone: the other one has the
    demo's parameters, which are not meant for its data. Where it has none, or is not there, both stages are planned.

    Args:
        project: its folder.
        loader: of its configuration.
        counts: None: count them in the clean video table.
        hardware: rates.

    Raises:
        ConfigError: the parameters cannot work.
        TableError: the clean video table is needed and not there.
    """
    own = {} if loader.env is None else loader.own_parameters()
    recipes = [stage for stage in ("stage1", "stage2") if "train" in own.get(stage, ())] or ["stage1", "stage2"]
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    stage1 = typed_parameters(loader, "stage1", Stage1Config)
    tower = find_tower(features, features.train_small)
    table = _read_videos(catalog_path(project, loader, "videos"), loader.env) if counts is None else None
    plan1 = plan2 = None
    if "stage1" in recipes:
        plan1 = make_plan(features, stage1, tower, *_clips(table, counts, features.splits), hardware)
    if "stage2" in recipes:
        stage2 = typed_parameters(loader, "stage2", Stage2Config)
        drawn = _media(table, counts, stage2.corpora)
        plan2 = make_stage2_plan(features, stage2, stage1.student, tower, *drawn, hardware)
    return Plans(plan1, plan2)


def _read_videos(table: Path, env: str | None) -> pd.DataFrame:
    if not table.is_file():
        option = f" --env {env}" if env else ""
        raise TableError(
            f"{table}: expected the clean video table, found nothing. Run `kedro run{option} --pipelines ingestion` "
            "first, or say how many clips there are with --clips (and images with --images)."
        )
    return TableDataset(str(table)).load()


def _clips(videos: pd.DataFrame | None, counts: Counts | None, splits: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of clips to train on and of those to record."""
    if videos is None:
        assert counts is not None
        return counts.clips, counts.clips
    return len(select_clips(videos, (TRAIN_SPLIT,))), len(select_clips(videos, splits))


def _media(videos: pd.DataFrame | None, counts: Counts | None, weights: Mapping[str, float]) -> tuple[int, int]:
    """Return how many videos and images an epoch of stage 2 draws, if each has a caption."""
    if videos is None:
        assert counts is not None
        return counts.clips, counts.images
    known = videos[videos["split"] == TRAIN_SPLIT]
    drawn = known["corpus"].map(lambda corpus: weights.get(corpus, 1.0)).groupby(known["media"]).sum()
    return round(drawn.get("video", 0)), round(drawn.get("image", 0))


def print_plans(console: Console, plans: Plans) -> None:
    """Print, for each stage, what it is about, what a sample costs, and what each mode costs."""
    both = plans.stage1 is not None and plans.stage2 is not None
    if plans.stage1 is not None:
        _print(console, "Stage 1" if both else "", _stage1_tables(plans.stage1), _stage1_lines(plans.stage1))
    if plans.stage2 is not None:
        _print(console, "Stage 2" if both else "", _stage2_tables(plans.stage2), _stage2_lines(plans.stage2))
    left_out = "ingestion, a small teacher's or text tower's training, evaluation"
    rates = "--mfu, --decode-rate, --store-rate" + (", --image-rate" if plans.stage2 is not None else "")
    line = f"Assumed until you measure them: {rates}. Not counted: {left_out}."
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _print(console: Console, heading: str, tables: tuple[Table, ...], lines: tuple[str, ...]) -> None:
    if heading:
        console.rule(f"[bold]{heading}", align="left")
    for table in tables:
        console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _cheaper(plan: StagePlan) -> str:
    dearer, cheaper = (plan.online, plan.cached) if plan.cheaper == "cached" else (plan.cached, plan.online)
    ratio = dearer.device_hours / cheaper.device_hours
    return f"Cheaper: {plan.cheaper}, {ratio:.2f} times. The parameters choose {plan.targets}."


def _stage1_lines(plan: CostPlan) -> tuple[str, ...]:
    ratio = plan.epochs / plan.views
    return (
        _cheaper(plan),
        (
            f"Cached is the cheaper from {plan.break_even:.2f} epochs per view on"
            if plan.break_even is not None
            else "Cached is never the cheaper: an epoch waits for the store longer than it would for decoder and teacher"
        )
        + f"; here {ratio:.2f} ({plan.epochs:g} epochs, {plan.views} views"
        + ("; the parameters record none, so this number is assumed)." if plan.views_assumed else ")."),
    )


def _stage1_tables(plan: CostPlan) -> tuple[Table, ...]:
    subject = _table("What is planned", "", "")
    subject.add_row("clips", f"{plan.clips:,} to train on, {plan.recorded_clips:,} to record")
    subject.add_row("views per clip", f"{plan.views}{' (assumed)' if plan.views_assumed else ''}")
    subject.add_row("training", f"{plan.epochs:g} epochs, {plan.steps:,} steps of {plan.batch_size:,} clips")
    subject.add_row("teacher", plan.teacher)
    subject.add_row("device", _device(plan.online, plan.hardware))
    clip = _table("One clip view", "", "")
    clip.add_row("teacher, forward", f"{_si(plan.teacher_flops)}FLOP")
    clip.add_row("student, forward and back", f"{_si(plan.student_flops)}FLOP")
    for name, size in plan.bytes_per_clip_view.items():
        clip.add_row(f"store: {name}", f"{size:,} B")
    total = sum(plan.bytes_per_clip_view.values())
    clip.add_row("store, all of it", f"{total:,} B; {_si(plan.store_bytes)}B for {plan.views} views of all clips")
    return subject, clip, _modes(plan.online, plan.cached)


def _stage2_lines(plan: Stage2Plan) -> tuple[str, ...]:
    stores = f"The stores have {_si(plan.store_bytes)}B" + (" (the number of views is assumed)." if plan.views_assumed else ".")
    return _cheaper(plan), stores


def _stage2_tables(plan: Stage2Plan) -> tuple[Table, ...]:
    subject = _table("What is planned", "", "")
    for sample in plan.samples:
        views = f"{sample.views} views{' (assumed)' if plan.views_assumed else ''}"
        subject.add_row(f"{sample.medium}s", f"{sample.count:,} with a caption of {plan.text_length} tokens, {views}")
    training = f"{plan.epochs:g} epochs of {plan.samples_per_epoch:,}, {plan.steps:,} steps of {plan.batch_size:,} samples"
    subject.add_row("training", training + (", and the same again for the control" if plan.trainings > 1 else ""))
    if plan.unmasked_epochs:
        subject.add_row("without a mask", f"the last {plan.unmasked_epochs} epochs")
    subject.add_row("teacher", plan.teacher)
    subject.add_row("device", _device(plan.online, plan.hardware, images=len(plan.samples) > 1))
    columns: list[tuple[str, dict[str, int], int]] = []
    for sample in plan.samples:
        columns.append((f"{sample.medium}, {sample.visible} tokens", sample.flops, sample.teacher_flops))
        if sample.unmasked_flops:
            columns.append((f"{sample.medium}, no mask", sample.unmasked_flops, 0))
    costs = _table("FLOP of one sample, forward and back", "part", *[name for name, _, _ in columns])
    costs.columns[1].justify = "right"
    for part, title in _PARTS.items():
        cells = [f"{_si(flops[part])} ({flops[part] / sum(flops.values()):6.1%})" for _, flops, _ in columns]
        costs.add_row(title, *cells)
    costs.add_row("all", *[f"{_si(sum(flops.values()))} (100.0%)" for _, flops, _ in columns], style="bold")
    costs.add_row("teacher, forward alone", *[_si(teacher) for _, _, teacher in columns])
    return subject, costs, _modes(plan.online, plan.cached)


_PARTS = {
    "encoders": "encoders, shared",
    "contrastive": "contrastive",
    "matching": "matching",
    "masked_language": "masked language",
    "alignment": "alignment",
}


def _device(mode: Mode, hardware: Hardware, images: bool = False) -> str:
    rates = f"{hardware.decode_rate:g} views/s" + (f" or {hardware.image_rate:g} images/s" if images else "")
    return (
        f"{mode.phases[-1].devices} x {hardware.name}, {hardware.peak_tflops:g} TFLOP/s at {hardware.mfu:.0%}, "
        f"each with {hardware.cores} cores of {rates} and {hardware.store_rate:g} GB/s of disk"
    )


def _modes(online: Mode, cached: Mode) -> Table:
    table = _table("Cost", "mode", "phase", "devices", "compute", "decode", "store", "device-hours", "hours")
    for name, mode in (("online", online), ("cached", cached)):
        for phase in mode.phases:
            parts = phase.compute_device_hours, phase.decode_device_hours, phase.store_device_hours
            cells = *map(_h, parts), _h(phase.device_hours), _h(phase.hours)
            table.add_row(name, phase.name, f"{phase.devices}", *cells)
        if len(mode.phases) > 1:
            table.add_row(f"[bold]{name}", *[""] * 5, f"[bold]{_h(mode.device_hours)}", f"[bold]{_h(mode.hours)}")
        table.add_section()
    table.caption = "compute, decode and store are device-hours; a phase takes the longest"
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns), caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number > 1 else "left")
    return table


def _h(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 else f"{hours:.2g}"


def _si(number: float) -> str:
    power = min(max(int(math.log10(number) // 3), 0), 5) if number > 0 else 0
    return f"{number / 1000**power:.3g} {' kMGTP'[power]}"
