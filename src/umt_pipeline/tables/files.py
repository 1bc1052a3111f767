"""Tables in the files that people keep them in: CSV of any delimiter, JSON, JSON lines, Parquet; nothing guessed or changed."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.blocks import BLOCK_ROWS, Blocks, as_blocks

# What may stand between cells, by how common it is.
DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
# Rows that are asked when the header alone leaves several delimiters.
_ROWS_ASKED = 100
# UTF-32's mark begins with UTF-16's, so it is asked first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_table(path: Path) -> pd.DataFrame:
    """Read a whole table; see :func:`open_table`."""
    return open_table(path).read()


def open_table(path: Path) -> Blocks:
    """Return a table as blocks of rows; its suffix, in any case, says the format.

    ===========  =======================================================================================================
    ``.csv``     cells are text, ``""`` where empty: a file called ``001`` or a caption ``NA`` is no number and not missing.
                 The delimiter (comma, semicolon, tab, pipe) is found from the header, or named by Excel's ``sep=;`` above
                 it. Cells that hold it, a quote or a line break are in double quotes. Blank lines are left out.
    ``.tsv``     the same with tabs.
    ``.json``    a list of objects, one per row, or an object of lists of one length, one per column. It is read whole: for
                 millions of rows the other formats need less memory.
    ``.jsonl``   one object per line.
    ``.parquet``
    ===========  =======================================================================================================

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Numbers of JSON and Parquet stay what they are: a missing
    value makes no 7.0 of a 7.

    Raises:
        TableError: here or from the blocks: the suffix is another one, or the file is missing, cannot be read, is empty or
            malformed; the message names the line where there is one.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TableError(f"{path}: expected a table ending in {', '.join(SUFFIXES)}, found '{path.suffix}'.")
    if not path.is_file():
        raise TableError(f"{path}: expected a table, found {'no file' if path.exists() else 'nothing'}.")
    return Blocks(partial(_blocks, path, reader))


