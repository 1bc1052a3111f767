"""Claims: which process works at which piece, told by files, for folders that machines share and that may have no locks.

A claim is a file that only one process can make. Its holder touches it now and then. It falls to whoever asks next when its
holder is known to be dead (a process of this machine) or has not touched it for the lease. Two may then hold the same claim,
if the first one only slept: what is done under a claim must bear being done twice, and be put in its place whole.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from umt_pipeline.core.processes import ProcessName, this_process

logger = logging.getLogger(__name__)

# Longer than files' times are cached by clients of network file systems (NFS: a minute).
LEASE_S = 150.0
_TOUCHES_PER_LEASE = 8
_CLOCK = ".clock."
_ASKS_AGAIN_S = 0.2


class Claims:
    """This process' claims in a folder, which many processes share. To be closed, or used in a ``with`` block.

    Args:
        folder: made if missing.
        lease_s: seconds after which a claim that nobody touched falls to the next.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, lease_s: float = LEASE_S) -> None:
        self._folder, self._lease_s = folder, lease_s
        folder.mkdir(parents=True, exist_ok=True)
        self._own: dict[str, str] = {}
        self._guard = threading.Lock()
        self._ended = threading.Event()
        # Its time is this moment by the clock of the file system, which may not be that of this machine.
        self._clock = folder / f"{_CLOCK}{uuid.uuid4().hex[:12]}"
        self._clock.touch()
        self._toucher = threading.Thread(target=self._touch, name="claims", daemon=True)
        self._toucher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all claims back."""
        self._ended.set()
        self._toucher.join()
        for name in list(self._own):
            self.give_back(name)
        self._clock.unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Claim a piece; return whether it is now this process' own.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self._folder / name
        if name in self._own:
            return False
        if not self._make(path):
            found = self._read(path)
            if found is None or not self._has_fallen(path, found):
                return False
            # Away with it, and look again at what was moved: another process may have been quicker and made it anew.
            away = self._folder / f".{name}.{uuid.uuid4().hex[:12]}.fallen"
            try:
                path.rename(away)
            except OSError:
                return False
            if self._read(away) != found:
                with suppress(OSError):
                    os.link(away, path)
            away.unlink(missing_ok=True)
            if not self._make(path):
                return False
        return True

    def give_back(self, name: str) -> None:
        """Let others claim a piece; nothing if it is not this process' own any more."""
        with self._guard:
            token = self._own.pop(name, None)
        path = self._folder / name
        if token is not None and token in (self._read(path) or ""):
            path.unlink(missing_ok=True)

    def held_by_others(self) -> set[str]:
        """Return the pieces that living processes other than this one have claimed."""
        found = {path: self._read(path) for path in self._folder.iterdir() if not path.name.startswith(".")}
        return {
            path.name
            for path, content in found.items()
            if content is not None and path.name not in self._own and not self._has_fallen(path, content)
        }

    def clear(self) -> None:
        """Remove what killed processes left in the folder; those that live make anew what they miss."""
        for clock in self._folder.glob(f"{_CLOCK}*"):
            if clock != self._clock:
                clock.unlink(missing_ok=True)
        for path in [path for path in self._folder.iterdir() if not path.name.startswith(".")]:
            content = self._read(path)
            if path.name not in self._own and content is not None and self._has_fallen(path, content):
                path.unlink(missing_ok=True)

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """Hold a piece while the block runs; waits for it."""
        if not self.take(name):
            logger.info("waiting for %s, which another process holds", self._folder / name)
            while not self.take(name):
                time.sleep(_ASKS_AGAIN_S)
        try:
            yield
        finally:
            self.give_back(name)

    def _make(self, path: Path) -> bool:
        token = uuid.uuid4().hex
        try:
            # Exclusive creation is atomic on local file systems and on NFS since version 3.
            with path.open("x", encoding="utf-8") as handle:
                handle.write(json.dumps({**asdict(this_process()), "token": token}))
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._guard:
            self._own[path.name] = token
        return True

    def _read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            return None  # given back meanwhile

    def _has_fallen(self, path: Path, content: str) -> bool:
        try:
            holder = json.loads(content)
            holder.pop("token")
            if ProcessName(**holder).is_known_dead():
                return True
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # its maker was killed, or is at it: the lease decides
        try:
            self._clock.touch()
            return self._clock.stat().st_mtime - path.stat().st_mtime > self._lease_s
        except OSError:
            return False

    def _touch(self) -> None:
        while not self._ended.wait(self._lease_s / _TOUCHES_PER_LEASE):
            with self._guard:
                own = list(self._own)
            for name in own:
                with suppress(OSError):
                    os.utime(self._folder / name)
