"""`umt compare`: two runs side by side in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from umt_pipeline.evaluation.compare import compare_records, load_records

_NOTHING = "\N{EN DASH}"


def print_comparison(console: Console, first: Path, second: Path) -> bool:
    """Print the numbers of two records files beside each other, then how their protocols differ.

    Returns:
        Whether every number was measured by both, and in the same way.

    Raises:
        UmtError: a file is no file of records.
    """
    result = compare_records(load_records(first), load_records(second))
    table = Table(title="Second against first", title_justify="left", title_style="bold")
    table.add_column("", overflow="fold")
    for head in ("first", "second", "change"):
        table.add_column(head, justify="right")
    for number in result.numbers:
        change = _NOTHING if number.change is None else f"{round(number.change, 1) + 0.0:+.1f}"  # no "-0.0"
        table.add_row(number.name, _text(number.first), _text(number.second), change)
    console.print(table)
    for label, path in (("First", first), ("Second", second)):
        console.print(f"{label:6}  {path}", soft_wrap=True, highlight=False, markup=False)
    for warning in result.warnings:
        console.print(f"Warning: {warning}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    if not result.warnings:
        console.print("Every number was measured in the same way.", soft_wrap=True, highlight=False)
    return not result.warnings


def _text(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1f}"
