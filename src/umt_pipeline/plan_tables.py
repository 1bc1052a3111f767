"""`umt plan`: the cost of stage 1 from the project's parameters, as tables in a terminal."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from umt_pipeline.datasets import TableDataset
from umt_pipeline.errors import TableError
from umt_pipeline.features.extract import select_clips
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.planning import CostPlan, Hardware, find_tower, make_plan
from umt_pipeline.project_config import catalog_path, config_loader, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config

TRAIN_SPLIT = "train"


def plan_project(project: Path, env: str | None, overrides: str, clips: int | None, hardware: Hardware) -> CostPlan:
    """Compute the plan of a project.

    Args:
        project: its folder.
        env: overlay of the configuration.
        overrides: parameters, as in ``kedro run --params``.
        clips: number of training clips; None: count them in the clean video table.
        hardware: rates.

    Raises:
        ConfigError: an unknown overlay, or parameters that cannot work.
        TableError: the clean video table is needed and not there.
    """
    loader = config_loader(project, env, overrides)
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    stage1 = typed_parameters(loader, "stage1", Stage1Config)
    videos = catalog_path(project, loader, "videos")
    counts = (clips, clips) if clips is not None else count_clips(videos, env, features.splits)
    return make_plan(features, stage1, find_tower(features, features.train_small), *counts, hardware)


def count_clips(table: Path, env: str | None, splits: tuple[str, ...]) -> tuple[int, int]:
    """Count in the clean video table the clips to train on and those to record.

    Raises:
        TableError: there is no table.
        ConfigError: a split has no clip.
    """
    if not table.is_file():
        option = f" --env {env}" if env else ""
        raise TableError(
            f"{table}: expected the clean video table, found nothing. Run `kedro run{option} --pipelines ingestion` "
            "first, or say how many clips there are with --clips."
        )
    videos = TableDataset(str(table)).load()
    return len(select_clips(videos, (TRAIN_SPLIT,))), len(select_clips(videos, splits))


def print_plan(console: Console, plan: CostPlan) -> None:
    """Print what it is about, what a clip costs, and what each mode costs."""
    for table in (_subject(plan), _per_clip(plan), _modes(plan)):
        console.print(table)
    ratio = plan.epochs / plan.views
    dearer = plan.online if plan.cheaper == "cached" else plan.cached
    cheaper = plan.cached if plan.cheaper == "cached" else plan.online
    lines = [
        f"Cheaper: {plan.cheaper}, {dearer.device_hours / cheaper.device_hours:.2f} times. The parameters choose "
        f"{plan.targets}.",
        (
            f"Cached is the cheaper from {plan.break_even:.2f} epochs per view on"
            if plan.break_even is not None
            else "Cached is never the cheaper: an epoch waits for the store longer than it would for decoder and teacher"
        )
        + f"; here {ratio:.2f} ({plan.epochs:g} epochs, {plan.views} views"
        + ("; the parameters record none, so this number is assumed)." if plan.views_assumed else ")."),
        "Assumed until you measure them: --mfu, --decode-rate, --store-rate. Not counted: ingestion, a small teacher's "
        "training, images, evaluation.",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _subject(plan: CostPlan) -> Table:
    hardware = plan.hardware
    table = _table("What is planned", "", "")
    table.add_row("clips", f"{plan.clips:,} to train on, {plan.recorded_clips:,} to record")
    table.add_row("views per clip", f"{plan.views}{' (assumed)' if plan.views_assumed else ''}")
    table.add_row("training", f"{plan.epochs:g} epochs, {plan.steps:,} steps of {plan.batch_size:,} clips")
    table.add_row("teacher", plan.teacher)
    table.add_row(
        "device",
        f"{plan.online.phases[-1].devices} x {hardware.name}, {hardware.peak_tflops:g} TFLOP/s at {hardware.mfu:.0%}, "
        f"each with {hardware.cores} cores of {hardware.decode_rate:g} views/s and {hardware.store_rate:g} GB/s of disk",
    )
    return table


def _per_clip(plan: CostPlan) -> Table:
    table = _table("One clip view", "", "")
    table.add_row("teacher, forward", f"{_si(plan.teacher_flops)}FLOP")
    table.add_row("student, forward and back", f"{_si(plan.student_flops)}FLOP")
    for name, size in plan.bytes_per_clip_view.items():
        table.add_row(f"store: {name}", f"{size:,} B")
    total = sum(plan.bytes_per_clip_view.values())
    table.add_row("store, all of it", f"{total:,} B; {_si(plan.store_bytes)}B for {plan.views} views of all clips")
    return table


def _modes(plan: CostPlan) -> Table:
    table = _table("Cost", "mode", "phase", "devices", "compute", "decode", "store", "device-hours", "hours")
    for name, mode in (("online", plan.online), ("cached", plan.cached)):
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
