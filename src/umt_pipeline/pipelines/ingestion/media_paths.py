"""Paths in a table and files in the media folder: the same name may be written in two Unicode forms, or in two cases.

macOS writes an é as e and an accent, most others as one letter; both look the same, and on most file systems they are two
names. Only what can differ is looked up: a path of ASCII letters that no other path resembles costs no access to the disk.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from umt_pipeline.pipelines.ingestion.rows import Refused
from umt_pipeline.schemas import RowReason


def is_inside(path: str) -> bool:
    """Tell whether a path stays inside the folder that it is relative to."""
    return not PurePosixPath(path).is_absolute() and ".." not in path.split("/")


class PathNames:
    """Finds the path that a table about videos means, among those of the table of videos.

    Args:
        written: paths as the table of videos writes them.
        kept: the same rows' paths as files are called.
    """

    def __init__(self, written: Iterable[str], kept: Iterable[str]) -> None:
        self._exact: dict[str, str] = {}
        forms: dict[str, set[str]] = defaultdict(set)
        for theirs, ours in zip(written, kept, strict=True):
            self._exact.setdefault(theirs, ours)
            forms[_composed(ours)].add(ours)
        for ours in [name for names in forms.values() for name in names]:
            self._exact[ours] = ours
        self._composed = {form: next(iter(names)) for form, names in forms.items() if len(names) == 1}

    def knows(self, path: str) -> bool:
        """Tell whether a path that :meth:`find` returned is listed."""
        return path in self._exact

    def find(self, path: str) -> str:
        """Return the listed path that is written so, or, if one alone is, in another Unicode form; else the path itself."""
        return self._exact.get(path) or self._composed.get(_composed(path), path)


def match_files(folder: Path, paths: Sequence[str]) -> tuple[list[str], Refused]:
    """Give each path as the file is called, and refuse those that may mean another row's file.

    Args:
        folder: of the media.
        paths: relative to it; those outside it are left as they are.

    Returns:
        The paths: in the Unicode form of the file, where exactly one file fits; by row, those refused: several files fit, or
        there is no file of that name but another row names one that differs in case only.
    """
    disk = _Disk(folder)
    found = list(paths)
    refused: Refused = {}
    for row, path in enumerate(paths):
        if path.isascii() or not is_inside(path):
            continue
        names = disk.in_any_form(path)
        if len(names) == 1:
            found[row] = names[0]
        elif len(names) > 1:
            listed = ", ".join(ascii(name) for name in sorted(names))
            refused[row] = (
                RowReason.AMBIGUOUS_PATH,
                f"column 'video': expected a file of this name, found {listed}, which differ in Unicode form only",
            )
    for row, twin in _case_twins(found):
        if row not in refused and is_inside(found[row]) and disk.has(twin) and not disk.has(found[row]):
            refused[row] = (
                RowReason.PATH_TWIN,
                f"column 'video': expected a file, found only '{twin}' of another row, which differs in case only",
            )
    return found, refused


def _case_twins(paths: Sequence[str]) -> Iterable[tuple[int, str]]:
    """Yield each row whose path differs from others in case only, with each of these."""
    folded = [_composed(path).casefold() for path in paths]
    counts = Counter(folded)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(folded):
        if counts[key] > 1:
            groups[key].append(row)
    for rows in groups.values():
        names = list(dict.fromkeys(paths[row] for row in rows))
        for row in rows:
            yield from ((row, name) for name in names if name != paths[row])


class _Disk:
    """Names of files as folders list them, each folder read once: a file system may open names that it does not have."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[str, dict[str, list[str]]] = {}

    def has(self, path: str) -> bool:
        """Tell whether there is a file of exactly this name."""
        return path in self.in_any_form(path)

    def in_any_form(self, path: str) -> list[str]:
        """Return the file of this very name, or all whose names differ in Unicode form only."""
        found = [""]
        for part in path.split("/"):
            fitting = []
            for parent in found:
                names = self._names(parent).get(_composed(part), [])
                fitting += [f"{parent}/{name}" if parent else name for name in ([part] if part in names else names)]
            found = fitting
        return found

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for file in (self._root / folder).iterdir():
                    names[_composed(file.name)].append(file.name)
            except OSError:
                pass  # no folder, no names: probing says what is wrong with the file
            self._listed[folder] = names
        return self._listed[folder]


def _composed(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)
