"""Tables in the formats that people keep them in."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.schemas import SCHEMA_VERSION

_VERSION_KEY = b"umt_schema_version"


class TableDataset(PathDataset[pd.DataFrame, pd.DataFrame]):
    """A pandas table in a ``.csv``, ``.json`` (list of objects), ``.jsonl`` or ``.parquet`` file.

    CSV cells stay text (``""`` for an empty one): a file called ``001`` or a caption ``NA`` must not become a number or
    a missing value. Every row must have as many cells as the header.

    Args:
        filepath: the suffix decides the format.
        infer_types: CSV only: read columns of numbers as numbers (for tables that we wrote ourselves).
        optional: a missing file is an empty table, without columns. For tables that not every project has.
        clean: Parquet only: one of the ingestion's tables. Its file carries the version of the schemas that it was made by,
            and one of another version is refused: its columns may mean something else.
        metadata: see :class:`~umt_pipeline.datasets.base.PathDataset`.

    Raises:
        TableError: the suffix is not one of the four, or no table of this suffix can be ``clean``.
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
        if suffix not in _READERS:
            raise TableError(f"{self._path}: expected a table ending in {', '.join(_READERS)}, found '{suffix}'.")
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
        return _READERS[self._suffix](self._path)

    def save(self, data: pd.DataFrame) -> None:
        """Write the table without its index."""
        if not isinstance(data, pd.DataFrame):
            raise TableError(f"{self._path}: expected a pandas DataFrame to write, found {type(data).__name__}.")
        with staged_file(self._path) as staged:
            if self._suffix == ".csv":
                data.to_csv(staged, index=False, lineterminator="\n")
            elif self._suffix == ".parquet":
                _write_parquet(data, staged, SCHEMA_VERSION if self._clean else None)
            else:
                lines = self._suffix == ".jsonl"
                data.to_json(staged, orient="records", lines=lines, force_ascii=False, indent=None if lines else 2)


def _read_csv(path: Path) -> pd.DataFrame:
    # pandas' own parser would take a surplus cell for an index column and fill a short row up, both in silence.
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle, strict=True)
            header = next(reader, None)
            if not header:
                raise TableError(f"{path}: expected a header line with column names, found an empty file.")
            rows = []
            for cells in reader:
                if cells and len(cells) != len(header):
                    raise TableError(
                        f"{path}, line {reader.line_num}: expected {len(header)} cells ({', '.join(header)}), "
                        f"found {len(cells)}. A cell that holds a comma must be in double quotes."
                    )
                if cells:
                    rows.append(cells)
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: not valid CSV: {error}.") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: expected text in UTF-8, found other bytes: {error}.") from error
    _refuse_repeated_columns(path, header)
    return pd.DataFrame(rows, columns=pd.Index(header), dtype=str)


def _refuse_repeated_columns(path: Path, header: list[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: expected each column once, found more than one of: {', '.join(repeated)}.")


def _read_json(path: Path) -> pd.DataFrame:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise TableError(f"{path}: not valid JSON in UTF-8: {error}.") from error
    if not isinstance(records, list):
        raise TableError(f"{path}: expected a JSON list of objects, one per row, found {type(records).__name__}.")
    return _frame(path, "item", records)


def _read_json_lines(path: Path) -> pd.DataFrame:
    records = []
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, start=1):
                try:
                    records += [json.loads(line)] if line.strip() else []
                except json.JSONDecodeError as error:
                    raise TableError(f"{path}, line {number}: not valid JSON: {error}.") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: expected text in UTF-8, found other bytes: {error}.") from error
    return _frame(path, "row", records)


def _frame(path: Path, unit: str, records: list[Any]) -> pd.DataFrame:
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise TableError(f"{path}, {unit} {number}: expected an object with one key per column, found {record!r}.")
    try:
        return pd.DataFrame.from_records(records)
    except UnicodeEncodeError:
        # JSON can hold half a character ("\\ud800"), pandas' text cannot: the ingestion judges the row, not the whole table.
        return pd.DataFrame(records, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise TableError(f"{path}: not a Parquet file: {error}.") from error


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


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
