"""The results of the evaluation and of the tasks in a terminal: the headlines, or all numbers as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.headlines import headline_table
from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.files import read_json
from umt_pipeline.evaluation.records import Record, flat_metrics
from umt_pipeline.models.folders import CONFIG_FILE
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, config_loader
from umt_pipeline.tasks import task_names

# Pipelines with training runs, beside the tasks.
_TRAINING = ("teacher_features", "stage1", "stage2")
# Of the times of a run, the head of the column and how it is written.
_TIMES = {
    "seconds": ("seconds", "{:.0f}"),
    "median_clips_per_s": ("clips/s", "{:.0f}"),
    "median_mfu": ("MFU", "{:.0%}"),
    "median_data_wait": ("waiting for data", "{:.1%}"),
    "peak_memory_mib": ("peak MiB", "{:.0f}"),
}


def grouped(metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Turn ``{"retrieval/test/stage2/dual/t2v_r1": 48.0}`` into table → row → column → value.

    The first two parts of a name are the table, the last one the column, what is between the row.
    """
    tables: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, value in metrics.items():
        parts = name.split("/")
        title = "/".join(parts[: min(2, len(parts) - 1)]) or "metrics"
        tables[title]["/".join(parts[2:-1])][parts[-1]] = value
    return {title: dict(rows) for title, rows in tables.items()}


def metrics_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one group of metrics as a table; the columns are in the order of their first appearance."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title=title, title_justify="left", title_style="bold", min_width=len(title))
    if any(rows):
        table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        cells = [f"{row[column]:.1f}" if column in row else "" for column in columns]
        table.add_row(*([name] if any(rows) else []), *cells)
    return table


def finished_tasks(project: Path, loader: ProjectConfigLoader) -> dict[str, Path]:
    """Return the pages of the tasks that were run."""
    paths = {task: catalog_path(project, loader, f"{task}_report") for task in task_names()}
    return {task: path for task, path in paths.items() if path.is_file()}


def run_times(project: Path, loader: ProjectConfigLoader) -> dict[str, dict[str, float]]:
    """Return what each training run took on the machine that it ran on, as far as the files are there."""
    found: dict[str, dict[str, float]] = {}
    for name in (*_TRAINING, *task_names()):
        path = catalog_path(project, loader, f"{name}_times")
        if path.is_file():
            found |= dict(_runs(name, read_json(path)))
    return found


def _runs(name: str, times: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    if "rows" in times:
        yield name, {column: times[column] for column in _TIMES if column in times}
        return
    for part, inner in times.items():
        if isinstance(inner, Mapping):
            yield from _runs(f"{name}/{part}".replace("/training/", "/"), inner)


def times_table(runs: Mapping[str, Mapping[str, float]]) -> Table:
    """Return what training runs took as a table."""
    table = Table(title="Training runs, on the machine that they ran on", title_justify="left", title_style="bold")
    table.add_column("")
    for head, _ in _TIMES.values():
        table.add_column(head, justify="right")
    for name, row in runs.items():
        table.add_row(name, *(shown.format(row[column]) if column in row else "" for column, (_, shown) in _TIMES.items()))
    return table


def _print_everything(console: Console, project: Path, loader: ProjectConfigLoader) -> None:
    metrics = catalog_path(project, loader, "evaluation_numbers")
    if metrics.is_file():
        numbers = pd.read_csv(metrics)
        for title, rows in grouped(dict(zip(numbers["name"], numbers["value"], strict=True))).items():
            console.print(metrics_table(title, rows))
    for task in finished_tasks(project, loader):
        records = catalog_path(project, loader, f"{task}_records")
        if records.is_file():
            console.print(f"\nPipeline {task}", style="bold")
            for title, rows in grouped(flat_metrics(map(Record.model_validate, read_json(records)))).items():
                console.print(metrics_table(title, rows))
    if taken := run_times(project, loader):
        console.print()
        console.print(times_table(taken))


def print_summary(console: Console, project: Path, env: str | None, everything: bool = False) -> None:
    """Print how the evaluation and the tasks that were run came out, and where pages, numbers and runs are.

    Args:
        console: prints.
        project: its folder.
        env: overlay that the run used.
        everything: each number that was measured, and what training took, in place of the headlines.

    Raises:
        UmtError: neither was run.
    """
    loader = config_loader(project, env)
    metrics = catalog_path(project, loader, "evaluation_numbers")
    tasks = finished_tasks(project, loader)
    if not metrics.is_file() and not tasks:
        raise UmtError(
            f"{metrics}: expected the metrics of an evaluation, found nothing. Run `make demo` (or `dvc repro`) first."
        )
    if everything:
        _print_everything(console, project, loader)
    else:
        console.print(headline_table(project, loader, tasks))
    console.print()
    paths = [("Report", catalog_path(project, loader, "report")), ("Metrics", metrics)] if metrics.is_file() else []
    paths += [("Task", page) for page in tasks.values()]
    for what, path in paths:
        console.print(f"{what:<8} {path}", soft_wrap=True, highlight=False)
    console.print("Runs     `make mlflow`, then open http://127.0.0.1:5000", soft_wrap=True, highlight=False)
    is_corpus = env is None or (project / "corpora" / env / "dvc.yaml").is_file()
    if is_corpus and (catalog_path(project, loader, "stage2_model") / CONFIG_FILE).is_file():
        command = "make serve" if env is None else f"umt serve {env}"
        console.print(f"Search   `{command}`, then open http://127.0.0.1:8000", soft_wrap=True, highlight=False)
