"""Files that are made on demand and kept: each once, however many ask at the same time, and only so many bytes of them."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.own_folder import OwnFolder

logger = logging.getLogger(__name__)

# So many times all files are looked at while the folder is filled once: it is larger than allowed by that share at most.
_LOOKS = 256


class Cache:
    """A folder of files that can be made again at any time. Several servers may share one.

    Args:
        folder: made if it is not there.
        max_bytes: of all files; those that were used longest ago go first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Bytes since all files were looked at; nothing is known of them yet.
        self._new = max_bytes
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        # What is being made lies apart, so that it is found if this process is killed.
        self._unfinished = OwnFolder(".unfinished-", folder)

    def close(self) -> None:
        """Remove what is not finished."""
        self._unfinished.close()

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
        if name not in self._tasks:
            # A task of its own: the first who asked may go away, and the others still want it.
            task = asyncio.create_task(self._make(name, make))
            self._tasks[name] = task
            task.add_done_callback(lambda _: self._tasks.pop(name, None))
        await asyncio.shield(self._tasks[name])
        return self._folder / name

    def put(self, name: str, content: bytes) -> None:
        """Keep bytes as a file.

        Raises:
            RefusedError: 507: it cannot be written, as on a full disk.
        """
        with self._making(name) as made:
            made.write_bytes(content)
            _to_disk(made)
        self._prune(len(content))

    async def _make(self, name: str, make: Callable[[Path], Awaitable[None]]) -> None:
        with self._making(name) as made:
            await make(made)
            await asyncio.to_thread(_to_disk, made)
        with suppress(OSError):  # it went already, for others that are newer
            await asyncio.to_thread(self._prune, (self._folder / name).stat().st_size)

    @contextmanager
    def _making(self, name: str) -> Iterator[Path]:
        """Yield where a file is written; it has its name when the block ends without an error."""
        path, made = self._folder / name, self._unfinished.path / f"{secrets.token_hex(4)}-{name}"
        try:
            yield made
            made.replace(path)
        except OSError as error:
            logger.error("%s: %s", path, error)
            reason = error.strerror or "it cannot be written"
            raise RefusedError(507, f"the server's folder for pictures and films: {reason}; its log says where") from error
        finally:
            made.unlink(missing_ok=True)

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
                if path.is_file():
                    found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found)[:-1]:  # never what was just made
            if total <= self._max_bytes:
                return
            with suppress(OSError):
                path.unlink()
                total -= size


def _to_disk(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
