"""Hashes of a folder's media, computed once: what is known of a file stays while its size and modification time do.

A file that changes while it is hashed, or had changed so shortly before that another change may leave the same time, is hashed
again next time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.progress import progress
from umt_pipeline.video.probe_cache import FileState

# The time of a file whose hash has to be computed again.
_UNSETTLED = -1
COLUMNS = ["video", "size_bytes", "sha256"]


@dataclass(frozen=True)
class Hashed:
    """A file when it was hashed; ``mtime_ns`` is -1 where a later change may not show."""

    size: int
    mtime_ns: int
    sha256: str


class HashCache:
    """Hashes by path, in a file of one line each that is written as they come, so that a kill loses one at most.

    Args:
        file: is made if it is not there; of several lines about a path the last one counts.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Hashed] = {}
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    video, *told = json.loads(line)
                    self._known[video] = Hashed(*told)
                except (ValueError, TypeError):
                    continue  # the line that a kill cut off

    def known(self, folder: Path, video: str) -> str | None:
        """Return the hash of a file that has not changed since it was hashed, else None."""
        entry = self._known.get(video)
        return entry.sha256 if entry and FileState(entry.size, entry.mtime_ns) == FileState.of(folder / video) else None

    def is_touched(self, folder: Path, video: str) -> bool:
        """Whether a file was hashed here before and may have changed since."""
        return video in self._known and self.known(folder, video) is None

    def table(self, folder: Path, videos: Sequence[str]) -> pd.DataFrame:
        """Return the manifest of files: columns video, size_bytes, sha256. Files that cannot be read have an empty hash.

        Those that are gone also have the size 0: they stay listed, so that the next update finds that they vanished.

        Args:
            folder: that the paths are relative to.
            videos: paths.
        """
        waiting = [video for video in videos if self.known(folder, video) is None]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with (
            self._file.open("a", encoding="utf-8") as log,
            ThreadPoolExecutor(os.cpu_count()) as pool,
            progress("hash", len(waiting), "file") as show,
        ):
            if log.tell():
                log.write("\n")  # what a kill left may have no end
            for done, (video, entry) in enumerate(zip(waiting, pool.map(lambda v: _hash(folder / v), waiting), strict=True), 1):
                self._known[video] = entry
                if entry.sha256:
                    log.write(json.dumps([video, entry.size, entry.mtime_ns, entry.sha256]) + "\n")
                    log.flush()
                show(done)
        rows = [(video, self._known[video].size, self._known[video].sha256) for video in videos]
        return pd.DataFrame(rows, columns=COLUMNS).astype({"video": str, "size_bytes": "int64", "sha256": str})


def _hash(path: Path) -> Hashed:
    began, before = time.time(), FileState.of(path)
    if before is None:
        return Hashed(0, _UNSETTLED, "")
    try:
        sha256 = sha256_file(path)
    except FileNotFoundError:
        return Hashed(0, _UNSETTLED, "")
    except OSError:
        return Hashed(before.size, _UNSETTLED, "")
    settled = before == FileState.of(path) and before.settled(began)
    return Hashed(before.size, before.mtime_ns if settled else _UNSETTLED, sha256)
