"""A temporary folder of a process, which goes with it: if it was killed, whoever makes the next one removes what it left."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from umt_pipeline.core.locking import LOCK_FILE, try_lock


class OwnFolder:
    """A folder that no other process uses, until it is closed. Folders of the same kind that nobody uses any more are removed.

    Each holds a locked file. The lock ends with the process, however that ends, and a file that can be locked tells that its
    folder was left.

    Args:
        prefix: of its name, which says of what kind it is.
        parent: folder that it lies in; None: where temporary files are.

    Attributes:
        path: of the folder.
    """

    def __init__(self, prefix: str, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_left(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # It has its name only when it is locked: else it could be taken for one that was left.
        unlocked = self.path / ".unlocked"
        self._lock = unlocked.open("wb")
        is_locked = try_lock(self._lock)
        assert is_locked, "nobody else knows of it"
        unlocked.rename(self.path / LOCK_FILE)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_left(parent: Path, prefix: str) -> None:
    for path in parent.glob(f"{prefix}*"):
        try:
            with (path / LOCK_FILE).open("r+b") as handle:
                if try_lock(handle):
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # it has none yet, or is another user's
