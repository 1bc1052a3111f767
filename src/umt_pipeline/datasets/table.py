"""Tables in the formats that people keep them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.schemas import SCHEMA_VERSION
from umt_pipeline.tables.files import SUFFIXES, read_table

_VERSION_KEY = b"umt_schema_version"


class TableDataset(PathDataset[pd.DataFrame, pd.DataFrame]):
    """A pandas table in a ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    :func:`~umt_pipeline.tables.files.read_table` says how each is read. Written are commas, UTF-8 and lists of objects.

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
        if self.optional and not self._path.exists():
            return pd.DataFrame()
        if not self._path.is_file():
            raise TableError(
                f"{self._path}: expected a table, found nothing. "
                "Run the pipeline that makes it, or correct `filepath` in the catalog."
            )
        if self._clean:
            _check_version(self._path)
        if self._suffix == ".csv" and self._infer_types:
            return pd.read_csv(self._path)
        return read_table(self._path)

    def save(self, data: pd.DataFrame) -> None:
        """Write the table without its index.

        Raises:
            TableError: ``data`` is no table.
            UmtError: the file cannot be written.
        """
        if not isinstance(data, pd.DataFrame):
            raise TableError(f"{self._path}: expected a pandas DataFrame to write, found {type(data).__name__}.")
        with self._writing(), staged_file(self._path) as staged:
            if self._suffix in (".csv", ".tsv"):
                data.to_csv(staged, index=False, lineterminator="\n", sep="\t" if self._suffix == ".tsv" else ",")
            elif self._suffix == ".parquet":
                _write_parquet(data, staged, SCHEMA_VERSION if self._clean else None)
            else:
                lines = self._suffix == ".jsonl"
                data.to_json(staged, orient="records", lines=lines, force_ascii=False, indent=None if lines else 2)


def _write_parquet(data: pd.DataFrame, path: Path, version: int | None) -> None:
    table = pa.Table.from_pandas(data, preserve_index=False)
    if version is not None:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _VERSION_KEY: str(version).encode()})
    pq.write_table(table, path)


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
