"""Files that are made on demand and kept: each once, however many ask at the same time, and only so many bytes of them."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from umt_pipeline.core.files import staged_file
from umt_pipeline.server.limits import RefusedError

logger = logging.getLogger(__name__)

# So many times all files are looked at while the folder is filled once: it is larger than allowed by that share at most.
_LOOKS = 256


class Cache:
    """A folder of files that can be made again at any time.

    Args:
        folder: made if it is not there.
        max_bytes: of all files; those that were used longest ago go first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._making: dict[str, asyncio.Task[None]] = {}
        # Bytes since all files were looked at; nothing is known of them yet.
        self._new = max_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def known(self, name: str) -> Path | None:
        """Return a file that is there, and remember that it was used."""
        path = self._folder / name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    async def file(self, name: str, make: Callable[[Path], Awaitable[None]]) -> Path:
        """Return a file, made by now.

        Args:
            name: in the folder; it says everything that the content depends on.
            make: writes it to the path that it is given. What it raises, all who wait for the file get, and it is made anew
                for the next who asks.
        """
        if (path := self.known(name)) is not None:
            return path
        if name not in self._making:
            # A task of its own: the first who asked may go away, and the others still want it.
            task = asyncio.create_task(self._make(name, make))
            self._making[name] = task
            task.add_done_callback(lambda _: self._making.pop(name, None))
        await asyncio.shield(self._making[name])
        return self._folder / name

    def put(self, name: str, content: bytes) -> None:
        """Keep bytes as a file.

        Raises:
            RefusedError: 507: it cannot be written, as on a full disk.
        """
        path = self._folder / name
        try:
            with staged_file(path) as staged:
                staged.write_bytes(content)
        except OSError as error:
            logger.error("%s: %s", path, error)
            reason = error.strerror or "it cannot be written"
            raise RefusedError(507, f"the server's folder for pictures and films: {reason}; its log says where") from error
        self._prune(len(content))

    async def _make(self, name: str, make: Callable[[Path], Awaitable[None]]) -> None:
        path = self._folder / name
        await make(path)
        with suppress(OSError):  # it went already, for others that are newer
            await asyncio.to_thread(self._prune, path.stat().st_size)

    def _prune(self, new: int) -> None:
        """Remove what was used longest ago, until the rest is of the size allowed, if much is new: there may be many files."""
        with self._lock:
            self._new += new
            if self._new <= self._max_bytes // _LOOKS:
                return
            self._new = 0
        found = []
        for path in self._folder.iterdir():
            with suppress(OSError):  # another one removes it
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:  # never what was just made
            if total <= self._max_bytes:
                return
            with suppress(OSError):
                path.unlink()
                total -= size
