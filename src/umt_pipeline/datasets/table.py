"""Tables in the formats that people keep them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets.base import PathDataset, TablePreview
from umt_pipeline.schemas import SCHEMA_VERSION
from umt_pipeline.tables.blocks import Blocks, Table, as_blocks, regroup
from umt_pipeline.tables.files import SUFFIXES, open_table
from umt_pipeline.tables.spill import ParquetWriter

_VERSION_KEY = b"umt_schema_version"


class TableDataset(PathDataset[Table, Any]):
    """A table in a ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    :func:`~umt_pipeline.tables.files.open_table` says how each is read. Written are commas, UTF-8 and lists of objects; and a
    row group of a Parquet file for each :data:`~umt_pipeline.tables.blocks.BLOCK_ROWS` rows.

    Args:
        filepath: the suffix decides the format.
        infer_types: CSV only: read columns of numbers as numbers (for tables that we wrote ourselves).
        optional: a missing file is an empty table, without columns. For tables that not every project has.
        clean: Parquet only: one of the ingestion's tables. Its file carries the version of the schemas that it was made by,
            and one of another version is refused: its columns may mean something else.
        metadata: see :class:`~umt_pipeline.datasets.base.PathDataset`.

    Raises:
        TableError: the suffix is not one of the five, or no table of this suffix can be ``clean``.
    """

    def __init__(
        self,
        filepath: str,
        infer_types: bool = False,
        optional: bool = False,
        clean: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath, metadata)
        self.optional = optional
        self._infer_types = infer_types
        self._clean = clean
        suffix = self._path.suffix.lower()
        if clean and suffix != ".parquet":
            raise TableError(f"{self._path}: expected a clean table to end in .parquet, found '{suffix}'.")
        if suffix not in SUFFIXES:
            raise TableError(f"{self._path}: expected a table ending in {', '.join(SUFFIXES)}, found '{suffix}'.")
        self._suffix = suffix

    def load(self) -> pd.DataFrame:
        """Read the table.

        Raises:
            TableError: the file is missing and not optional, empty or malformed, or a clean table of another version; the
                message names the line where there is one.
        """
        if self._clean and self._path.is_file():
            _check_version(self._path)
        if self._suffix == ".csv" and self._infer_types and self._path.is_file():
            return pd.read_csv(self._path)
        return self._open().read()

    def _open(self) -> Blocks:
        if self.optional and not self._path.exists():
            return as_blocks(pd.DataFrame())
        if not self._path.is_file():
            raise TableError(
                f"{self._path}: expected a table, found nothing. "
                "Run the pipeline that makes it, or correct `filepath` in the catalog."
            )
        return open_table(self._path)

    def preview(self, rows: int = 10) -> TablePreview:
        """Return the first rows as Kedro-Viz shows them; ``metadata: {kedro-viz: {preview_args: {rows: 20}}}`` shows more.

        Raises:
            TableError: see :meth:`load`.
        """
        head = next(iter(self._open()), pd.DataFrame()).head(rows)
        return TablePreview(json.loads(head.to_json(orient="split", default_handler=str, date_format="iso")))

    def save(self, data: Table) -> None:
        """Write a table without its index. Of one in blocks, one block is in memory at a time if the file is Parquet.

        Raises:
            TableError: ``data`` is no table.
            UmtError: the file cannot be written.
        """
        if not isinstance(data, Table):
            raise TableError(f"{self._path}: expected a table to write, found {type(data).__name__}.")
        with self._writing(), staged_file(self._path) as staged:
            if self._suffix == ".parquet":
                metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode()} if self._clean else None
                with ParquetWriter(staged, metadata) as writer:
                    for block in regroup(as_blocks(data)):
                        writer.add(block)
                return
            table = data.read() if isinstance(data, Blocks) else data
            if self._suffix in (".csv", ".tsv"):
                table.to_csv(staged, index=False, lineterminator="\n", sep="\t" if self._suffix == ".tsv" else ",")
            else:
                lines = self._suffix == ".jsonl"
                table.to_json(staged, orient="records", lines=lines, force_ascii=False, indent=None if lines else 2)


class RawTableDataset(TableDataset):
    """A table of the user's, which may have many rows: what is loaded is read block by block while it is used."""

    def load(self) -> Blocks:  # type: ignore[override]
        """Return the table; reading it raises what :meth:`TableDataset.load` does."""
        return self._open()


def _check_version(path: Path) -> None:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: not a Parquet file: {error}.") from error
    found = metadata.get(_VERSION_KEY, b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise TableError(
            f"{path}: expected a clean table of schema version {SCHEMA_VERSION}, found version {found}. Another version of the "
            "program wrote it: run ingestion again (`dvc repro`, or `kedro run --pipelines ingestion`)."
        )
