"""What pipelines say in numbers: reports put together, tables of numbers for git, the few headline numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from statistics import fmean
from typing import Any

import pandas as pd

# Digits of a number in a table. Sums of floats whose order another kind of processor changes differ beyond them, as a rule.
SIGNIFICANT = 6
# Digits after the point of a headline number.
DECIMALS = 3


def put_together(**parts: dict[str, Any]) -> dict[str, Any]:
    """Return reports as one, each under its name."""
    return parts


def split_off(report: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a report without these entries, and these entries."""
    return (
        {name: value for name, value in report.items() if name not in names},
        {name: value for name, value in report.items() if name in names},
    )


def numbers_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Return the numbers of a report, nested or not, as a table of ``name`` and ``value``, sorted by name.

    So a change of a number is a changed line in git, and ``dvc plots diff`` draws the numbers of two commits beside each
    other. Whole numbers are written in full, others with :data:`SIGNIFICANT` digits. Texts and lists are left out.
    """
    return pd.DataFrame(sorted(_numbers(report, "")), columns=["name", "value"])


def numbers_of(**reports: dict[str, Any]) -> pd.DataFrame:
    """Return the numbers of several reports as one table, each with its report's name before it."""
    return numbers_table(reports)


def _numbers(report: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in report.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, f"{value:.{SIGNIFICANT}g}" if isinstance(value, float) else str(value)


def headline_numbers(records: list[dict[str, Any]], wanted: Mapping[str, str]) -> dict[str, float]:
    """Return the few numbers by which runs are compared; what was not measured is left out.

    Args:
        records: as :class:`umt_pipeline.evaluation.records.Record` dumps them.
        wanted: by the number's name a pattern of ``TASK/VALUE``, in which ``*`` stands for anything. Of several that match,
            the mean is taken.
    """
    measured = {
        f"{record['task']}/{name}".removesuffix("/"): value for record in records for name, value in record["values"].items()
    }
    found = {name: [measured[key] for key in measured if fnmatchcase(key, pattern)] for name, pattern in wanted.items()}
    return {name: round(fmean(values), DECIMALS) for name, values in found.items() if values}
