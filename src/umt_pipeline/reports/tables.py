"""Tables, bars and tiles of a page, and how it writes numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_LONG = 16  # characters that deserve a wide column
LISTED = 12  # things named in one cell
_HEX = re.compile(r"[0-9a-f]{20,}")
NOTHING = "\N{EN DASH}"
_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a longer text to show on hover, and a style (``best bad code long`` or none)."""

    text: str
    title: str = ""
    style: str = ""


@dataclass(frozen=True)
class Row:
    """A table row: its header, the cells, and a style (``chance`` for rows that no model made, or none)."""

    head: Cell
    cells: tuple[Cell, ...]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        caption: its title.
        head: column heads; the first stands over the row heads.
        rows: its rows.
        note: a sentence below it.
        groups: heads over neighbouring columns as (text, columns), beginning after the row heads.
        words: whether its cells are texts rather than numbers. Only pages of sections read it.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    words: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Bar:
    """One bar of a comparison: label, percent, and whether it is a reference rather than a model."""

    label: str
    value: float
    reference: bool = False


@dataclass(frozen=True)
class Tile:
    """One headline number: label, value, and what to compare it with."""

    label: str
    value: str
    beside: Sequence[str] = ()


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
    note: str = "",
) -> Table | None:
    """Return models x columns with the best value of each column marked, and reference rows (chance ...) below.

    Args:
        caption: its title.
        rows: of the models, in order.
        columns: key of the values -> head of the column.
        references: what no model made, by name.
        ranks: keys of columns that count places, where less is better; the others are percent.
        note: a sentence below the table.
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
    made += [Row(Cell(name), cells(row, False), "chance") for name, row in references.items() if row]
    return Table(caption, ("", *columns.values()), tuple(made), note)


def keyed(table: pd.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    """Return a table's rows by the text of one of its columns."""
    return {str(row[column]): {str(name): value for name, value in row.items()} for row in table.to_dict("records")}


def number(value: Any, key: str = "") -> str:
    """Return a value as people read it; a ``key`` with "bytes" in it asks for a unit."""
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
            return f"{value:.3g}{_NBSP}{unit}"
        value /= 1024
    return f"{value:.3g}{_NBSP}GiB"


def cell(value: Any, key: str = "", whole: bool = False) -> Cell:
    """Return a cell for any value; hashes are shortened, unless ``whole``, and then have a title with all of it."""
    text = number(value, key)
    if _HEX.fullmatch(text):
        return Cell(text, style="code") if whole else Cell(text[:12] + "…", title=text, style="code")
    return Cell(text, style="long" if len(text) > _LONG else "")


def percent(value: float | None) -> str:
    """Return a percentage with one digit and its sign."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.1f}{_NBSP}%"


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys; lists of mappings are numbered."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{name}.")
        elif isinstance(item, list | tuple) and any(isinstance(part, Mapping) for part in item):
            flat |= flatten({str(place): part for place, part in enumerate(item)}, f"{name}.")
        else:
            flat[name] = item
    return flat


def facts(caption: str, values: Mapping[str, Any] | None, note: str = "") -> Table | None:
    """Return a two-column table of a nested mapping, or None when there is nothing."""
    if not values:
        return None
    rows = tuple(
        Row(Cell(key.replace("_", " ").replace(".", " · ")), (cell(value, key, whole=True),))
        for key, value in flatten(values).items()
    )
    return Table(caption, ("Fact", "Value"), rows, note)


def record_table(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return one row per record with every field that any record has; values and settings become one cell each."""
    if not records:
        return None
    flat = [_record_row(record) for record in records]
    columns = list(dict.fromkeys(key for row in flat for key, value in row.items() if value not in (None, "", [], ())))
    if not columns:
        return None
    rows = tuple(Row(cell(row.get(columns[0])), tuple(cell(row.get(c), c) for c in columns[1:])) for row in flat)
    return Table("Protocol of each number", tuple(c.replace("_", " ") for c in columns), rows)


def _record_row(record: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in record.items():
        if key == "protocol" and isinstance(value, Mapping):
            row |= _record_row(value)
        elif isinstance(value, Mapping):
            row[key] = " · ".join(f"{name} {number(item)}".strip() for name, item in value.items() if item is not None)
        elif isinstance(value, list | tuple) and len(value) > LISTED:
            row[key] = f"{number(value[:LISTED])} and {len(value) - LISTED:,} more"
        else:
            row[key] = value
    return row
