"""Hashes of files, computed once: what is known of a file stays while its size and time of change do."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from umt_pipeline.core.files import staged_file
from umt_pipeline.video.probe_cache import FileState


class FileHashes:
    """Hashes by name, in a file of one line each that is written as they come: one that ``kill -9`` cut is hashed again.

    To be closed after :meth:`put`, or used in a ``with`` block.

    Args:
        file: JSON lines of name, size, time of change and hash; of several about a name the last one counts. Made, with its
            folder, when there is something to write.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lines: IO[str] | None = None
        self._known: dict[str, tuple[FileState, str]] = {}
        if file.is_file():
            # Names in another encoding than the system's are escaped, like all that is not ASCII.
            for line in file.read_text(encoding="ascii", errors="replace").splitlines():
                with suppress(ValueError, TypeError):
                    name, size, mtime_ns, sha256 = json.loads(line)
                    self._known[name] = FileState(size, mtime_ns), sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        """Whether a file of this name was hashed, in whatever state."""
        return name in self._known

    def get(self, name: str, state: FileState | None) -> str | None:
        """Return the hash of a file in this state."""
        known = self._known.get(name)
        return known[1] if known is not None and known[0] == state else None

    def put(self, name: str, state: FileState, sha256: str) -> None:
        """Keep the hash of a file; in a state that no file is in if a later change of it might not show."""
        self._known[name] = state, sha256
        if self._lines is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lines = self._file.open("a", encoding="ascii")
            if self._lines.tell():
                self._lines.write("\n")  # after what may be half a line
        self._lines.write(_line(name, state, sha256))
        self._lines.flush()

    def keep_only(self, names: Iterable[str]) -> None:
        """Write the file anew with what is known of ``names``."""
        self.close()
        with staged_file(self._file) as staged, staged.open("w", encoding="ascii") as lines:
            lines.writelines(_line(name, *self._known[name]) for name in names if name in self._known)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def _line(name: str, state: FileState, sha256: str) -> str:
    return json.dumps([name, *state, sha256]) + "\n"
