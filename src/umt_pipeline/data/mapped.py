"""Annotation tables that training processes share: Arrow files, memory-mapped.

Tens of millions of rows as Python objects would be copied into every rank, and page by page into every loader worker as
soon as it counts a reference. A mapped file is in memory once per machine, whoever reads it, and opening it costs nothing.
(Parquet stays the format in which tables are kept: its columns are compressed, so that no row can be read in place.)
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import sha256_file, staged_file

if TYPE_CHECKING:
    import pandas as pd  # given by whoever has tables of it; training itself needs none


def write_mapped(path: Path, table: pd.DataFrame | pa.Table) -> None:
    """Write a table, without its index, as one uncompressed record batch; whole or not at all."""
    arrow = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    # 64-bit offsets: a column of all captions may be larger than 2 GB.
    wide = [field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field for field in arrow.schema]
    arrow = arrow.cast(pa.schema(wide)).combine_chunks()
    with staged_file(path) as staged, pa.ipc.new_file(staged, arrow.schema) as writer:
        writer.write_table(arrow)


def table_sha256(table: pd.DataFrame) -> str:
    """Return a hash of a table's columns and rows, without its index; the same on any machine."""
    digest = hashlib.sha256()
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with pa.ipc.new_stream(pa.PythonFile(_Hashing(digest), mode="w"), arrow.schema) as writer:
        writer.write_table(arrow)
    return digest.hexdigest()


class _Hashing(io.RawIOBase):
    """A file that is not kept: what is written goes into a hash."""

    def __init__(self, digest: Any) -> None:
        self._digest, self._size = digest, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._size += len(data)
        return len(data)


def write_table(workspace: Path, name: str, table: pd.DataFrame) -> Path:
    """Keep a table where training processes can map it (:class:`MappedTable`).

    Returns:
        The file, named after its content.
    """
    folder = workspace / "tables"
    unnamed = folder / f"{name}.arrow"
    write_mapped(unnamed, table)
    path = folder / f"{name}-{sha256_file(unnamed)[:16]}.arrow"
    unnamed.replace(path)
    return path


class MappedTable:
    """A table of :func:`write_mapped`. It is opened on first use, so it can be pickled into worker processes.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._opened: pa.Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def table(self) -> pa.Table:
        """The Arrow table; its buffers are the mapped file.

        Raises:
            TableError: the file is missing or no Arrow file.
        """
        if self._opened is None:
            try:
                self._opened = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
            except (OSError, pa.ArrowException) as error:
                raise TableError(
                    f"{self.path}: expected an Arrow file as training writes it, found {error}. Run the pipeline again"
                ) from error
        return self._opened

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def numbers(self, column: str) -> np.ndarray:
        """Return a column of numbers, without copying it."""
        return np.asarray(self.values(column))

    def values(self, column: str) -> pa.Array:
        """Return a column, without copying it."""
        chunks = self.table.column(column).chunks
        # One, as they are written; combine_chunks would copy it all the same.
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)

    def texts(self, column: str, rows: np.ndarray) -> list[str]:
        """Return some cells of a column of text."""
        return self.table.column(column).take(pa.array(rows)).to_pylist()

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return self.table.slice(index, 1).to_pylist()[0]

    def where(self, **equal: str) -> np.ndarray:
        """Return the rows, int64 and ascending, whose columns have these values."""
        kept = np.ones(len(self), dtype=bool)
        for column, value in equal.items():
            kept &= np.asarray(pc.equal(self.table.column(column), value))
        return np.flatnonzero(kept)
