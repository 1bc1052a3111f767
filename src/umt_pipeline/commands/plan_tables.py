"""The plans of `umt plan` as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.plan import Plans
from umt_pipeline.commands.plan_hardware import ASSUMED, Hardware
from umt_pipeline.commands.plan_numbers import hours, si
from umt_pipeline.commands.plan_phases import Mode
from umt_pipeline.commands.plan_stage1 import CostPlan, StagePlan
from umt_pipeline.commands.plan_stage2 import Stage2Plan

_UNITS = {
    "mfu": "of the peak", "decode_rate": "views/s of a core", "image_rate": "images/s of a core",
    "store_rate": "GB/s of a device", "media_rate": "GB/s of a device", "clip_mb": "MB", "image_mb": "MB",
    "cores": "beside a device",
}  # fmt: skip


def print_plans(console: Console, plans: Plans) -> None:
    """Print, for each stage, what it is about, what a sample costs, and what each mode costs."""
    both = plans.stage1 is not None and plans.stage2 is not None
    if plans.stage1 is not None:
        _print(console, "Stage 1" if both else "", _stage1_tables(plans.stage1), _stage1_lines(plans.stage1))
    if plans.stage2 is not None:
        _print(console, "Stage 2" if both else "", _stage2_tables(plans.stage2), _stage2_lines(plans.stage2))
    plan = plans.stage1 or plans.stage2
    assert plan is not None
    console.print(_rates(plan.hardware))
    line = (
        "Not counted: ingestion, a small teacher's or text tower's training, what a codec learns, verification of the store, "
        "evaluation. `--explain` says how each number came about."
    )
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_derivations(console: Console, plans: Plans) -> None:
    """Print every number with the line that says how it came about."""
    for stage, record in plans.to_json().items():
        table = _table(stage, "number", "value", "how")
        table.columns[2].justify = "left"
        table.columns[2].overflow = "fold"
        for name, value, line in derivations(record):
            table.add_row(name, f"{value:,.6g}", line)
        console.print(table)


def derivations(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float, str]]:
    """Yield name, value and derivation of every number of a plan in JSON; the derivation is empty where there is none."""
    how: Mapping[str, str] = record.get("how", {}) | record.get("sources", {})
    for name, value in record.items():
        if isinstance(value, bool) or name in ("how", "sources"):
            continue
        if isinstance(value, int | float):
            yield f"{prefix}{name}", value, how.get(name, "")
        elif isinstance(value, Mapping) and ("how" in value or "sources" in value):
            yield from derivations(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping):
            for part, number in value.items():
                yield f"{prefix}{name}.{part}", number, how.get(f"{name}.{part}", "")
        elif isinstance(value, list):
            for part in value:
                yield from derivations(part, f"{prefix}{part.get('name') or part.get('medium')}.")


def _rates(hardware: Hardware) -> Table:
    table = _table("Rates", "--rates", "value", "source")
    table.columns[2].justify = "left"
    table.columns[2].overflow = "fold"
    for name in ASSUMED:
        table.add_row(name, f"{getattr(hardware, name):.4g} {_UNITS[name]}", hardware.sources[name])
    return table


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
    clip.add_row("teacher, forward", f"{si(plan.teacher_flops)}FLOP")
    clip.add_row("student, forward and back", f"{si(plan.student_flops)}FLOP")
    for name, size in plan.bytes_per_clip_view.items():
        clip.add_row(f"store: {name}", f"{size:,} B")
    total = sum(plan.bytes_per_clip_view.values())
    clip.add_row("store, all of it", f"{total:,} B; {si(plan.store_bytes)}B for {plan.views} views of all clips")
    clip.add_row("by codec", _by_codec(plan))
    return subject, clip, _modes(plan.online, plan.cached)


def _by_codec(plan: StagePlan) -> str:
    return ", ".join(f"{codec} {si(size)}B" for codec, size in plan.store_bytes_by_codec.items())


def _stage2_lines(plan: Stage2Plan) -> tuple[str, ...]:
    assumed = " (the number of views is assumed)" if plan.views_assumed else ""
    stores = f"The stores have {si(plan.store_bytes)}B{assumed}; by codec: {_by_codec(plan)}."
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
    subject.add_row("device", _device(plan.online, plan.hardware))
    columns: list[tuple[str, dict[str, int], int]] = []
    for sample in plan.samples:
        columns.append((f"{sample.medium}, {sample.visible} tokens", sample.flops, sample.teacher_flops))
        if sample.unmasked_flops:
            columns.append((f"{sample.medium}, no mask", sample.unmasked_flops, 0))
    costs = _table("FLOP of one sample, forward and back", "part", *[name for name, _, _ in columns])
    costs.columns[1].justify = "right"
    for part, title in _PARTS.items():
        cells = [f"{si(flops[part])} ({flops[part] / sum(flops.values()):6.1%})" for _, flops, _ in columns]
        costs.add_row(title, *cells)
    costs.add_row("all", *[f"{si(sum(flops.values()))} (100.0%)" for _, flops, _ in columns], style="bold")
    costs.add_row("teacher, forward alone", *[si(teacher) for _, _, teacher in columns])
    return subject, costs, _modes(plan.online, plan.cached)


_PARTS = {
    "encoders": "encoders, shared",
    "contrastive": "contrastive",
    "matching": "matching",
    "masked_language": "masked language",
    "alignment": "alignment",
}


def _device(mode: Mode, hardware: Hardware) -> str:
    phase = mode.phases[-1]
    peak = hardware.peak(phase.precision) / 1e12
    return f"{phase.devices} x {hardware.name}, {peak:.4g} TFLOP/s in {phase.precision} at {hardware.mfu:.0%}"


def _modes(online: Mode, cached: Mode) -> Table:
    columns = "mode", "phase", "devices", "in", "compute", "decode", "files", "store", "device-hours", "hours", "host memory"
    table = _table("Cost", *columns)
    for name, mode in (("online", online), ("cached", cached)):
        for phase in mode.phases:
            parts = phase.compute_device_hours, phase.decode_device_hours, phase.media_device_hours, phase.store_device_hours
            memory = f"{si(phase.host_bytes)}B"
            cells = *map(hours, parts), hours(phase.device_hours), hours(phase.hours), memory
            table.add_row(name, phase.name, f"{phase.devices}", phase.precision, *cells)
        if len(mode.phases) > 1:
            table.add_row(f"[bold]{name}", *[""] * 7, f"[bold]{hours(mode.device_hours)}", f"[bold]{hours(mode.hours)}", "")
        table.add_section()
    waits = ", ".join(
        f"{name} {phase.name}: {phase.waits_for}"
        for name, mode in (("online", online), ("cached", cached))
        for phase in mode.phases
    )
    table.caption = (
        "compute, decode, files and store are device-hours; a phase takes the longest, which is in "
        f"{waits}. Host memory is per device"
    )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns), caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number > 1 else "left")
    return table
