"""Label maps: from the numbers in lists of videos to names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.sources import Files, Place, whole_number

# AVA writes `item { name: "…" id: 1 }` or `label { name: "…" label_id: 1 label_type: … }`.
_BODY = re.compile(r"\b(?:item|label)\s*\{([^}]*)\}")
_NAME = re.compile(r'\bname\s*:\s*"([^"]*)"')
_ID = re.compile(r"\b(?:label_)?id\s*:\s*(\d+)")

# Where it stands, its number, its name as found.
_Entry = tuple[Place, str, object]


def read_label_map(files: Files, path: Path) -> dict[int, str]:
    """Read a label map in one of the forms that lists come with.

    ``.json``: a list of names, an object from names to numbers, or one from numbers to names. ``.pbtxt``: AVA's. Others:
    number and name with a comma between, in this order (Kinetics) or the other (Moments in Time), with or without a
    header; ``1 Name`` per line (UCF101); or a name per line, counted from 0.

    Returns:
        Names by number.

    Raises:
        TableError: the file has another form, or a number stands for two names.
    """
    name = path.name.lower()
    if name.endswith(".json"):
        labels = _unique(_from_json(files, path))
    elif name.endswith((".pbtxt", ".pbtxt.txt")):
        labels = _unique(_from_pbtxt(files, path))
    else:
        labels = _unique(_from_text(files, path))
    if not labels:
        raise TableError(f"{path.name}: expected at least one label, found none.")
    return labels


def label_of(labels: Mapping[int, str], number: int, place: Place) -> str:
    """Return the name of a number.

    Raises:
        TableError: the map does not have it.
    """
    if number not in labels:
        raise TableError(
            f"{place}: expected a label from {min(labels)} to {max(labels)} that the label map has, found {number}. "
            "Is it the map of this list?"
        )
    return labels[number]


def _from_text(files: Files, path: Path) -> Iterator[_Entry]:
    rows = list(files.rows(path))
    if rows and all(len(cells) == 2 for _, cells in rows):
        header = [cell.strip().lower() for cell in rows[0][1]]
        rows = rows[1:] if set(header) in ({"id", "name"}, {"label", "index"}) else rows
        number = 0 if all(cells[0].strip().isdigit() for _, cells in rows) else 1
        yield from ((place, cells[number], cells[1 - number]) for place, cells in rows)
        return
    lines = list(files.lines(path))
    numbered = all(re.match(r"\d+\s+\S", line) for _, line in lines)
    for count, (place, line) in enumerate(lines):
        number_text, name = line.split(maxsplit=1) if numbered else (str(count), line)
        yield place, number_text, name


def _from_json(files: Files, path: Path) -> Iterator[_Entry]:
    value = files.json(path, object)
    if isinstance(value, list):
        yield from ((Place(path.name, "item", number), str(number), name) for number, name in enumerate(value))
        return
    if not isinstance(value, dict):
        raise TableError(f"{path.name}: expected a list of names or an object, found {value!r}.")
    by_number = all(key.isdigit() for key in value) and not all(str(name).isdigit() for name in value.values())
    for key, other in value.items():
        number, name = (key, other) if by_number else (other, key)
        yield Place(path.name, "key", key), str(number), name


def _from_pbtxt(files: Files, path: Path) -> Iterator[_Entry]:
    text = "\n".join(line for _, line in files.lines(path))
    for number, body in enumerate(_BODY.findall(text)):
        place = Place(path.name, "entry", number)
        name, key = _NAME.search(body), _ID.search(body)
        if name is None or key is None:
            raise TableError(f"{place}: expected a name in quotes and an id, found {body.strip()!r}.")
        yield place, key.group(1), name.group(1)


def _unique(entries: Iterable[_Entry]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for place, key, name in entries:
        number = whole_number(key, place, "the number of a label")
        if not isinstance(name, str) or not name.strip():
            raise TableError(f"{place}: expected the name of label {number}, found {name!r}.")
        if number in labels:
            raise TableError(f"{place}: expected each number once, found {number} for '{labels[number]}' and '{name}'.")
        labels[number] = name.strip()
    return labels
