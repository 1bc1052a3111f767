"""What checks of files have found, kept as it comes: a killed ingestion goes on where it was, the next one checks new files.

A result is known by the file's path, size and time of change and by a key of the rules and the code that decided; and, for
files that were accepted, by content, so that a moved or copied file is hashed and not decoded. The file is a SQLite database
in WAL mode: each result is committed by itself, without waiting for the disk, and is there after ``kill -9``. (After a power
failure some of the last ones may be missing.)

Not kept:

- what was found of a file that changed less than two seconds before: it may have changed again without another time;
- what the file's owner can repair without changing the file, such as missing permissions.

Kept for a day, and only under the same limits: what depends on the machine's load and memory. So a killed run does not wait
for the same hanging files again, and no file is refused for ever because a machine was busy.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

from umt_pipeline.video.media import Reason, Refusal, VideoInfo

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Result = VideoInfo | Refusal

# Coarser times of change than this are not in use (FAT has 2 s).
SETTLED_AFTER_S = 2.0
DEPENDS_ON_MACHINE = frozenset({Reason.DECODER_CRASH, Reason.DECODER_TIMEOUT, Reason.OUT_OF_MEMORY})
TRIED_AGAIN_AFTER_S = 24 * 3600.0
NOT_KEPT = frozenset({Reason.MISSING_FILE, Reason.UNREADABLE_FILE, Reason.FILE_CHANGED})
# Keys whose results are kept: enough to change between a few sets of rules or branches and back.
KEYS_KEPT = 4
# Texts that are the same for many files.
SHARED = frozenset({"media", "container", "codec", "reason"})

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, used_at REAL);
CREATE TABLE IF NOT EXISTS files (
    path BLOB, key TEXT, size INTEGER, mtime_ns INTEGER, content TEXT, refusal TEXT, limits TEXT, found_at REAL,
    PRIMARY KEY (path, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (content TEXT, key TEXT, size INTEGER, info TEXT, PRIMARY KEY (content, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contents_by_size ON contents (size, key);
"""
_FIND_FILE = """
SELECT refusal, limits, found_at, info FROM files LEFT JOIN contents USING (content, key)
WHERE path = ? AND key = ? AND files.size = ? AND mtime_ns = ?
"""


class FileState(NamedTuple):
    """What tells that a file is the same as before: bytes, and nanoseconds of its last change."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState | None:
        """Return a file's state, or None if there is no file, or something else, such as a pipe."""
        try:
            found = path.stat()
        except (OSError, ValueError):  # ValueError: a zero byte or half a character in the name
            return None
        return cls(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    def settled(self, at: float) -> bool:
        """Whether a change after ``at``, in seconds of the clock, would show."""
        return at - self.mtime_ns / 1e9 > SETTLED_AFTER_S


class ProbeCache:
    """Results of checks in a file that may be deleted at any time, and is replaced if it is damaged.

    Args:
        file: the database.
        key: of the rules and the code that decide what a file is.
        limits: of the limits, on which some refusals depend.
    """

    def __init__(self, file: Path, key: str, limits: str) -> None:
        self._file, self._key, self._limits = file, key, limits
        self._connection: sqlite3.Connection | None = None
        self._given_up = False
        self._do(self._use_key, None)

    def get(self, name: str, state: FileState) -> Result | None:
        """Return what is known of a file in this state."""
        asked = (os.fsencode(name), self._key, *state)

        def find(connection: sqlite3.Connection) -> Result | None:
            row = connection.execute(_FIND_FILE, asked).fetchone()
            if row is None:
                return None
            refusal, limits, found_at, info = row
            if limits is not None and (limits != self._limits or time.time() - found_at > TRIED_AGAIN_AFTER_S):
                return None
            if refusal is not None:
                return _read(Refusal, refusal)
            return None if info is None else _read(VideoInfo, info)

        return self._do(find, None)

    def knows_size(self, size: int) -> bool:
        """Whether a file of so many bytes was accepted, under any name: then hashing a new one may save decoding it."""
        query = "SELECT 1 FROM contents WHERE size = ? AND key = ? LIMIT 1"
        return self._do(lambda connection: connection.execute(query, (size, self._key)).fetchone() is not None, False)

    def get_content(self, name: str, sha256: str) -> VideoInfo | None:
        """Return what is known of a content, under a name with the same suffix: decoders look at that too."""
        query = "SELECT info FROM contents WHERE content = ? AND key = ?"

        def find(connection: sqlite3.Connection) -> VideoInfo | None:
            row = connection.execute(query, (_content(name, sha256), self._key)).fetchone()
            return None if row is None else _read(VideoInfo, row[0])

        return self._do(find, None)

    def put(self, name: str, state: FileState, result: Result) -> None:
        """Keep a result, for good or for a while; see above for those that are not kept."""
        if isinstance(result, Refusal) and result.reason in NOT_KEPT:
            return
        content = refusal = limits = None
        if isinstance(result, VideoInfo):
            content = _content(name, result.sha256)
        else:
            refusal = json.dumps(asdict(result))
            limits = self._limits if result.reason in DEPENDS_ON_MACHINE else None

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN")
                if isinstance(result, VideoInfo):
                    row = (content, self._key, state.size, json.dumps(asdict(result)))
                    connection.execute("INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)", row)
                file = (os.fsencode(name), self._key, *state, content, refusal, limits, time.time())
                connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", file)

        self._do(write, None)

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()

    # --- the database -------------------------------------------------------------------------------------------------
    def _do(self, action: Callable[[sqlite3.Connection], Answer], otherwise: Answer) -> Answer:
        """Do something with the database; a damaged one is replaced, without one the answer is ``otherwise``."""
        while not self._given_up:
            try:
                if self._connection is None:
                    self._connection = self._open()
                return action(self._connection)
            except (sqlite3.OperationalError, OSError) as error:  # full, locked, read-only
                self._give_up(error)
            except sqlite3.ProgrammingError:
                raise
            except sqlite3.DatabaseError as error:
                try:
                    self._remove()
                except OSError as kept:
                    self._give_up(f"{error}; {kept}")
                else:
                    logger.warning("%s is damaged (%s): it is replaced by an empty one.", self._file, error)
        return otherwise

    def _give_up(self, why: object) -> None:
        logger.warning("%s cannot be used (%s): files are checked without it.", self._file, why)
        self._given_up = True

    def _open(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Without isolation_level each statement is committed by itself.
        connection = sqlite3.connect(self._file, timeout=60.0, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"expected version {_VERSION} of its tables, found {version}")
            connection.executescript(f"{_TABLES} PRAGMA user_version = {_VERSION};")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _remove(self) -> None:
        self.close()
        self._connection = None
        for suffix in ("", "-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)

    def _use_key(self, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (self._key, time.time()))
        keys = [key for (key,) in connection.execute("SELECT key FROM keys ORDER BY used_at DESC")]
        for old in keys[KEYS_KEPT:]:
            for table in ("files", "contents", "keys"):
                connection.execute(f"DELETE FROM {table} WHERE key = ?", (old,))


def _content(name: str, sha256: str) -> str:
    return sha256 + Path(name).suffix.lower()


def _read(kind: type[Answer], text: str) -> Answer:
    try:
        values = json.loads(text)
        # One "h264" for all files. Hashes and words about damage are each file's own.
        return kind(**{key: sys.intern(value) if key in SHARED else value for key, value in values.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise sqlite3.DatabaseError(f"a row cannot be read: {error}") from error
