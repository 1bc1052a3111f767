"""Indexes of a corpus: made before the server starts, or, while it answers, in a process of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.processes import follow_parent
from umt_pipeline.serving.embedding.gathering import Asked
from umt_pipeline.serving.index.building import build_index
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.loading import load_found
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.search.calibration import best_scores, calibrate, keep_cutoff
from umt_pipeline.serving.sources import Found

logger = logging.getLogger(__name__)

# Beside a server that answers, building has the cores that are left.
_NICE = 10


@dataclass(frozen=True)
class Content:
    """What an index of a corpus is made of.

    Attributes:
        asked: the folder, and labels and splits of its files.
        captions: that its cut-off is calibrated on: columns path, caption, split, start_s, end_s.
    """

    asked: Asked
    captions: pd.DataFrame


def build(content: Content, model: Model, folder: Path) -> None:
    """Make the index of a model, or bring it up to date, and calibrate its cut-off where there are captions enough.

    Raises:
        IndexingError: no file can be read, or what is there is damaged.
        ConfigError: another process builds there.
    """
    embedder = model.embedder
    assert embedder is not None, "only a model that embeds has an index"
    local = Path(model.source)
    built = build_index(folder, content.asked, embedder, str(local.resolve()) if local.exists() else model.source)
    facts = built.manifest.facts
    logger.info("%s: generation %d, %d windows", folder, built.manifest.generation, facts["windows"])
    for row in built.gathered.failed.itertuples():
        logger.warning("not in the index: %s: %s: %s", row.path, row.reason, row.detail)
    if not embedder.reads_text or content.captions.empty:
        return
    with Index.open(folder) as index:
        cutoff = calibrate(best_scores(embedder, index, content.captions), len(index.windows))
        keep_cutoff(index, cutoff)
        logger.info("%s", cutoff if isinstance(cutoff, str) else cutoff.sentence)


def build_beside(content: Content, found: Found, model: Model, folder: Path) -> None:
    """Do the same in another process, which loads the model again; it ends with this one, and the next goes on with its work.

    Args:
        content: of the index.
        found: the model's files.
        model: loaded from them here.
        folder: of the index.

    Raises:
        IndexingError: it failed; with its last words.
    """
    assert model.embedder is not None, "only a model that embeds has an index"
    # Not a fork: that would copy the locks of the threads that are at work here.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # What was resolved here, for another process may measure another speed.
    precision = model.embedder.encoder.precision
    process = context.Process(target=_build, args=(theirs, content, found, precision, folder), daemon=True)
    process.start()
    theirs.close()
    try:
        failure = ours.recv()
    except EOFError:
        process.join()
        failure = f"the process that built it ended with exit status {process.exitcode}"
    process.join()
    if failure:
        raise IndexingError(f"{folder}: {failure}")


def _build(told: Connection, content: Content, found: Found, precision: str, folder: Path) -> None:
    follow_parent()
    os.nice(_NICE)
    try:
        assert precision in ("fp32", "bf16")
        build(content, load_found(found, found.settings or {}, precision), folder)  # type: ignore[arg-type]
    except Exception as error:  # whatever it is, the server says it and serves on
        told.send(f"{type(error).__name__}: {error}")
    else:
        told.send("")
