"""The results of the evaluation and of the tasks as tables in a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.files import read_json
from umt_pipeline.evaluation.records import Record, flat_metrics
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, config_loader
from umt_pipeline.tasks import task_names


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


def print_summary(console: Console, project: Path, env: str | None) -> None:
    """Print the metrics of the evaluation and of the tasks that were run, and where pages, numbers and runs are.

    Raises:
        UmtError: neither was run.
    """
    loader = config_loader(project, env)
    metrics = catalog_path(project, loader, "metrics")
    tasks = finished_tasks(project, loader)
    if not metrics.is_file() and not tasks:
        raise UmtError(
            f"{metrics}: expected the metrics of an evaluation, found nothing. Run `make demo` (or `dvc repro`) first."
        )
    paths: list[tuple[str, Path]] = []
    if metrics.is_file():
        for title, rows in grouped(read_json(metrics)).items():
            console.print(metrics_table(title, rows))
        paths = [("Report", catalog_path(project, loader, "report")), ("Metrics", metrics)]
    for task, page in tasks.items():
        numbers = catalog_path(project, loader, f"{task}_records")
        if numbers.is_file():
            console.print(f"\nPipeline {task}", style="bold")
            for title, rows in grouped(flat_metrics(map(Record.model_validate, read_json(numbers)))).items():
                console.print(metrics_table(title, rows))
        paths.append(("Task", page))
    console.print()
    for what, path in paths:
        console.print(f"{what:<8} {path}", soft_wrap=True, highlight=False)
    console.print("Runs     `make mlflow`, then open http://127.0.0.1:5000", soft_wrap=True, highlight=False)
