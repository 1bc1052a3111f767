"""An index of a folder of videos, built or brought up to date beside the one that serves."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError, IndexingError
from umt_pipeline.core.locking import only_writer
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.embed import identity_of
from umt_pipeline.serving.embedding.gathering import LOOKED_FILE, Asked, Gathered, gather
from umt_pipeline.serving.embedding.shelf import Shelf, forget_others
from umt_pipeline.serving.index.beside import take_over
from umt_pipeline.serving.index.layout import CURRENT_FILE, GENERATIONS, KNOWN, Manifest, ModelFacts, read_pointer
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import Content, write_generation
from umt_pipeline.video.probing import CACHE_FILE

logger = logging.getLogger(__name__)

# Whoever has not gone on with an interrupted build of another model for a month will not.
_GIVEN_UP_AFTER_S = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Built:
    """What a build came to.

    Attributes:
        manifest: of the generation that is served now.
        is_new: whether it was made by this build; else there was nothing new.
        gathered: what was found in the folder.
    """

    manifest: Manifest
    is_new: bool
    gathered: Gathered


def build_index(out: Path, asked: Asked, embedder: Embedder, source: str, anew: bool = False) -> Built:
    """Build an index of a folder, or bring one up to date: only what is new or has other content is embedded.

    What is there serves on until the new generation is whole. An index of another model, rule or version of the code is built
    from nothing, beside the old one. A new one takes over what other indexes of the same folder, which lie beside it, know
    about the files. A build that is killed goes on where it was, file by file, when it is run again.

    Args:
        out: folder of the index.
        asked: the folder of videos, and how it is looked through.
        embedder: the model.
        source: what it was loaded from.
        anew: use nothing of what is there, which may be damaged.

    Raises:
        ConfigError: another process builds there, or ``out`` is a folder of other things; the folder of videos has none.
        IndexingError: what is there is damaged, or of another version; or the numbers of files and windows do not add up.
    """
    _require_index_or_nothing(out)
    with only_writer(out):
        if anew:
            shutil.rmtree(out / KNOWN, ignore_errors=True)
        else:
            take_over(out, asked.folder)
        old = None if anew or read_pointer(out) is None else Index.open(out)
        identity = identity_of(embedder, asked.rule)
        usable = old if old is not None and old.identity == identity else None
        if old is not None and usable is None:
            logger.info("%s: generation %d is of another model, rule or code: all is embedded anew", out, old.generation)
        known = set(usable.files["file_id"]) if usable is not None else set()
        with Shelf(out / KNOWN / f"{identity}.sqlite") as shelf:
            gathered = gather(asked, embedder, out / KNOWN, known.__contains__, shelf)
            if gathered.files.empty:
                first = gathered.left_out.iloc[0]
                raise IndexingError(
                    f"{asked.folder}: expected a video that can be read, found {gathered.found} files of which none can; the "
                    f"first: {first['path']}: {first['reason']}: {first['detail']}"
                )
            content = _content(identity, asked, embedder, source, gathered)
            is_new = usable is None or not _same(usable, content)
            manifest = write_generation(out, old, content, shelf) if is_new or usable is None else usable.manifest
            shelf.remove()
        forget_others(out / KNOWN, (LOOKED_FILE, CACHE_FILE), _GIVEN_UP_AFTER_S)
    return Built(manifest, is_new, gathered)


def _require_index_or_nothing(out: Path) -> None:
    """Refuse to fill a folder of other things.

    Raises:
        ConfigError: it is one.
    """
    ours = {CURRENT_FILE, GENERATIONS, KNOWN}
    others = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if (others and not ours & set(others)) or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out}: expected an index, or a folder to be made, found other things: give another --out")


def _content(identity: str, asked: Asked, embedder: Embedder, source: str, gathered: Gathered) -> Content:
    model = ModelFacts(
        source=source,
        kind=embedder.kind,
        key=embedder.key,
        dim=embedder.dim,
        precision=embedder.encoder.precision,
        frames=embedder.view.frames,
        size=embedder.view.size,
    )
    seconds = {name: round(value, 3) for name, value in gathered.seconds.items()}
    facts = {"found": gathered.found, "seconds": seconds, "folder": str(asked.folder.resolve())}
    return Content(identity, model, asked.rule, gathered.files, gathered.left_out, facts)


def _same(index: Index, content: Content) -> bool:
    """Whether a generation holds just that already."""
    tables = ((index.files, content.files), (index.left_out, content.left_out))
    return index.model == content.model and all(_equal(old[list(new.columns)], new) for old, new in tables)


def _equal(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    # What is None here may be NaN there.
    one, other = (table.fillna("").to_numpy(dtype=object) for table in (old, new))
    return one.shape == other.shape and bool(np.equal(one, other).all())
