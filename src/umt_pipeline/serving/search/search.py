"""Search in an index: by a text, by a vector, by a clip, or by a window that is in it.

Shapes: n windows of the index, E embedding width, T frames of a view of side S.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from umt_pipeline.core.errors import ConfigError, IndexingError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.inputs import Span, Video, clip_of
from umt_pipeline.serving.search.calibration import Cutoff, cutoff_of, outdated_cutoff
from umt_pipeline.serving.search.filters import Filters
from umt_pipeline.serving.search.hits import Place, best_places, layout_of
from umt_pipeline.serving.search.reranking import Match, rematched, reordered
from umt_pipeline.serving.search.texts import Reading, clean_text, reading_of


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for: one of ``text``, ``vector``, ``video`` and ``window``; ``text`` may have its vector beside it.

    Attributes:
        text: a sentence.
        vector: unit vector float32 [E] of the index' model; beside a text, its embedding, where that was computed before.
        video: a clip: a path, the bytes of a file, or frames; where it shows what is in the index, that is not found.
        span: first and last second of the clip, the part that is meant; None: all of it.
        window: number of a window of the index; what it overlaps or touches in its own file is not found.
        k: hits that are wanted.
        rerank: how many of the best places are ranked anew by cosine and matching head, on frames read anew; texts only.
        filters: which files may be found.

    Raises:
        ConfigError: it is none of these or several, ``k`` or ``rerank`` is too small, ``span`` is not of a video, or the text
            is empty or longer than 20,000 characters.
    """

    text: str | None = None
    vector: np.ndarray | None = None
    video: Video | None = None
    span: Span | None = None
    window: int | None = None
    k: int = 10
    rerank: int = 0
    filters: Filters = field(default_factory=Filters)

    def __post_init__(self) -> None:
        given = [name for name in ("text", "vector", "video", "window") if getattr(self, name) is not None]
        if len(given) != 1 and given != ["text", "vector"]:
            raise ConfigError(f"a query: expected one of text, vector, video and window, found {' and '.join(given) or 'none'}")
        if self.k < 1:
            raise ConfigError(f"k: expected at least 1, found {self.k}")
        if self.rerank < 0 or (self.rerank and self.text is None):
            raise ConfigError(
                f"rerank: expected a number of places, and a text that they are matched with, found {self.rerank}"
            )
        if self.span is not None and self.video is None:
            raise ConfigError(f"span: expected a video that it is a part of, found seconds {self.span} without one")
        if self.text is not None:
            object.__setattr__(self, "text", clean_text(self.text))


@dataclass(frozen=True)
class Hit:
    """A part of a file that answers a query.

    Attributes:
        rank: from 1.
        file_id: SHA-256 of the file's content when it was indexed.
        path: absolute path of the file.
        start_s: where it starts, in seconds.
        end_s: where it ends; that of an image is where it starts.
        score: cosine of its best window and the query.
        match: the matching head's logit of a match on its best window; None: it was not asked.
        label: of the file, if it has one.
        split: of the file, if it has one.
        date: when the file was last changed, in ISO form, as indexed.
        window: number of its best window.
        note: what is wrong with the file now, such as that it has vanished; empty: nothing is.
    """

    rank: int
    file_id: str
    path: str
    start_s: float
    end_s: float
    score: float
    match: float | None
    label: str | None
    split: str | None
    date: str
    window: int
    note: str = ""


@dataclass(frozen=True)
class Found:
    """The answer to a query.

    Attributes:
        hits: the best first; those below the cut-off, too.
        cutoff: the score from which on something counts as found, for texts, where the index has one.
        outdated: that the index had a cut-off for texts, which does not count any more; None: it has not.
        took: milliseconds of ``embed``, ``nearest``, ``rerank`` and ``total``.
        reading: what the model reads of the text, where one was asked with.
    """

    hits: list[Hit]
    cutoff: Cutoff | None
    took: dict[str, float]
    reading: Reading | None = None
    outdated: str | None = None

    @property
    def notes(self) -> list[str]:
        """What is to be said beside the hits: what the model does not read of the text, and that a cut-off is missing."""
        return [*(self.reading.notes if self.reading else []), *([self.outdated] if self.outdated else [])]

    @property
    def answers(self) -> list[Hit]:
        """The hits that are not below the cut-off; none if the model knows no word of the text."""
        if self.reading and self.reading.nothing:
            return []
        return [hit for hit in self.hits if self.cutoff is None or hit.score >= self.cutoff.score]

    @property
    def nothing_found(self) -> bool:
        """Whether there is no answer."""
        return not self.answers

    @property
    def unusable(self) -> int:
        """Number of hits whose file has vanished or changed."""
        return sum(bool(hit.note) for hit in self.hits)


