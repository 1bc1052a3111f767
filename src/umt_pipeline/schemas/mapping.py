"""From a user's columns to ours, and messages that name row, column, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pandera.pandas as pa

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import TableError
from umt_pipeline.schemas.texts import as_text, shown

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


@dataclass(frozen=True)
class BadCell:
    """A cell that is no text.

    Attributes:
        row: counted from 0, without the header.
        column: our name of the column.
        value: what was found.
        reason: a :class:`~umt_pipeline.schemas.reasons.RowReason`.
        detail: the user's column, what was expected and what was found.
    """

    row: int
    column: str
    value: Any
    reason: str
    detail: str


@dataclass(frozen=True)
class Selected:
    """Our columns of a user's table.

    Attributes:
        table: the cells as text, under the numbers of the rows.
        ignored: names of the user's columns that were not used.
        bad: cells that are no text; they are ``""`` in ``table``.
    """

    table: pd.DataFrame
    ignored: list[str]
    bad: list[BadCell]


def select_columns(
    frame: pd.DataFrame, mapping: Mapping[str, Column], table: str, parameter: str, first_row: int = 0
) -> Selected:
    """Take our columns out of a user's table, as text.

    Args:
        frame: the user's table, or a block of it.
        mapping: for each of our columns, where it comes from.
        table: name of the table for messages.
        parameter: key of ``mapping`` in the parameters, for messages.
        first_row: number of the first row.

    Raises:
        TableError: a column is missing or there twice.
    """
    found = [str(name) for name in frame.columns]
    if len(set(found)) != len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        raise TableError(f"Table {table}: expected each column once, found more than one of: {', '.join(twice)}.")
    selected: dict[str, Sequence[str]] = {}
    bad: list[BadCell] = []
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
        cells = frame.iloc[:, found.index(theirs)]
        if isinstance(cells.dtype, pd.StringDtype):  # nothing but whole texts and missing ones
            selected[ours] = cells.fillna("").tolist()
            continue
        texts: list[str] = []
        selected[ours] = texts
        for row, value in enumerate(cells, start=first_row):
            try:
                texts.append(as_text(value))
            except ValueError as error:
                reason, detail = error.args
                bad.append(BadCell(row, ours, value, str(reason), f"{name_column(ours, mapping)}: {detail}"))
                texts.append("")
    used = {theirs for theirs in mapping.values() if isinstance(theirs, str)}
    ignored = [name for name in found if name not in used]
    rows = pd.DataFrame({name: pd.Series(values, dtype=str) for name, values in selected.items()})
    return Selected(rows.set_axis(pd.RangeIndex(first_row, first_row + len(rows))), ignored, bad)


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
        named = " and ".join(name_column(name, mapping) for name in columns)
        found = ", ".join(shown(frame.at[row, name]) for name in columns)
        problems[(row, columns[0], check)] = f"row {row}, {named}: expected {expected}, found {found}"
    return [problems[key] for key in sorted(problems)]


def name_column(column: str, mapping: Mapping[str, Column]) -> str:
    """Return one of our columns as messages name it, with the user's name of it if that is another."""
    theirs = mapping.get(column, column)
    same = theirs == column or isinstance(theirs, Constant)
    return f"column '{column}'" if same else f"column '{column}' (your '{theirs}')"
