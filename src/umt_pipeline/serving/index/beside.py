"""What is known about the files of a folder, taken over from another index of them: it does not depend on the model."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.files import staged_file
from umt_pipeline.serving.embedding.gathering import LOOKED_FILE
from umt_pipeline.serving.index.layout import CURRENT_FILE, KNOWN, read_manifest, read_pointer
from umt_pipeline.video.probing import CACHE_FILE

logger = logging.getLogger(__name__)


def take_over(out: Path, folder: Path) -> None:
    """Let a new index begin with what another one knows about the files that it is to hold.

    That is what files are, and what was seen when they were decoded to their end. It is true of a content, or of a path, size
    and time of change, and is looked up by these: what has changed since is looked at anew. Of the indexes that lie beside the
    new one and are of the same folder, the one that became whole last is asked first. What the new one knows already stays.

    Args:
        out: folder of the new index.
        folder: of videos.
    """
    missing = [name for name in (CACHE_FILE, LOOKED_FILE) if not (out / KNOWN / name).exists()]
    for other in _of_same_folder(out, folder) if missing else ():
        missing = [name for name in missing if not _copied(other / KNOWN / name, out / KNOWN / name)]


def _of_same_folder(out: Path, folder: Path) -> Iterator[Path]:
    """Give the whole indexes of a folder that lie beside one, the newest first."""
    pointers = [path for path in out.parent.glob(f"*/{CURRENT_FILE}") if path.parent != out]
    for path in sorted(pointers, key=lambda path: path.stat().st_mtime, reverse=True):
        other = path.parent
        try:
            pointer = read_pointer(other)
            of = None if pointer is None else read_manifest(other, pointer).facts.get("folder")
        except IndexingError as error:
            logger.info("%s: what it knows about files is not used: %s", other, error)
            continue
        if of == str(folder.resolve()):
            yield other


def _copied(source: Path, target: Path) -> bool:
    """Copy a SQLite file, which somebody may be writing to; return whether it could be."""
    if not source.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged_file(target) as staged, closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(staged)) as new:
            old.backup(new)
            # Else a part of it may lie in another file.
            new.execute("PRAGMA journal_mode = DELETE")
    except (sqlite3.Error, OSError) as error:
        logger.warning("%s cannot be used (%s): files are looked at without it", source, error)
        return False
    logger.info("%s: begins with what %s holds", target, source)
    return True
