"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umt_pipeline.core.errors import ConfigError

LOCK_FILE = ".lock"


def try_lock(handle: IO[bytes], shared: bool = False) -> bool:
    """Take a lock on an open file; return whether nobody else's stands against it. Closing the file gives it back."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(handle: IO[bytes], shared: bool = False) -> None:
    """Take a lock on an open file, once nobody else's stands against it."""
    fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make a folder this process's to fill while the block runs, and remove what a killed one has left half-written there.

    Raises:
        ConfigError: another process fills it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as handle:
        if not try_lock(handle):
            raise ConfigError(f"{folder}: another process fills this folder. Wait until it has ended, or end it.")
        # Names of core.files.staged_file and staged_folder; with the lock held nobody works on them.
        for path in [*folder.rglob(".*.part"), *folder.rglob(".*.old")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        yield
