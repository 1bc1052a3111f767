"""`umt promote`: the verdict in a terminal, and the question that a person is asked."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.judging import Asked, document
from umt_pipeline.commands.promotion import Promoted, promote
from umt_pipeline.reports.promotion.compared import Promotion
from umt_pipeline.reports.promotion.page import OUTCOMES, demand, interval, signed, verdict_sentence

# Exit status by verdict: a script can tell them apart from each other and from errors, which are 1.
STATUS = {"promoted": 0, "refused": 3, "cannot_be_told": 4}
_STYLES = {"promoted": "green", "refused": "red", "cannot_be_told": "yellow"}


def run_promotion(asked: Asked, yes: bool, as_json: bool) -> int:
    """Promote, print what came of it, and return the exit status.

    A person at a terminal is asked before the alias moves, unless ``yes``; who says no gets status 1. Nothing skips the gate.

    Raises:
        UmtError: see :func:`umt_pipeline.commands.promotion.promote`.
    """
    # With JSON on standard output, all that is for people goes to standard error; so does the question, always.
    console = Console(stderr=as_json) if sys.stdout.isatty() else Console(stderr=as_json, width=140)
    shown: list[Promotion] = []

    def confirm(found: Promotion) -> bool:
        if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        print_verdict(console, found)
        shown.append(found)
        return typer.confirm(f"Make {found.challenger.title} the champion?", err=True)

    done = promote(asked, confirm)
    if as_json:
        typer.echo(json.dumps(_told(done), indent=2, ensure_ascii=False))
    else:
        if done.found is not None and not any(found is done.found for found in shown):
            print_verdict(console, done.found)
        print_outcome(console, done)
    if done.found is None or done.moved:
        return 0
    return STATUS[done.found.verdict.verdict] or 1


def print_outcome(console: Console, done: Promoted) -> None:
    """Print what became of a promotion, and where it is written down."""

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, soft_wrap=True, highlight=False, markup=False)

    title = f"{done.challenger.name} version {done.challenger.version}"
    if done.found is None:
        say(f"{title} is the champion already: there is nothing to promote.")
        return
    if done.moved:
        say(f"The alias champion is {title} now.")
    elif done.found.verdict.verdict == "promoted":
        say("The alias champion was not moved. To move it: umt promote again.", "yellow")
    say(f"Verdict  {done.document}\nPage     {done.page}")


def print_verdict(console: Console, found: Promotion) -> None:
    """Print the numbers that the gate looked at, then its verdict in words."""
    if found.verdict.metrics:
        table = Table(title=f"{found.challenger.title} against the champion", title_justify="left", title_style="bold")
        table.add_column("", overflow="fold")
        for head in ("champion", "challenger", "difference", "interval", "demanded"):
            table.add_column(head, justify="right")
        table.add_column("verdict")
        for metric in found.verdict.metrics:
            numbers = f"{metric.champion:.1f}", f"{metric.challenger:.1f}", signed(metric.difference)
            told = interval(metric.low, metric.high), demand(metric), OUTCOMES[metric.verdict]
            table.add_row(metric.name, *numbers, *told, style=_STYLES[metric.verdict])
        console.print(table)
    for line in (*found.differences, found.again):
        if line:
            console.print(f"Note: {line}", style="yellow", soft_wrap=True, highlight=False, markup=False)
    style = f"bold {_STYLES[found.verdict.verdict]}"
    for line in (verdict_sentence(found), *([found.verdict.reason] if found.champion else [])):
        console.print(line, style=style, soft_wrap=True, highlight=False, markup=False)
        style = ""


def _told(done: Promoted) -> dict[str, object]:
    files = {"document": str(done.document), "page": str(done.page)}
    if done.found is None:
        title = f"{done.challenger.name} version {done.challenger.version}"
        return {"already_champion": True, "moved": True, "challenger": title}
    return {**document(done.found), "moved": done.moved, **files}
