"""Files that are made on demand and kept: each once, however many ask at the same time, and only so many bytes of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from umt_pipeline.core.files import staged_file

logger = logging.getLogger(__name__)


class Cache:
    """A folder of files that can be made again at any time.

    Args:
        folder: made if it is not there.
        max_bytes: of all files; those that were used longest ago go first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._making: dict[str, asyncio.Task[None]] = {}
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
        """Keep bytes as a file."""
        with staged_file(self._folder / name) as staged:
            staged.write_bytes(content)
        self._prune()

    async def _make(self, name: str, make: Callable[[Path], Awaitable[None]]) -> None:
        await make(self._folder / name)
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        """Remove what was used longest ago, until the rest is of the size allowed."""
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
