"""Tables of which one block of rows is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pandas as pd

# Rows of a block, and of a row group of the Parquet files that are written: enough for the work on a block to cost little
# beside that on its rows.
BLOCK_ROWS = 65_536


class Blocks:
    """A table as blocks of rows, from the first row on whenever it is iterated.

    There is at least one block, and all have the same columns. An index is a number of each row; without one of their own,
    blocks count their rows from 0.

    Args:
        begin: returns the blocks, each time from the first one.
        begin_with: does so with some columns, given their names, and saves the reading of others.
    """

    def __init__(
        self,
        begin: Callable[[], Iterator[pd.DataFrame]],
        begin_with: Callable[..., Iterator[pd.DataFrame]] | None = None,
    ) -> None:
        self._begin, self._begin_with = begin, begin_with

    def only(self, *columns: str) -> Iterator[pd.DataFrame]:
        """Yield the blocks with some columns."""
        if self._begin_with is not None:
            return self._begin_with(*columns)
        return (block[list(columns)] for block in self)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self._begin()

    def read(self) -> pd.DataFrame:
        """Return the whole table, its rows numbered from 0."""
        return pd.concat(list(self), ignore_index=True)


Table = pd.DataFrame | Blocks


def as_blocks(table: Table) -> Blocks:
    """Return a table as blocks; one that is in memory anyway is cut into views."""
    if isinstance(table, Blocks):
        return table
    starts = range(0, max(1, len(table)), BLOCK_ROWS)
    return Blocks(lambda: (table.iloc[start : start + BLOCK_ROWS] for start in starts))


def regroup(blocks: Iterable[pd.DataFrame], rows: int = BLOCK_ROWS) -> Iterator[pd.DataFrame]:
    """Yield blocks of exactly so many rows, the last of the rest; rows are numbered from 0 in each. At least one is yielded.

    Args:
        blocks: of any sizes, at least one.
        rows: of a block.
    """
    waiting: list[pd.DataFrame] = []
    count = yielded = 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        while count >= rows:
            table = pd.concat(waiting, ignore_index=True) if len(waiting) > 1 else waiting[0].reset_index(drop=True)
            yield table.iloc[:rows]
            yielded += 1
            waiting, count = [table.iloc[rows:]], count - rows
    if count or not yielded:
        kept = [block for block in waiting if len(block)] or waiting[:1]
        yield pd.concat(kept, ignore_index=True) if len(kept) > 1 else kept[0].reset_index(drop=True)
