"""How pages write numbers, and the tables that they make of them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.reports.page import Cell, Row, Table, Tile

_LONG = 16  # characters that deserve a wide column
_HEX = re.compile(r"[0-9a-f]{20,}")
NOTHING = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"


# --- numbers ----------------------------------------------------------------------------------------------------------
def number(value: Any, key: str = "") -> str:
    """Return a value as people read it; a ``key`` with "bytes" in it calls for a unit."""
    if value is None:
        return NOTHING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        whole = int(value)
        return f"{byte_text(whole)} ({whole:,})" if "bytes" in key and whole >= 1024 else f"{whole:,}"
    if isinstance(value, float | np.floating):
        real = float(value)
        if not math.isfinite(real):
            return NOTHING
        return f"{real:,.0f}" if abs(real) >= 10_000 else f"{real:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(number(v) for v in value)
    return str(value)


def byte_text(value: float) -> str:
    """Return a number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g}{NBSP}{unit}"
        value /= 1024
    return f"{value:.3g}{NBSP}GiB"


def percent(value: float | None) -> str:
    """Return a percentage with one digit and its sign."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}{NBSP}%"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in the right number: "1 file", "2,000 files"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def length(hours: float) -> str:
    """Return a length of time in the unit that fits: 0.11 hours are "6.6 min"."""
    for unit, factor in (("h", 1), ("min", 60)):
        if hours * factor >= 1:
            return f"{number(float(f'{hours * factor:.3g}'))}{NBSP}{unit}"
    return f"{number(float(f'{hours * 3600:.3g}'))}{NBSP}s"


def listed(words: Sequence[str]) -> str:
    """Return words as "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def cell(value: Any, key: str = "", whole: bool = False) -> Cell:
    """Return a cell for any value; hashes are shortened, unless ``whole``, and then have a title with all of it."""
    text = number(value, key)
    if _HEX.fullmatch(text):
        return Cell(text, style="code") if whole else Cell(text[:12] + "…", title=text, style="code")
    return Cell(text, style="long" if len(text) > _LONG else "")


# --- tables -----------------------------------------------------------------------------------------------------------
def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "", words: bool = False
) -> Table | None:
    """Return a table of texts, numbers and cells, each row's first value at its head; None without rows."""
    made = [[_as_cell(value) for value in row] for row in rows]
    return Table(caption, tuple(head), tuple(Row(row[0], tuple(row[1:])) for row in made), note, words=words) if made else None


def _as_cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value) if isinstance(value, str) else cell(value)


def facts(caption: str, values: Mapping[str, Any]) -> Table | None:
    """Return a two-column table of nested mappings, or None when there is nothing."""
    rows = [
        (key.replace("_", " ").replace(".", " · "), cell(value, key, whole=True)) for key, value in flatten(values).items()
    ]
    return table(caption, ("Fact", "Value"), rows, words=True)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys; lists of mappings are numbered."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}.")
        elif isinstance(item, list | tuple) and any(isinstance(entry, Mapping) for entry in item):
            flat |= flatten({str(index): entry for index, entry in enumerate(item)}, f"{name}.")
        else:
            flat[name] = item
    return flat


def keyed(rows: pd.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    """Return a table's rows by the text of one of its columns."""
    return {str(row[column]): {str(name): value for name, value in row.items()} for row in rows.to_dict("records")}


# --- scores -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scored:
    """A row of a table of scores: its head, its values by column, and whether it may be marked as best."""

    head: Cell
    values: Mapping[str, float]
    fair: bool = True


def score_table(
    caption: str,
    rows: Sequence[Scored],
    columns: Mapping[str, str],
    references: Mapping[str, Mapping[str, float]],
    ranks: Collection[str] = (),
) -> Table | None:
    """Return models x columns with the best value of each column marked, and reference rows (chance ...) below.

    Args:
        caption: its title.
        rows: of the models, in order.
        columns: key of the values -> head of the column.
        references: what no model made, by name.
        ranks: keys of columns that are ranks, where less is better; the others are percent.
    """
    if not rows or not columns:
        return None
    fair = [row.values for row in rows if row.fair]
    best = {
        column: (min if column in ranks else max)(values)
        for column in columns
        if len(values := [row[column] for row in fair if math.isfinite(row.get(column, math.nan))]) > 1
    }

    def cells(row: Mapping[str, float], mark: bool) -> tuple[Cell, ...]:
        made = []
        for column in columns:
            value = row.get(column, math.nan)
            text = NOTHING if not math.isfinite(value) else f"{value:.1f}".removesuffix(".0" if column in ranks else "")
            made.append(Cell(text, style="best" if mark and value == best.get(column) else ""))
        return tuple(made)

    made = [Row(row.head, cells(row.values, row.fair)) for row in rows]
    made += [Row(Cell(name), cells(row, False), "reference") for name, row in references.items() if row]
    return Table(caption, ("", *columns.values()), tuple(made))


def share_cells(shares: Mapping[str, float], models: Collection[str]) -> list[Cell]:
    """Return a row of percentages, the best of the models' marked; equals are all best, unless there is nothing else."""
    told = [share for name, share in shares.items() if name in models]
    best = max(told) if max(told) > min(told) else None
    return [Cell(f"{share:.1f}", style="best" if share == best and name in models else "") for name, share in shares.items()]


@dataclass(frozen=True)
class Compared:
    """A headline number in percent, and what it is to be compared with.

    Attributes:
        label: what was measured.
        value: the number.
        others: by name; None for what was not measured, which is left out.
    """

    label: str
    value: float
    others: Mapping[str, float | None]

    @property
    def beside(self) -> list[str]:
        """The others, each with its name."""
        return [f"{name} {percent(value)}" for name, value in self.others.items() if value is not None]

    @property
    def against(self) -> str:
        """The others, for a sentence."""
        return ", ".join(self.beside) or "nothing to compare with"

    @property
    def tile(self) -> Tile:
        """The headline tile."""
        return Tile(self.label, percent(self.value), self.beside)
