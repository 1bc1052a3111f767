"""Paths in a table and files in the media folder: the same name may be written in two Unicode forms, or in two cases.

macOS writes an é as e and an accent, most others as one letter; both look the same, and on most file systems they are two
names. Only what can differ is looked up: a path of ASCII letters that no other path resembles costs no access to the disk.

Shapes: P paths.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from umt_pipeline.pipelines.ingestion.rows import Refused
from umt_pipeline.schemas import RowReason
from umt_pipeline.tables.keys import KeyIndex, digests

_NONE = -1


def is_inside(path: str) -> bool:
    """Tell whether a path stays inside the folder that it is relative to."""
    return not path.startswith("/") and (".." not in path or ".." not in path.split("/"))


class PathNames:
    """Finds the path that a table about videos means, among those of the table of videos.

    Kept of each path are some dozen bytes.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._as_written, self._forms = _OtherNames(), _OtherNames()
        self._rows = 0

    @classmethod
    def of(cls, paths: Sequence[str]) -> PathNames:
        """Return the names of paths that are in memory, written as files are called."""
        names = cls()
        names.add(paths, paths)
        names.end(lambda rows: [paths[row] for row in rows.tolist()])
        return names

    def add(self, written: Sequence[str], kept: Sequence[str]) -> None:
        """Take the next rows of the table of videos.

        Args:
            written: their paths as the table writes them.
            kept: the same as files are called.
        """
        self._kept.append(digests(kept))
        rows = range(self._rows, self._rows + len(kept))
        self._as_written.add({row: theirs for row, theirs, ours in zip(rows, written, kept, strict=True) if theirs != ours})
        forms = {row: composed(ours) for row, ours in zip(rows, kept, strict=True) if not ours.isascii()}
        self._forms.add({row: form for row, form in forms.items() if form != kept[row - self._rows]})
        self._rows += len(kept)

    def end(self, paths_of: Callable[[np.ndarray], Sequence[str]]) -> None:
        """Make ready for :meth:`find`, after all rows.

        Args:
            paths_of: returns the paths of some rows, as files are called.
        """
        self._paths_of = paths_of
        self._exact = KeyIndex(self._kept)
        # Of equal paths the first row stands for all.
        first_R = self._exact.find(np.concatenate([np.empty((0, 2), np.uint64), *self._kept]))
        self._kept.clear()
        self._as_written.end(first_R)
        self._forms.end(first_R)

    def find(self, paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Return the listed paths that are written so, or, where one alone is, in another Unicode form.

        Returns:
            The paths, as they are where none is listed; the first row of each in the table of videos, int64 [P], -1 where
            none is listed.
        """
        found = list(paths)
        row_P = self._exact.find(digests(paths))
        (left,) = np.nonzero(row_P == _NONE)
        if not len(left):
            return found, row_P
        row_P[left] = self._as_written.find(digests([paths[place] for place in left.tolist()]))
        other = left[row_P[left] == _NONE]
        row_P[other] = self._in_another_form([paths[place] for place in other.tolist()])
        renamed = left[row_P[left] != _NONE]
        for place, path in zip(renamed.tolist(), self._paths_of(row_P[renamed]), strict=True):
            found[place] = path
        return found, row_P

    def _in_another_form(self, paths: Sequence[str]) -> np.ndarray:
        digest_P2 = digests([composed(path) for path in paths])
        itself_P, other_P = self._exact.find(digest_P2), self._forms.find(digest_P2)
        several_P = self._forms.are_of_several(digest_P2) | ((itself_P != _NONE) & (other_P != _NONE))
        return np.where(several_P, _NONE, np.maximum(itself_P, other_P))


class _OtherNames:
    """Names that some rows' paths have beside their own."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []

    def add(self, names: Mapping[int, str]) -> None:
        """Take names by the numbers of the rows."""
        self._rows.append(np.fromiter(names, np.int64, len(names)))
        self._digests.append(digests(names.values()))

    def end(self, first_R: np.ndarray) -> None:
        """Make ready for questions; ``first_R`` are the first rows of the same paths."""
        name_N2 = np.concatenate([np.empty((0, 2), np.uint64), *self._digests])
        row_N = first_R[np.concatenate([np.empty(0, np.int64), *self._rows])]
        self._index = KeyIndex([name_N2], row_N)
        self._of_several = KeyIndex([name_N2[self._index.find(name_N2) != row_N]])

    def find(self, digest_P2: np.ndarray) -> np.ndarray:
        """Return the first row of the first path with each name, int64 [P], or -1."""
        return self._index.find(digest_P2)

    def are_of_several(self, digest_P2: np.ndarray) -> np.ndarray:
        """Return which names several paths have, bool [P]."""
        return self._of_several.find(digest_P2) != _NONE


class MediaFiles:
    """What files are called, for the paths of a table. Folders are read when a path needs it, and once.

    Args:
        folder: of the media.
    """

    def __init__(self, folder: Path) -> None:
        self._disk = _Disk(folder)

    def match(self, paths: Sequence[str], first_row: int = 0) -> tuple[list[str], Refused]:
        """Give each path as the file is called, and refuse those that may mean several files.

        Args:
            paths: relative to the folder; those outside it are left as they are.
            first_row: number of the first one's row.

        Returns:
            The paths: in the Unicode form of the file, where exactly one file fits; by row, those refused.
        """
        found = list(paths)
        refused: Refused = {}
        for place, path in enumerate(paths):
            if path.isascii() or not is_inside(path):
                continue
            names = self._disk.in_any_form(path)
            if len(names) == 1:
                found[place] = names[0]
            elif len(names) > 1:
                listed = ", ".join(ascii(name) for name in sorted(names))
                refused[first_row + place] = (
                    RowReason.AMBIGUOUS_PATH,
                    f"column 'video': expected a file of this name, found {listed}, which differ in Unicode form only",
                )
        return found, refused

    def missing_twins(self, paths: Mapping[int, str]) -> Refused:
        """Refuse paths without a file where one differs in case only.

        Args:
            paths: by row, as files are called; those that resemble no other may be left out.
        """
        refused: Refused = {}
        for row, twin in _case_twins(paths):
            if row not in refused and is_inside(paths[row]) and self._disk.has(twin) and not self._disk.has(paths[row]):
                refused[row] = (
                    RowReason.PATH_TWIN,
                    f"column 'video': expected a file, found only '{twin}' of another row, which differs in case only",
                )
        return refused


def _case_twins(paths: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Yield each row whose path differs from others in case only, with each of these."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, path in paths.items():
        groups[folded(path)].append(row)
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
                names = self._names(parent).get(composed(part), [])
                fitting += [f"{parent}/{name}" if parent else name for name in ([part] if part in names else names)]
            found = fitting
        return found

    def _names(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for file in (self._root / folder).iterdir():
                    names[composed(file.name)].append(file.name)
            except OSError:
                pass  # no folder, no names: probing says what is wrong with the file
            self._listed[folder] = names
        return self._listed[folder]


def composed(path: str) -> str:
    """Return a path with each letter and its accents as one character."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def folded(path: str) -> str:
    """Return what paths have in common that differ in Unicode form or case only."""
    return composed(path).casefold()
