"""Hashes of a folder's media, computed once: what is known of a file stays while its size and modification time do.

A file that changes while it is hashed, or had changed so shortly before that another change may leave the same time, is hashed
again next time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.processes import cores
from umt_pipeline.core.progress import progress
from umt_pipeline.video.file_hashes import FileHashes
from umt_pipeline.video.probe_cache import FileState

# The time of a file whose hash has to be computed again.
_UNSETTLED = -1
COLUMNS = ["video", "size_bytes", "sha256"]


class HashCache:
    """Hashes of the media of a folder.

    Args:
        file: where they are kept; see :class:`umt_pipeline.video.file_hashes.FileHashes`.
    """

    def __init__(self, file: Path) -> None:
        self._hashes = FileHashes(file)

    def known(self, folder: Path, video: str) -> str | None:
        """Return the hash of a file that has not changed since it was hashed, else None."""
        return self._hashes.get(video, FileState.of(folder / video))

    def is_touched(self, folder: Path, video: str) -> bool:
        """Whether a file was hashed here before and may have changed since."""
        return video in self._hashes and self.known(folder, video) is None

    def table(self, folder: Path, videos: Sequence[str]) -> pd.DataFrame:
        """Return the manifest of files: columns video, size_bytes, sha256. Files that cannot be read have an empty hash.

        Those that are gone also have the size 0: they stay listed, so that the next update finds that they vanished.

        Args:
            folder: that the paths are relative to.
            videos: paths.
        """
        states = {video: FileState.of(folder / video) for video in videos}
        found = {
            video: (state.size, sha256)
            for video, state in states.items()
            if state is not None and (sha256 := self._hashes.get(video, state)) is not None
        }
        waiting = [video for video in states if video not in found]
        with self._hashes, ThreadPoolExecutor(cores()) as pool, progress("hash", len(waiting), "file") as show:
            hashed = pool.map(lambda video: _hash(folder / video), waiting)
            for done, (video, (state, sha256)) in enumerate(zip(waiting, hashed, strict=True), 1):
                found[video] = state.size, sha256
                if sha256:
                    self._hashes.put(video, state, sha256)
                show(done)
        rows = [(video, *found[video]) for video in videos]
        return pd.DataFrame(rows, columns=COLUMNS).astype({"video": str, "size_bytes": "int64", "sha256": str})


def _hash(path: Path) -> tuple[FileState, str]:
    """Return a file's state, with an impossible time where a later change may not show, and its hash, "" without one."""
    began, before = time.time(), FileState.of(path)
    if before is None:
        return FileState(0, _UNSETTLED), ""
    unsettled = before._replace(mtime_ns=_UNSETTLED)
    try:
        sha256 = sha256_file(path)
    except FileNotFoundError:
        return FileState(0, _UNSETTLED), ""
    except OSError:
        return unsettled, ""
    settled = before == FileState.of(path) and before.settled(began)
    return before if settled else unsettled, sha256
