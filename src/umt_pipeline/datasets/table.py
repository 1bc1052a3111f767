"""Tables in the formats that people keep them in."""

from __future__ import annotations

from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.tables.files import SUFFIXES, read_table


class TableDataset(PathDataset[pd.DataFrame, pd.DataFrame]):
    """A pandas table in a ``.csv``, ``.tsv``, ``.json``, ``.jsonl`` or ``.parquet`` file.

    :func:`~umt_pipeline.tables.files.read_table` says how each is read. Written are commas, UTF-8 and lists of objects.

    Args:
        filepath: the suffix decides the format.
        infer_types: CSV only: read columns of numbers as numbers (for tables that we wrote ourselves).
        optional: a missing file is an empty table, without columns. For tables that not every project has.
        metadata: see :class:`~umt_pipeline.datasets.base.PathDataset`.

    Raises:
        TableError: the suffix is not one of the five.
    """

    def __init__(
        self,
        filepath: str,
        infer_types: bool = False,
        optional: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath, metadata)
        self.optional = optional
        self._infer_types = infer_types
        suffix = self._path.suffix.lower()
        if suffix not in SUFFIXES:
            raise TableError(f"{self._path}: expected a table ending in {', '.join(SUFFIXES)}, found '{suffix}'.")
        self._suffix = suffix

    def load(self) -> pd.DataFrame:
        """Read the table.

        Raises:
            TableError: the file is missing and not optional, empty or malformed; the message names the line where there is
                one.
        """
        if self.optional and not self._path.exists():
            return pd.DataFrame()
        if not self._path.is_file():
            raise TableError(
                f"{self._path}: expected a table, found nothing. "
                "Run the pipeline that makes it, or correct `filepath` in the catalog."
            )
        if self._suffix == ".csv" and self._infer_types:
            return pd.read_csv(self._path)
        return read_table(self._path)

    def save(self, data: pd.DataFrame) -> None:
        """Write the table without its index."""
        if not isinstance(data, pd.DataFrame):
            raise TableError(f"{self._path}: expected a pandas DataFrame to write, found {type(data).__name__}.")
        with staged_file(self._path) as staged:
            if self._suffix in (".csv", ".tsv"):
                data.to_csv(staged, index=False, lineterminator="\n", sep="\t" if self._suffix == ".tsv" else ",")
            elif self._suffix == ".parquet":
                data.to_parquet(staged, index=False)
            else:
                lines = self._suffix == ".jsonl"
                data.to_json(staged, orient="records", lines=lines, force_ascii=False, indent=None if lines else 2)
