"""Vectors of files, kept as they are made: whoever is killed goes on with the next file.

Shapes: W windows of a file, E embedding width.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.serving.windows import Window
from umt_pipeline.video.media import Refusal

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS embedded (file_id TEXT PRIMARY KEY, windows INTEGER, spans BLOB, vectors BLOB);
CREATE TABLE IF NOT EXISTS looked (file_id TEXT, key TEXT, found TEXT, PRIMARY KEY (file_id, key)) WITHOUT ROWID;
"""


class Embedded(NamedTuple):
    """A file's windows, seconds float64 [W, 2], and their vectors, float32 [W, E]."""

    spans_W2: np.ndarray
    vectors_WE: np.ndarray


class Vectors(Protocol):
    """Where the vectors of files are had from."""

    def count(self, file_id: str) -> int:
        """Return W."""
        ...

    def get(self, file_id: str) -> Embedded:
        """Return a file's windows and vectors."""
        ...


class Looked(NamedTuple):
    """What was seen when a video was decoded to its end: its length in seconds, and its scene changes."""

    duration_s: float
    scenes: tuple[float, ...]


class Shelf:
    """A SQLite file of what was made of files; each file is committed by itself. To be closed, or used in a ``with`` block.

    Args:
        file: made if missing.

    Raises:
        IndexingError: it cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Used by one thread at a time.
            self._connection = sqlite3.connect(file, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"expected version {_VERSION} of its tables, found {version}")
            self._connection.executescript(f"{_TABLES} PRAGMA user_version = {_VERSION};")
            self._windows: dict[str, int] = dict(self._connection.execute("SELECT file_id, windows FROM embedded"))
        except sqlite3.Error as error:
            raise IndexingError(
                f"{file}: what an interrupted build has left there cannot be used ({error}). Remove the file; what it held is "
                "made again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, file_id: str) -> bool:
        return file_id in self._windows

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def remove(self) -> None:
        """Close the file, and remove it."""
        self.close()
        remove_database(self.file)

    def put(self, file_id: str, windows: Sequence[Window], vectors_WE: np.ndarray) -> None:
        """Keep a file's windows and vectors."""
        spans_W2 = np.asarray(windows, dtype=np.float64)
        row = (file_id, len(spans_W2), spans_W2.tobytes(), np.ascontiguousarray(vectors_WE, dtype=np.float32).tobytes())
        self._connection.execute("INSERT OR REPLACE INTO embedded VALUES (?, ?, ?, ?)", row)
        self._windows[file_id] = len(spans_W2)

    def count(self, file_id: str) -> int:
        """Return the number of windows of a file that is kept."""
        return self._windows[file_id]

    def get(self, file_id: str) -> Embedded:
        """Return what is kept of a file."""
        query = "SELECT windows, spans, vectors FROM embedded WHERE file_id = ?"
        windows, spans, vectors = self._connection.execute(query, (file_id,)).fetchone()
        vectors_WE = np.frombuffer(vectors, dtype=np.float32).reshape(windows, -1)
        return Embedded(np.frombuffer(spans, dtype=np.float64).reshape(windows, 2), vectors_WE)

    def put_looked(self, file_id: str, key: str, found: Looked | Refusal) -> None:
        """Keep what was seen of a file."""
        text = json.dumps([type(found).__name__, *(found if isinstance(found, Looked) else (found.reason, found.detail))])
        self._connection.execute("INSERT OR REPLACE INTO looked VALUES (?, ?, ?)", (file_id, key, text))

    def get_looked(self, file_ids: Iterable[str], key: str) -> Mapping[str, Looked | Refusal]:
        """Return what was seen of files, of those that are known."""
        return dict(self._looked(file_ids, key))

    def _looked(self, file_ids: Iterable[str], key: str) -> Iterator[tuple[str, Looked | Refusal]]:
        for file_id in file_ids:
            query = "SELECT found FROM looked WHERE file_id = ? AND key = ?"
            if (row := self._connection.execute(query, (file_id, key)).fetchone()) is not None:
                kind, first, second = json.loads(row[0])
                yield file_id, Looked(first, tuple(second)) if kind == Looked.__name__ else Refusal(first, second)


def remove_database(file: Path) -> None:
    """Remove a SQLite file with what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def forget_others(folder: Path, kept: Collection[str], older_than_s: float = 0.0) -> None:
    """Remove what builds of other models, rules or code have left in a folder.

    Args:
        folder: of SQLite files.
        kept: names of those that stay.
        older_than_s: seconds since they were last written to.
    """
    for file in folder.glob("*.sqlite"):
        if file.name not in kept and time.time() - file.stat().st_mtime >= older_than_s:
            remove_database(file)
