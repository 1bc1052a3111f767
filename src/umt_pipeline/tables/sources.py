"""The files of one reading: found by role, decoded, taken apart, every step naming file and line when it fails."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from umt_pipeline.core.errors import TableError

T = TypeVar("T")

_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


class Place(NamedTuple):
    """Where something stands: a file's name, and its line, item or key there."""

    file: str
    unit: str
    number: int | str

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


@dataclass
class Notes:
    """Things worth a warning, counted by kind, each with the place where it was seen first."""

    seen: dict[str, int] = field(default_factory=dict)
    first: dict[str, Place] = field(default_factory=dict)

    def add(self, kind: str, place: Place) -> None:
        """Count one thing of a kind; ``kind`` reads well after a number."""
        self.seen[kind] = self.seen.get(kind, 0) + 1
        self.first.setdefault(kind, place)

    def lines(self) -> list[str]:
        """Return one sentence per kind."""
        return [f"{count} {kind} (first: {self.first[kind]})" for kind, count in self.seen.items()]


def _bytes_as_latin1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("umt_bytes_as_latin1", _bytes_as_latin1)


class Files:
    """Annotation files by role.

    Text is UTF-8, with or without a byte order mark, with LF or CRLF. Single bytes that are not UTF-8 are read as Latin-1,
    as LSMDC's need to be, and noted.

    Args:
        given: the files of each role. A role without a file is left out.
    """

    def __init__(self, given: Mapping[str, Sequence[Path]]) -> None:
        self._given = {role: tuple(paths) for role, paths in given.items() if paths}
        self.notes = Notes()

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        for role, paths in self._given.items():
            for path in paths:
                yield role, path

    def all(self, role: str) -> tuple[Path, ...]:
        """Return the files of a role; none if the role is not there."""
        return self._given.get(role, ())

    def get(self, role: str) -> Path | None:
        """Return the only file of a role, or None.

        Raises:
            TableError: there are several.
        """
        paths = self.all(role)
        if len(paths) > 1:
            raise TableError(f"Expected one file as {role}, found {len(paths)}: {', '.join(map(str, paths))}.")
        return paths[0] if paths else None

    def splits(self, suffix: str = "") -> Iterator[tuple[str, Path]]:
        """Yield split and file for each of the roles ``train``, ``validation`` and ``test`` that has a file."""
        for split in ("train", "validation", "test"):
            path = self.get(split + suffix)
            if path is not None:
                yield split, path

    def lines(self, path: Path) -> Iterator[tuple[Place, str]]:
        """Yield the lines that are not blank, without their ends, numbered from 1."""
        name = path.name
        for number, line in enumerate(self._raw_lines(path), start=1):
            if line.strip():
                yield Place(name, "line", number), line.rstrip("\r\n")

    def rows(self, path: Path) -> Iterator[tuple[Place, list[str]]]:
        """Yield the cells of each line that is not blank. A cell with a comma or a line break is in double quotes.

        Raises:
            TableError: a quote is not closed.
        """
        name = path.name
        reader = csv.reader(self._raw_lines(path), strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield Place(name, "line", reader.line_num), cells
        except csv.Error as error:
            raise TableError(f"{name}, line {reader.line_num}: not valid CSV: {error}.") from error

    def tabbed(self, path: Path) -> Iterator[tuple[Place, list[str]]]:
        """Yield the cells of each line of a file with tabs, in which quotes mean nothing."""
        for place, line in self.lines(path):
            yield place, line.split("\t")

    def table(self, path: Path, *columns: str) -> Iterator[tuple[Place, dict[str, str]]]:
        """Yield the rows of a CSV file with a header, as mappings from column names.

        Raises:
            TableError: a column is missing, the file is empty, or a row has more or fewer cells than the header.
        """
        rows = self.rows(path)
        _, header = next(rows, (None, []))
        header = [name.strip() for name in header]
        missing = [name for name in columns if name not in header]
        if missing:
            raise TableError(
                f"{path.name}, line 1: expected a header with the columns {', '.join(columns)}; "
                f"found {', '.join(header) or 'an empty file'}; missing: {', '.join(missing)}."
            )
        for place, cells in rows:
            if len(cells) != len(header):
                raise TableError(f"{place}: expected {len(header)} cells ({', '.join(header)}), found {len(cells)}.")
            yield place, dict(zip(header, cells, strict=True))

    def json(self, path: Path, kind: type[T]) -> T:
        """Read a JSON file whose value is a list or an object.

        Raises:
            TableError: the file is not JSON, or its value is of another type.
        """
        text = self._decoded(path.name, 1, path.read_bytes())
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise TableError(f"{path.name}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}.") from error
        if not isinstance(value, kind):
            raise TableError(f"{path.name}: expected {_NAMES[kind]}, found {_shown(value)}.")
        return value

    def items(self, path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
        """Yield the objects of a JSON list, numbered from 0."""
        yield from objects(self.json(path, list), path.name)

    def _raw_lines(self, path: Path) -> Iterator[str]:
        name = path.name
        with path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                yield self._decoded(name, number, line)

    def _decoded(self, file: str, line: int, data: bytes) -> str:
        if line == 1:
            if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise TableError(f"{file}: expected text in UTF-8, found UTF-16. Convert the file.")
            data = data.removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            place = Place(file, "line", line + data[: error.start].count(b"\n"))
            self.notes.add("lines with bytes that are not UTF-8 were read as Latin-1", place)
            return data.decode("utf-8", errors="umt_bytes_as_latin1")


def objects(values: list[Any], file: str, unit: str = "item") -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the objects of a list with their places.

    Raises:
        TableError: one of the values is not an object.
    """
    for number, value in enumerate(values):
        place = Place(file, unit, number)
        if not isinstance(value, dict):
            raise TableError(f"{place}: expected an object, found {_shown(value)}.")
        yield place, value


def value_of(record: Mapping[str, Any], key: str, kind: type[T], place: Place) -> T:
    """Return a value of a JSON object.

    Raises:
        TableError: the key is missing or its value has another type.
    """
    if key not in record:
        raise TableError(f"{place}: expected the key '{key}', found {', '.join(map(str, record)) or 'no key'}.")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TableError(f"{place}, key '{key}': expected {_NAMES[kind]}, found {_shown(value)}.")
    return value


def name_of(record: Mapping[str, Any], key: str, place: Place) -> str:
    """Return a value of a JSON object that names something, which may be text or a whole number.

    Raises:
        TableError: the key is missing, or its value is of another type or blank.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = value_of(record, key, str, place)
    if not text.strip():
        raise TableError(f"{place}, key '{key}': expected text that is not blank, found {text!r}.")
    return text


def texts_of(record: Mapping[str, Any], key: str, place: Place) -> list[str]:
    """Return a value of a JSON object that is a text or a list of texts, as a list.

    Raises:
        TableError: the key is missing, or its value is of another type.
    """
    value = value_of(record, key, object, place)
    texts = []
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            raise TableError(f"{place}, key '{key}': expected text or a list of texts, found {_shown(text)}.")
        texts.append(text)
    return texts


def whole_number(text: str, place: Place, what: str) -> int:
    """Return a cell as a whole number.

    Raises:
        TableError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise TableError(f"{place}: expected {what}, a whole number; found {text!r}.") from None


def number_of(text: str, place: Place, what: str) -> float:
    """Return a cell as a number.

    Raises:
        TableError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise TableError(f"{place}: expected {what}, a number; found {text!r}.") from None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
