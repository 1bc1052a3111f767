"""Metrics on their way: rows of numbers at a step, from a training loop, a metrics file or a history table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

STEP = "step"
# Of a history of several trainings, one after the other: which one a row is of.
PART = "part"


@dataclass(frozen=True)
class Row:
    """Numbers at a step.

    Attributes:
        series: what the steps count: a training's name; "" for numbers without steps, which are at step 0.
        step: the step.
        values: finite numbers by the names that metrics have in MLflow.
        at_ms: when, in milliseconds since 1970.
    """

    series: str
    step: int
    values: Mapping[str, float]
    at_ms: int


def flatten_numbers(value: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of nested mappings as ``{"a/b": 1.0}``; other values are left out.

    Characters that MLflow does not allow in a name become ``_``.
    """
    numbers: dict[str, float] = {}
    for key, item in value.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(item, Mapping):
            numbers.update(flatten_numbers(item, name))
        elif isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item):
            numbers[metric_name(name)] = float(item)
    return numbers


def metric_name(name: str) -> str:
    """Return a name with ``_`` for each character that MLflow does not allow in one.

    Nor does it allow parts that a path would not keep, as of a label that ends in ``/``.
    """
    parts = re.sub(r"[^\w.\-/ ]", "_", name).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def training_row(series: str, row: Mapping[str, Any], at_ms: int) -> Row:
    """Return a training loop's row: ``step`` and any number of values, named ``series/value``."""
    values = {name: value for name, value in row.items() if name != STEP}
    return Row(series, int(row[STEP]), flatten_numbers(values, series), at_ms)


def history_rows(table: pd.DataFrame, series: str, began_ms: int, ended_ms: int) -> Iterator[Row]:
    """Yield the rows of a history table as the training loop gave them.

    Args:
        table: columns ``step`` and numbers; with ``part``, of several trainings, whose series are ``series_part``.
        series: name of the training.
        began_ms: when the run began. A table does not say when a row was written: rows are spread evenly up to the end.
        ended_ms: when it ended.
    """
    last = max(int(table[STEP].max()), 1) if len(table) else 1
    for record in table.to_dict("records"):
        values = {str(name): value for name, value in record.items()}
        part = values.pop(PART, None)
        at_ms = began_ms + (ended_ms - began_ms) * int(values[STEP]) // last
        yield training_row(series if part is None else f"{series}_{part}", values, at_ms)
