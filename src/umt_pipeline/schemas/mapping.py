"""From a user's columns to ours, and messages that name row, column, what was expected and what was found."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pandera.pandas as pa

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import TableError

# Problems that one message lists; it counts the others.
MAX_LISTED = 5

# pandera's names of checks, as the end of "expected ...".
_EXPECTED = {
    "field_uniqueness": "a value that occurs once",
    "multiple_fields_uniqueness": "a combination that occurs once",
    "not_nullable": "a value",
}


class Constant(Config):
    """A column that the user's table does not have: each row gets the same value.

    Attributes:
        constant: the value.
    """

    constant: str


# Where one of our columns comes from: the name of the user's column, or a constant.
Column = str | Constant


def select_columns(
    frame: pd.DataFrame, mapping: Mapping[str, Column], table: str, parameter: str
) -> tuple[pd.DataFrame, list[str]]:
    """Take our columns out of a user's table, as text.

    Args:
        frame: the user's table.
        mapping: for each of our columns, where it comes from.
        table: name of the table for messages.
        parameter: key of ``mapping`` in the parameters, for messages.

    Returns:
        A table with our column names, rows numbered from 0; the names of the columns that were not used.

    Raises:
        TableError: a column is missing or not of text.
    """
    found = [str(name) for name in frame.columns]
    if len(set(found)) != len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        raise TableError(f"Table {table}: expected each column once, found more than one of: {', '.join(twice)}.")
    selected: dict[str, list[str]] = {}
    for ours, theirs in mapping.items():
        if isinstance(theirs, Constant):
            selected[ours] = [theirs.constant] * len(frame)
            continue
        # A list of no objects in JSON has no columns either: an empty table, not a wrong one.
        if not found and frame.empty:
            selected[ours] = []
            continue
        if theirs not in found:
            raise TableError(
                f"Table {table}: expected a column '{theirs}', found: {', '.join(found) or 'none'}. "
                f"Rename the column, or set {parameter}.{ours} to the name that it has."
            )
        values = frame.iloc[:, found.index(theirs)]
        selected[ours] = [_as_text(value, table, theirs, row) for row, value in enumerate(values)]
    used = {theirs for theirs in mapping.values() if isinstance(theirs, str)}
    ignored = [name for name in found if name not in used]
    return pd.DataFrame({name: pd.Series(values, dtype=str) for name, values in selected.items()}), ignored


def _as_text(value: Any, table: str, column: str, row: int) -> str:
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""  # refused by the schema as blank
    # JSON and Parquet bring numbers: file 12 and label 3 are names. 1.0 or True have no one spelling as a name.
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        return str(int(value))
    raise TableError(
        f"Table {table}: row {row}, column '{column}': expected text, found {type(value).__name__} {value!r}. "
        "Write it in quotes."
    )


def check_table(
    frame: pd.DataFrame, schema: type[pa.DataFrameModel], table: str, mapping: Mapping[str, Column]
) -> pd.DataFrame:
    """Check a table whose columns were mapped.

    Args:
        frame: the table with our column names and rows numbered from 0.
        schema: what it must be.
        table: name of the table for messages.
        mapping: where our columns came from, for messages.

    Returns:
        The table.

    Raises:
        TableError: lists the first problems with row, column, what was expected and what was found.
    """
    try:
        return schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        problems = _problems(error.failure_cases, frame, mapping)
    listed = "".join(f"\n  {problem}" for problem in problems[:MAX_LISTED])
    more = f"\n  and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    raise TableError(
        f"Table {table}: {len(problems)} problem(s). Rows count from 0, without the header.{listed}{more}\n"
        "Correct the table."
    )


def _problems(cases: pd.DataFrame, frame: pd.DataFrame, mapping: Mapping[str, Column]) -> list[str]:
    joint = [str(name) for name in cases.loc[cases["check"] == "multiple_fields_uniqueness", "column"].unique()]
    problems: dict[tuple[int, str, str], str] = {}
    for case in cases.to_dict(orient="records"):
        check, column, index = str(case["check"]), str(case["column"]), case["index"]
        expected = _EXPECTED.get(check, check)
        if index is None or pd.isna(index):  # about the table as a whole
            problems[(-1, column, check)] = f"column '{column}': expected {expected}, found {case['failure_case']!r}"
            continue
        row = int(index)
        # pandera reports a combination once for each of its columns: the same key makes one line of them.
        columns = joint if check == "multiple_fields_uniqueness" else [column]
        named = " and ".join(_name(name, mapping) for name in columns)
        found = ", ".join(repr(frame.at[row, name]) for name in columns)
        problems[(row, columns[0], check)] = f"row {row}, {named}: expected {expected}, found {found}"
    return [problems[key] for key in sorted(problems)]


def _name(column: str, mapping: Mapping[str, Column]) -> str:
    theirs = mapping.get(column, column)
    same = theirs == column or isinstance(theirs, Constant)
    return f"column '{column}'" if same else f"column '{column}' (your '{theirs}')"