def search(embedder: Embedder | None, index: Index, query: Query) -> Found:
    """Return the places in the files of an index that answer a query.

    Equal scores are sorted by window number, so the same query of the same index has the same answer.

    Args:
        embedder: the model that the index was made with; None will do for a vector or a window.
        index: an open index.
        query: what is searched for.

    Raises:
        IndexingError: the index is of another model, or has no such window.
        ConfigError: the model reads no text, has no matching head, or a filter cannot work.
        VideoError: the clip of the query cannot be read.
    """
    took: dict[str, float] = {}
    if embedder is not None:
        index.require_model(embedder.key, f"a model of kind {embedder.kind!r}")
    if query.rerank and not (embedder and embedder.matches):
        kind = embedder.kind if embedder else "none"
        raise ConfigError(f"rerank: a model of kind {kind!r} has no matching head: expected one of stage 2 or retrieval")
    with _timed(took, "total"):
        allowed_n = query.filters.allowed(index)
        with _timed(took, "embed"):
            vector_E = _vector(embedder, index, query)
        allowed_n = _without(index, _own_windows(index, query), allowed_n)
        with _timed(took, "nearest"):
            places = best_places(index, vector_E, max(query.k, query.rerank), allowed_n)
        match_of: dict[int, Match | str] = {}
        if query.rerank and embedder and query.text:
            with _timed(took, "rerank"):
                match_of = rematched(embedder, index, query.text, places[: query.rerank])
                places = reordered(places, match_of, embedder.temperature)
        hits = [_hit(index, rank, place, match_of) for rank, place in enumerate(places[: query.k], start=1)]
    # Calibrated on texts: what a clip answers to clips is another scale.
    cutoff = cutoff_of(index) if query.text is not None else None
    reading = reading_of(embedder, query.text) if embedder and query.text is not None else None
    outdated = outdated_cutoff(index) if query.text is not None and cutoff is None else None
    return Found(hits, cutoff, took, reading, outdated)


def _vector(embedder: Embedder | None, index: Index, query: Query) -> np.ndarray:
    """Return the unit vector float32 [E] of a query."""
    if query.vector is not None:
        if query.vector.shape != (index.model.dim,) or not np.isfinite(query.vector).all():
            raise ConfigError(f"vector: expected {index.model.dim} finite numbers, found {list(query.vector.shape)} others")
        return query.vector
    if query.window is not None:
        if not 0 <= query.window < len(index.windows):
            raise IndexingError(f"{index.folder}: expected a window below {len(index.windows):,}, found {query.window}")
        return index.vectors(np.array([query.window]))[0]
    if embedder is None:
        raise ConfigError("a query by a text or a clip: expected the model that the index was made with, found none")
    if query.text is not None:
        vectors_1E = embedder.encode_texts([query.text])
    else:
        assert query.video is not None
        frames_TSSC = clip_of(query.video, embedder.view, query.span)
        vectors_1E = embedder.encode_clips(torch.from_numpy(np.ascontiguousarray(frames_TSSC))[None])
    return vectors_1E.numpy()[0]


def _own_windows(index: Index, query: Query) -> list[int]:
    """Return the windows of the index that show what the query shows."""
    if query.window is not None:
        return layout_of(index).around(query.window)
    if not isinstance(query.video, str | Path | bytes):
        return []
    sha256 = hashlib.sha256(query.video).hexdigest() if isinstance(query.video, bytes) else sha256_file(Path(query.video))
    start_s, end_s = query.span or (0.0, np.inf)
    windows = index.windows
    own_n = windows["file"].isin(np.flatnonzero(index.files["file_id"] == sha256))
    return np.flatnonzero(own_n & (windows["start_s"] < end_s) & (windows["end_s"] >= start_s)).tolist()


def _without(index: Index, windows: Sequence[int], allowed_n: np.ndarray | None) -> np.ndarray | None:
    if not windows:
        return allowed_n
    allowed_n = np.ones(len(index.windows), dtype=bool) if allowed_n is None else allowed_n.copy()
    allowed_n[windows] = False
    return allowed_n


def _hit(index: Index, rank: int, place: Place, match_of: Mapping[int, Match | str]) -> Hit:
    file = index.files.iloc[place.file]
    match = match_of.get(place.window)
    note = match if isinstance(match, str) else what_changed(Path(file["path"]), str(file["date"]))
    return Hit(
        rank=rank,
        file_id=str(file["file_id"]),
        path=str(file["path"]),
        start_s=place.start_s,
        end_s=place.end_s,
        score=place.score,
        match=match.logit if isinstance(match, Match) else None,
        label=_text(file["label"]),
        split=_text(file["split"]),
        date=str(file["date"]),
        window=place.window,
        note=note,
    )


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def what_changed(path: Path, date: str) -> str:
    """Return what is different of a file since it was indexed, by its date; empty: nothing is.

    Args:
        path: of the file.
        date: when it was last changed, in ISO form, as indexed.
    """
    try:
        changed_s = path.stat().st_mtime
    except OSError as error:
        return f"the file cannot be opened: {error.strerror}; indexing again leaves it out"
    # Whole seconds: that much survives every way of writing a date, and every file system.
    if abs(changed_s - pd.Timestamp(date).timestamp()) >= 1:
        return "the file was changed after it was indexed: indexing again reads it anew"
    return ""


@contextmanager
def _timed(took: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    took[name] = 1000 * (time.perf_counter() - start)
