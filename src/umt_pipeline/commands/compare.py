"""`umt compare`: two runs side by side in a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from umt_pipeline.evaluation.compare import TOLERANCE, Comparison, compare_records, load_records

_NOTHING = "\N{EN DASH}"


def print_comparison(console: Console, first: Path, second: Path, tolerance: float = TOLERANCE) -> bool:
    """Print the numbers of two records files beside each other, then how their protocols and machines differ.

    Args:
        console: to print to.
        first: records of one run.
        second: of the other.
        tolerance: points by which numbers may differ where the kinds of machines do, before they are marked.

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
        if result.machines and abs(number.change or 0.0) > tolerance:
            change += " !"
        table.add_row(number.name, _text(number.first), _text(number.second), change)
    console.print(table)
    for label, path in (("First", first), ("Second", second)):
        console.print(f"{label:6}  {path}", soft_wrap=True, highlight=False, markup=False)
    for line in _machine_lines(result, tolerance):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for warning in result.warnings:
        console.print(f"Warning: {warning}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    if not result.warnings:
        console.print("Every number was measured in the same way.", soft_wrap=True, highlight=False)
    return not result.warnings


def _text(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.1f}"


def _machine_lines(result: Comparison, tolerance: float) -> list[str]:
    """Say what another kind of machine does to the numbers, where the runs were on two kinds."""
    if not result.machines:
        return []
    changes = [abs(number.change) for number in result.numbers if number.change is not None]
    beyond = sum(change > tolerance for change in changes)
    verdict = " (marked !)." if beyond else ": no more than another kind of machine does by itself."
    return [
        *(f"Machine: {sentence}" for sentence in result.machines),
        "Between kinds of machines the same code, data and seed give other numbers. "
        f"Of {len(changes)}, {sum(map(bool, changes))} differ, {beyond} of them by more than {tolerance:g} points{verdict}",
    ]
