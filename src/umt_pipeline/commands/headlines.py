"""The few numbers that say how a run came out, as one short table: what `umt summary` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

import pandas as pd
from rich import box
from rich.table import Table

from umt_pipeline.core.files import read_json
from umt_pipeline.evaluation.evidence import measure_of
from umt_pipeline.evaluation.gate import GateParams
from umt_pipeline.evaluation.records import Record, flat_metrics
from umt_pipeline.evaluation.spread import ranged_share
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, typed_parameters

# Rows of retrieval sets: with those of the probe and four tasks, title and head, the table has at most 12 lines.
_SETS = 3
_NUMBER = "t2v_r1"
_COLUMNS = ("model", "re-ranked", "scratch", "teacher")
# Of a task of motion single frames show nothing, and the probe of the student has nothing to tell.
_MOTION = "motion"
# By a row's label, the cells that there are, by their column.
Rows = dict[str, dict[str, str]]


class _Numbers:
    """The numbers of a pipeline, and what they are made of, where that is there."""

    def __init__(self, metrics: Mapping[str, float], evidence: Path) -> None:
        self._metrics = metrics
        self._evidence = pd.read_parquet(evidence) if evidence.is_file() else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def cell(self, pattern: str) -> str:
        """Return the mean of the numbers whose names match, with half of its interval's width if it is a single share of items.

        Args:
            pattern: ``*`` stands for anything; nothing that matches gives an empty cell.
        """
        names = [name for name in self._metrics if fnmatchcase(name, pattern)]
        if not names:
            return ""
        value = f"{fmean(self._metrics[name] for name in names):.1f}"
        measure = measure_of(names[0].rpartition("/")[2])
        if len(names) > 1 or self._evidence is None or measure is None or not measure.is_share:
            return value
        ranged = ranged_share(self._evidence, names[0], GateParams(metrics={names[0]: 0.0}))
        return f"{value} ±{(ranged.high - ranged.low) / 2:.1f}"


def headline_table(project: Path, loader: ProjectConfigLoader, tasks: Mapping[str, Path]) -> Table:
    """Return the table: retrieval of stage 2, the probe of stage 1, and each task that was run.

    Args:
        project: its folder.
        loader: its configuration.
        tasks: pages of the tasks that were run, by name.
    """
    title = "In per cent; ± is half of the 95 % interval that other test clips would give"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    rows = _evaluation(project, loader) | _tasks(project, loader, tasks)
    shown = [column for column in _COLUMNS if any(row.get(column) for row in rows.values())]
    for column in shown:
        table.add_column(column, justify="right", no_wrap=True)
    for label, row in rows.items():
        table.add_row(label, *(row.get(column, "") for column in shown))
    return table


def _evaluation(project: Path, loader: ProjectConfigLoader) -> Rows:
    file = catalog_path(project, loader, "evaluation_numbers")
    if not file.is_file():
        return {}
    table = pd.read_csv(file)
    metrics = dict(zip(table["name"], table["value"], strict=True))
    numbers = _Numbers(metrics, catalog_path(project, loader, "evaluation_evidence"))
    sets = [name.split("/")[1] for name in numbers if fnmatchcase(name, f"retrieval/*/stage2/dual/{_NUMBER}")]
    rows: Rows = {}
    for name in sets[:_SETS]:
        systems = ("stage2/dual", "stage2/reranked", "control/dual", "teacher/dual")
        cells = [numbers.cell(f"retrieval/{name}/{system}/{_NUMBER}") for system in systems]
        rows[f"text→video R@1, {name}"] = dict(zip(_COLUMNS, cells, strict=True))
    seen = {name: value for name, value in metrics.items() if name.startswith("probe/linear/") and f"/{_MOTION}/" not in name}
    probes = _Numbers(seen, catalog_path(project, loader, "evaluation_evidence"))
    if cell := probes.cell("probe/linear/*/stage1"):
        rows["stage 1, probes of appearance"] = {"model": cell, "teacher": probes.cell("probe/linear/*/teacher_patch")}
    return rows


def _tasks(project: Path, loader: ProjectConfigLoader, tasks: Mapping[str, Path]) -> Rows:
    from umt_pipeline.tasks.task import load_task  # torch, which nothing else here needs

    rows: Rows = {}
    for name in tasks:
        records = catalog_path(project, loader, f"{name}_records")
        if not records.is_file():
            continue
        task = load_task(name)
        params = typed_parameters(loader, name, task.params)
        metrics = flat_metrics(map(Record.model_validate, read_json(records)))
        numbers = _Numbers(metrics, catalog_path(project, loader, f"{name}_evidence"))
        for pattern in task.headline.values():
            cells = [numbers.cell(pattern.replace("{model}", model)) for model in (task.model_name(params), "control")]
            what = f"{name.replace('_', ' ')}, {pattern.rpartition('/')[2]}".replace(_NUMBER, "R@1").replace("map", "mAP")
            if cells[0]:
                rows[what] = {"model": cells[0], "scratch": cells[1]}
    return rows
