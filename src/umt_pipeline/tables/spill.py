"""Tables on disk while a pipeline works on them: written block by block, read block by block or row by row."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from umt_pipeline.core.locking import LOCK_FILE, try_lock

# Name of the index of spilled tables: the number of a row in the user's table.
ROW = "row"


class ParquetWriter:
    """Writes a Parquet file, a row group for each block.

    The types of the columns are those of the first block. Where that says nothing about what lists hold, it is texts if more
    blocks follow; a file of one block says nothing either.

    Args:
        path: of the file.
        metadata: kept in the file.
    """

    def __init__(self, path: Path, metadata: Mapping[bytes, bytes] | None = None) -> None:
        self._path, self._metadata = path, dict(metadata or {})
        self._first: pa.Table | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or self._writer is not None:
            self.close()

    def close(self) -> None:
        """End the file, of at least one block."""
        if self._writer is not None:
            self._writer.close()
        elif self._first is not None:
            pq.write_table(self._with_metadata(self._first), self._path)

    def add(self, block: pd.DataFrame) -> None:
        """Write rows, without their index."""
        if self._first is None:
            self._first = pa.Table.from_pandas(block, preserve_index=False)
            return
        if self._writer is None:
            first = self._with_metadata(self._first)
            schema = pa.schema([field.with_type(_said(field.type)) for field in first.schema], first.schema.metadata)
            self._writer = pq.ParquetWriter(self._path, schema)
            self._writer.write_table(first.cast(schema))
            self._first = first.slice(0, 0)
        self._writer.write_table(pa.Table.from_pandas(block, schema=self._writer.schema, preserve_index=False))

    def _with_metadata(self, table: pa.Table) -> pa.Table:
        return table.replace_schema_metadata({**(table.schema.metadata or {}), **self._metadata})


def _said(kind: pa.DataType) -> pa.DataType:
    unsaid = pa.types.is_null(kind) or (pa.types.is_list(kind) and pa.types.is_null(kind.value_type))
    return pa.list_(pa.string()) if unsaid else kind


class SpilledRows:
    """A table in a :class:`Spill`, read as often as one likes. Each row has its number in the user's table as its index.

    *Places* count the rows of this table from 0.
    """

    def __init__(self, path: Path, spill: Spill) -> None:
        self._path, self._spill = path, spill  # the files live as long as somebody holds the spill
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self.columns = [name for name in file.schema_arrow.names if name != ROW]
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nobody changes it, and the files are there once

    def blocks(self, *columns: str) -> Iterator[pd.DataFrame]:
        """Yield the blocks as they were written, with some columns or all; at least one."""
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                yield _frame(file.read_row_group(group, [ROW, *(columns or self.columns)], use_threads=False))
            if not file.num_row_groups:
                yield _frame(file.schema_arrow.empty_table().select([ROW, *(columns or self.columns)]))

    def take(self, places: np.ndarray, *columns: str) -> pd.DataFrame:
        """Return the rows at some places, in the order of these, with some columns or all."""
        names = [ROW, *(columns or self.columns)]
        group_P = np.searchsorted(self._starts, places, side="right") - 1
        parts, order = [], []
        with pq.ParquetFile(self._path) as file:
            for group in np.unique(group_P).tolist():
                (here,) = np.nonzero(group_P == group)
                rows = file.read_row_group(group, names, use_threads=False)
                parts.append(rows.take(pa.array(places[here] - self._starts[group])))
                order.append(here)
            found = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(names)
        back = np.argsort(np.concatenate([np.empty(0, np.int64), *order]), kind="stable")
        return _frame(found if len(parts) < 2 else found.take(pa.array(back)))


def _frame(table: pa.Table) -> pd.DataFrame:
    lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
    frame = table.to_pandas()
    for name in lists:  # pandas would have arrays, of which no two are equal
        frame[name] = pd.Series(table[name].to_pylist(), index=frame.index, dtype=object)
    return frame.set_index(ROW)


class RowsWriter:
    """Writes a spilled table; :meth:`finish` gives it back."""

    def __init__(self, path: Path, spill: Spill) -> None:
        self._path, self._spill, self._writer = path, spill, ParquetWriter(path)

    def add(self, block: pd.DataFrame) -> None:
        """Write rows with their index. The first block says the columns, and may be without rows."""
        self._writer.add(block.rename_axis(ROW).reset_index())

    def finish(self) -> SpilledRows:
        """End the table, of at least one block, and return it."""
        self._writer.close()
        return SpilledRows(self._path, self._spill)


class Spill:
    """A folder of tables that vanishes with the last of them.

    What a killed process has left is removed by the next one.

    Args:
        parent: folder for such folders.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.iterdir():
            _remove_abandoned(folder)
        self._folder = Path(tempfile.mkdtemp(dir=parent))
        lock = (self._folder / LOCK_FILE).open("ab")
        try_lock(lock)
        self._tables = 0
        weakref.finalize(self, _remove, self._folder, lock, os.getpid())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def writer(self) -> RowsWriter:
        """Begin a table."""
        self._tables += 1
        return RowsWriter(self._folder / f"{self._tables}.parquet", self)


def _remove(folder: Path, lock: IO[bytes], owner: int) -> None:
    if os.getpid() == owner:  # and not a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _remove_abandoned(folder: Path) -> None:
    try:
        with (folder / LOCK_FILE).open("r+b") as lock:
            if try_lock(lock):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # removed by another process, or not one of ours
        pass
