"""Rows that are not accepted: the first reason of each, the reject table made of them, and the run that ends instead."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.remedies import remedy
from umt_pipeline.schemas import Column, RowReason
from umt_pipeline.schemas.mapping import BadCell, name_column
from umt_pipeline.schemas.texts import is_blank, shown
from umt_pipeline.tables.blocks import BLOCK_ROWS
from umt_pipeline.tables.spill import Spill, SpilledRows

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


class Reject(NamedTuple):
    """A row that is not accepted: its number, its video, the reason, and what was expected and found."""

    row: int
    video: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Rejects:
    """Rows of one table that are not accepted.

    Attributes:
        parts: each in the order of the table. What is found row by row is on disk; what is found by comparing rows, and is
            in the report anyway, is a list.
    """

    parts: tuple[SpilledRows | list[Reject], ...]

    def __iter__(self) -> Iterator[Reject]:
        """Yield all, in the order of the table."""
        return heapq.merge(*(part if isinstance(part, list) else _spilled(part) for part in self.parts))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __add__(self, part: SpilledRows | list[Reject]) -> Rejects:
        return Rejects((*self.parts, part))

    def blocks(self, table: str) -> Iterator[pd.DataFrame]:
        """Yield the reject table; ``table`` is the name of the clean one. At least one block."""
        rejects = iter(self)
        block = list(islice(rejects, BLOCK_ROWS))
        while True:
            yield _rejects_table(table, block)
            block = list(islice(rejects, BLOCK_ROWS))
            if not block:
                return


def _spilled(rows: SpilledRows) -> Iterator[Reject]:
    for block in rows.blocks():
        yield from (Reject(*cells) for cells in block.itertuples(name=None))


def _rejects_table(table: str, rejects: list[Reject]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "table": pd.Series([table] * len(rejects), dtype=str),
            "row": pd.Series([reject.row for reject in rejects], dtype="int64"),
            "video": pd.Series([reject.video for reject in rejects], dtype=str),
            "reason": pd.Series([reject.reason for reject in rejects], dtype=str),
            "detail": pd.Series([reject.detail for reject in rejects], dtype=str),
            "remedy": pd.Series([remedy(reject.reason) for reject in rejects], dtype=str),
        }
    )


def named(refused: Refused, video_of: Mapping[int, str] | pd.Series[str]) -> list[Reject]:
    """Return rows that were refused, in their order, with their videos."""
    return [Reject(row, video_of[row], str(reason), detail) for row, (reason, detail) in sorted(refused.items())]


class RejectsWriter:
    """Keeps rejects on disk, as they are found.

    Args:
        spill: where.
    """

    def __init__(self, spill: Spill) -> None:
        self._writer = spill.writer()
        self._writer.add(_cells([]))

    def add(self, rejects: list[Reject]) -> None:
        """Keep rejects of the rows that follow."""
        if rejects:
            self._writer.add(_cells(rejects))

    def finish(self) -> SpilledRows:
        """Return all."""
        return self._writer.finish()


def _cells(rejects: list[Reject]) -> pd.DataFrame:
    columns = {name: pd.Series([getattr(reject, name) for reject in rejects], dtype=str) for name in Reject._fields[1:]}
    return pd.DataFrame(columns).set_axis(pd.Index([reject.row for reject in rejects], dtype="int64"))


def first_reasons(listed: pd.DataFrame, bad: Iterable[BadCell], problems: Iterable[Problem]) -> Refused:
    """Return the rows that are wrong, each with its first reason.

    Args:
        listed: rows under their numbers.
        bad: cells of theirs that are no text.
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


def check_bad_rows(table: str, rejects: Iterable[Reject], on_bad_row: OnBadRow) -> None:
    """End the run at bad rows, if it is to end there.

    Raises:
        TableError: a row is wrong and ``on_bad_row`` is ``error``; names the first rows with their columns.
    """
    if on_bad_row != "error":
        return
    wrong = (reject for reject in rejects if reject.reason not in _NOT_WRONG)
    first = list(islice(wrong, MAX_LISTED))
    if not first:
        return
    listed = "".join(f"\n  row {one.row}, {one.detail} ({one.reason}). {remedy(one.reason)}" for one in first)
    others = sum(1 for _ in wrong)
    more = f"\n  and {others} more" if others else ""
    raise TableError(
        f"Table raw_{table}: {len(first) + others} row(s) cannot be used. Rows count from 0, without the header."
        f"{listed}{more}\n"
        "Correct the table, or set ingestion.on_bad_row: reject to leave such rows out."
    )


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Return how many rejects have which reason, by its name."""
    return dict(sorted(Counter(reject.reason for reject in rejects).items()))