def _blocks(path: Path, reader: Callable[[Path], Iterator[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    try:
        yield from reader(path)
    except OSError as error:
        raise TableError(f"{path}: expected a table, found what cannot be read: {error.strerror or error}.") from error


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; all line ends become LF.

    Raises:
        TableError: it holds other bytes.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        return data.decode(_encoding(data)).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeError as error:
        raise _not_text(path, error) from error


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def _open(path: Path, newline: str | None = "") -> TextIO:
    with path.open("rb") as handle:
        encoding = _encoding(handle.read(4))
    return path.open(encoding=encoding, newline=newline)


def _not_text(path: Path, error: UnicodeError) -> TableError:
    place = f"{path}"
    with path.open("rb") as handle:
        if not handle.read(4).startswith(tuple(mark for mark, _ in _MARKS[1:])):
            handle.seek(0)
            place += f", line {next((number for number, line in enumerate(handle, start=1) if not _is_utf8(line)), 1)}"
    remedy = "Save the file as UTF-8 (in Excel: 'CSV UTF-8')"
    return TableError(f"{place}: expected text in UTF-8, found other bytes: {error}. {remedy}.")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# --- CSV --------------------------------------------------------------------------------------------------------------
def _read_csv(path: Path, delimiter: str | None = None) -> Iterator[pd.DataFrame]:
    # pandas' own parser would take a surplus cell for an index column and fill a short row up, both in silence.
    try:
        with _open(path) as handle:
            first = handle.readline()
            named = first.rstrip("\r\n").removeprefix("sep=") if first.startswith("sep=") else ""
            if named not in DELIMITERS:
                handle.seek(0)
            delimiter = delimiter or (named if named in DELIMITERS else _delimiter(path))
            yield from _rows(path, handle, delimiter, before=int(named in DELIMITERS))
    except UnicodeError as error:
        raise _not_text(path, error) from error


def _rows(path: Path, handle: TextIO, delimiter: str, before: int) -> Iterator[pd.DataFrame]:
    reader = csv.reader(handle, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    begins = before + 1  # the line in which a row begins: one with line breaks in its cells has several
    blocks = 0
    try:
        header = [name.strip() for name in next((cells for cells in reader if cells), [])]
        _check_header(path, header)
        begins = before + reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise TableError(
                    f"{path}, line {begins}: expected {len(header)} cells ({', '.join(header)}), found {len(cells)}. "
                    f"A cell that holds a {_NAMES[delimiter]} must be in double quotes."
                )
            if cells:
                rows.append(cells)
            if len(rows) == BLOCK_ROWS:
                yield pd.DataFrame(rows, columns=pd.Index(header), dtype=str)
                rows, blocks = [], blocks + 1
            begins = before + reader.line_num + 1
    except csv.Error as error:
        place = f"line {before + reader.line_num}"
        raise TableError(f"{path}, {place}: not valid CSV: {error}, in the row that begins in line {begins}.") from error
    if rows or not blocks:
        yield pd.DataFrame(rows, columns=pd.Index(header), dtype=str)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise TableError(f"{path}: expected a header line with column names, found an empty file.")
    if any("\0" in name for name in header):
        raise TableError(f"{path}, line 1: expected text, found zero bytes. Save the file as UTF-8.")
    repeated = sorted({name or "''" for name in header if header.count(name) > 1})
    if repeated:
        raise TableError(f"{path}: expected each column once, found more than one of: {', '.join(repeated)}.")


def _delimiter(path: Path) -> str:
    """Return what parts the header into cells, a comma if nothing does.

    A name with a quote in it speaks against a delimiter (``a;"b,c"`` parted at the comma), and so does a row with another
    number of cells than the header.

    Raises:
        TableError: several do.
    """
    found = {delimiter: _start(path, delimiter, 1) for delimiter in DELIMITERS}
    left = [delimiter for delimiter, rows in found.items() if rows and len(rows[0]) > 1]
    if len(left) > 1:
        left = [delimiter for delimiter in left if not any('"' in name for name in found[delimiter][0])] or left
    if len(left) > 1:
        starts = {delimiter: _start(path, delimiter, _ROWS_ASKED) for delimiter in left}
        left = [delimiter for delimiter, rows in starts.items() if rows and len(set(map(len, rows))) == 1] or left
    if len(left) > 1:
        raise TableError(
            f"{path}, line 1: expected one delimiter, found {' and '.join(_NAMES[delimiter] for delimiter in left)}. "
            "Put column names that hold one in double quotes."
        )
    return left[0] if left else ","


def _start(path: Path, delimiter: str, rows: int) -> list[list[str]]:
    """Return the first rows; none if they are not valid."""
    with _open(path) as handle:
        try:
            return list(islice((cells for cells in csv.reader(handle, delimiter=delimiter, strict=True) if cells), rows))
        except csv.Error:
            return []


def _read_tsv(path: Path) -> Iterator[pd.DataFrame]:
    return _read_csv(path, delimiter="\t")


# --- JSON -------------------------------------------------------------------------------------------------------------
def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands twice in one object")
    return record


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds an object with a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_json(path: Path) -> Iterator[pd.DataFrame]:
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        hint = " One object per line is a .jsonl file: rename it." if str(error).startswith("Extra data") else ""
        raise TableError(f"{path}: not valid JSON: {error}.{hint}") from error
    if isinstance(value, list):
        names = _names(path, "item", value)
        for start in range(0, max(1, len(value)), BLOCK_ROWS):
            yield _frame(path, names, value[start : start + BLOCK_ROWS])
        return
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        raise TableError(
            f"{path}: expected a JSON list of objects, one per row, or an object of lists, one per column; "
            f"found {_shown(value)}."
        )
    lengths = {name: len(column) for name, column in value.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"{path}: expected lists of one length, one per column; found {lengths}.")
    yield from as_blocks(_table(path, value))


def _read_json_lines(path: Path) -> Iterator[pd.DataFrame]:
    names = _names(path, "row", _json_lines(path))  # a first time, for any line may bring a column
    records = _json_lines(path)
    block = list(islice(records, BLOCK_ROWS))
    while True:
        yield _frame(path, names, block)
        block = list(islice(records, BLOCK_ROWS))
        if not block:
            return


def _json_lines(path: Path) -> Iterator[Any]:
    try:
        with _open(path, newline=None) as handle:
            for number, line in enumerate(handle, start=1):
                try:
                    if line.strip():
                        yield parse_json(line)
                except ValueError as error:
                    raise TableError(f"{path}, line {number}: not valid JSON: {error}.") from error
    except UnicodeError as error:
        raise _not_text(path, error) from error


def _names(path: Path, unit: str, records: Iterable[Any]) -> list[str]:
    names: dict[str, None] = {}
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise TableError(f"{path}, {unit} {number}: expected an object with one key per column, found {_shown(record)}.")
        names.update(dict.fromkeys(record))
    return list(names)


def _frame(path: Path, names: Sequence[str], records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return _table(path, {name: [record.get(name) for record in records] for name in names})


def _table(path: Path, columns: dict[str, list[Any]]) -> pd.DataFrame:
    try:
        return pd.DataFrame({name: _column(values) for name, values in columns.items()})
    except UnicodeEncodeError as error:
        raise TableError(f"{path}: expected names of columns that are text, found: {error}.") from error


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    """Return a column in which nothing has changed: pandas would make 7.0 of a 7 beside a missing value."""
    missing = [value is None or value != value for value in values]
    kinds = {type(value) for value, gone in zip(values, missing, strict=True) if not gone}
    kept = kinds in ({str}, {float}, {int, float}) or (kinds in ({int}, {bool}) and not any(missing))
    try:
        return pd.Series(values) if kept else pd.Series(values, dtype=object)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can write: a column of text cannot hold it
        return pd.Series(values, dtype=object)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


# --- Parquet ----------------------------------------------------------------------------------------------------------
def _read_parquet(path: Path) -> Iterator[pd.DataFrame]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise ValueError(f"columns of one name: {', '.join(schema.names)}")
            blocks = 0
            for batch in file.iter_batches(BLOCK_ROWS, use_threads=False):
                yield _plain(pa.Table.from_batches([batch], schema))
                blocks += 1
            if not blocks:
                yield _plain(schema.empty_table())
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise TableError(f"{path}: not a Parquet file: {error}.") from error


def _plain(rows: pa.Table) -> pd.DataFrame:
    table = rows.to_pandas(integer_object_nulls=True)
    # A dictionary is a way to store a column, not another kind of value.
    kinds = {name: kind.categories.dtype for name, kind in table.dtypes.items() if isinstance(kind, pd.CategoricalDtype)}
    return table.astype(kinds) if kinds else table


_READERS: dict[str, Callable[[Path], Iterator[pd.DataFrame]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
