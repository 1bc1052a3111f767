"""`umt experiments`: the experiments of DVC as a table that fits a terminal.

`dvc exp show` has a column for every parameter of the project and every dependency of a stage, each of which is a hash of 32
digits. Here a row says which parameters differ from those of the commit that the experiment is based on, and has the headline
numbers of one corpus.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.nested import dotted
from umt_pipeline.project_config import config_loader

_NOTHING = "\N{EN DASH}"
# What is shown of a commit's hash.
_HASH = 7


@dataclass(frozen=True)
class Experiment:
    """A row of the table.

    Attributes:
        name: of the experiment; of a commit its branch, tag or hash.
        base: it is what the experiments that follow are based on.
        changed: parameters that differ from those of the base, without the names of their files.
        numbers: the headline numbers.
        state: where it is neither a commit nor finished, such as ``Queued``.
    """

    name: str
    base: bool
    changed: Mapping[str, Any]
    numbers: Mapping[str, float]
    state: str = ""


def print_experiments(console: Console, project: Path, corpus: str | None) -> None:
    """Print the experiments that are based on the current commit, and the commit and the workspace before them.

    Raises:
        UmtError: DVC cannot tell them: the project is in no git repository, or has no commit.
    """
    results = Path(str(config_loader(project, corpus or "base")["globals"]["results"])).as_posix()
    console.print(experiments_table(list(read_experiments(exp_show(project), results))))


def exp_show(project: Path) -> list[dict[str, Any]]:
    """Return what `dvc exp show --json` says.

    Raises:
        UmtError: it cannot.
    """
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UmtError(f"{project}: `dvc exp show` failed: {said[-1] if said else f'exit status {done.returncode}'}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def read_experiments(states: list[dict[str, Any]], results: str) -> Iterator[Experiment]:
    """Turn what DVC says into rows.

    Args:
        states: of :func:`exp_show`: the workspace and commits, each with the experiments that are based on it.
        results: folder of the headline files, relative to the project.
    """
    commits = [state for state in states if state["rev"] != "workspace"]
    for state in states:
        # The workspace is compared with the commit that it is on.
        base = _parameters(commits[0] if commits and state["rev"] == "workspace" else state)
        changed = _changed(base, _parameters(state)) if state["rev"] == "workspace" else {}
        yield Experiment(_name(state), True, changed, _numbers(state, results))
        for experiment in state.get("experiments") or []:
            own = experiment["revs"][0]
            executor = experiment.get("executor") or {}
            waiting = str(executor.get("state") or "").capitalize()
            yield Experiment(_name(own), False, _changed(base, _parameters(own)), _numbers(own, results), waiting)


def _name(state: Mapping[str, Any]) -> str:
    rev = str(state["rev"])
    return str(state.get("name") or (rev if rev == "workspace" else rev[:_HASH]))


def _parameters(state: Mapping[str, Any]) -> dict[str, Any]:
    files = (state.get("data") or {}).get("params") or {}
    return {f"{file}:{name}": value for file, found in files.items() for name, value in dotted(found.get("data") or {}).items()}


def _changed(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in own if own[name] != base.get(name)] if base else []
    return {name.partition(":")[2]: own[name] for name in names}


def _numbers(state: Mapping[str, Any], results: str) -> dict[str, float]:
    files = (state.get("data") or {}).get("metrics") or {}
    own = [found.get("data") or {} for file, found in files.items() if Path(file).parent.as_posix() == results]
    return {name: value for numbers in own for name, value in numbers.items()}


def experiments_table(rows: list[Experiment]) -> Table:
    """Return the table; a number that nobody has makes no column."""
    table = Table(box=None, pad_edge=False)
    table.add_column("experiment", no_wrap=True)
    states = any(row.state for row in rows)
    if states:
        table.add_column("state", no_wrap=True)
    # What is longer than the terminal is wide goes on in the next line.
    table.add_column("changed", overflow="fold", ratio=1)
    names = list(dict.fromkeys(name for row in rows for name in row.numbers))
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        numbers = (f"{row.numbers[name]:.1f}" if name in row.numbers else _NOTHING for name in names)
        changed = ", ".join(f"{name}={json.dumps(value)}" for name, value in row.changed.items())
        shown = row.name if row.base else f"  {row.name}"
        table.add_row(shown, *([row.state] if states else []), changed, *numbers, style="bold" if row.base else "")
    return table
