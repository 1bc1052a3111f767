"""Rows that are not accepted: the first reason of each, the reject table made of them, and the run that ends instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.remedies import remedy
from umt_pipeline.schemas import Column, RowReason
from umt_pipeline.schemas.mapping import BadCell, name_column
from umt_pipeline.schemas.texts import is_blank, shown

# Rows that a message lists; it counts the others.
MAX_LISTED = 5

OnBadRow = Literal["reject", "error"]
Row = dict[Any, Any]
Problem = tuple[pd.Series, str, Callable[[Row], str]]
"""Rows that are wrong, the reason, and what to say of such a row."""

Refused = dict[int, tuple[str, str]]
"""By number of the row: the reason, and what was expected and found."""

# A row with such a reason is right in itself: parameters of their own, or the fate of its video, decide.
_NOT_WRONG = frozenset(
    {
        RowReason.VIDEO_REJECTED,
        RowReason.DUPLICATE_CONTENT,
        RowReason.CONTENT_IN_TWO_SPLITS,
        RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS,
    }
)


def first_reasons(listed: pd.DataFrame, bad: Iterable[BadCell], problems: Iterable[Problem]) -> Refused:
    """Return the rows that are wrong, each with its first reason.

    Args:
        listed: the rows, numbered from 0.
        bad: cells that are no text.
        problems: what is wrong with which rows, in the order in which it is looked for.
    """
    refused: Refused = {}
    for cell in bad:
        refused.setdefault(cell.row, (cell.reason, cell.detail))
    for wrong, reason, describe in problems:
        found = listed[wrong.to_numpy(bool)]
        for row, cells in zip(found.index.tolist(), found.to_dict("records"), strict=True):
            if row not in refused:
                refused[row] = (str(reason), describe(cells))
    return refused


def blank_cells(listed: pd.DataFrame, mapping: Mapping[str, Column], *columns: str) -> Iterable[Problem]:
    """Find cells without anything to see in columns that need a value."""
    for column in columns:
        reason = RowReason.BLANK_CAPTION if column == "caption" else RowReason.BLANK_CELL
        expected = f"{name_column(column, mapping)}: expected text that is not blank"
        yield listed[column].map(is_blank).astype(bool), reason, partial(found_in, column, expected)


def found_in(column: str, expected: str, row: Row) -> str:
    """Say what was expected of a cell and what was found."""
    return f"{expected}, found {shown(row[column])}"


def rejects_table(table: str, refused: Refused, video_R: pd.Series) -> pd.DataFrame:
    """Return the reject table of a raw table, in the order of its rows.

    Args:
        table: name of the clean table.
        refused: its rows that were not accepted.
        video_R: the video of each of its rows.
    """
    rows = sorted(refused)
    reasons = [refused[row][0] for row in rows]
    return pd.DataFrame(
        {
            "table": pd.Series([table] * len(rows), dtype=str),
            "row": pd.Series(rows, dtype="int64"),
            "video": pd.Series([video_R.iloc[row] for row in rows], dtype=str),
            "reason": pd.Series(reasons, dtype=str),
            "detail": pd.Series([refused[row][1] for row in rows], dtype=str),
            "remedy": pd.Series([remedy(reason) for reason in reasons], dtype=str),
        }
    )


def check_bad_rows(table: str, refused: Refused, on_bad_row: OnBadRow) -> None:
    """End the run at bad rows, if it is to end there.

    Raises:
        TableError: a row is wrong and ``on_bad_row`` is ``error``; names the first rows with their columns.
    """
    wrong = sorted(row for row, (reason, _) in refused.items() if reason not in _NOT_WRONG)
    if not wrong or on_bad_row != "error":
        return
    listed = "".join(
        f"\n  row {row}, {refused[row][1]} ({refused[row][0]}). {remedy(refused[row][0])}" for row in wrong[:MAX_LISTED]
    )
    more = f"\n  and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
    raise TableError(
        f"Table raw_{table}: {len(wrong)} row(s) cannot be used. Rows count from 0, without the header.{listed}{more}\n"
        "Correct the table, or set ingestion.on_bad_row: reject to leave such rows out."
    )
