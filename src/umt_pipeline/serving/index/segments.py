"""Segments of an index: vectors that were added together, with the places that they are of; written once, never changed.

Shapes: n vectors, Q queries, K found for each, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from umt_pipeline.core.files import sha256_file
from umt_pipeline.serving.embedding.shelf import Embedded, Vectors
from umt_pipeline.serving.index.approximate import EXACT, Approximate, build_approximate
from umt_pipeline.serving.index.layout import SegmentFacts
from umt_pipeline.serving.index.nearest import exact

_NEW = "new"
# Vectors that are copied at a time.
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Segment:
    """A segment, opened.

    Args:
        facts: about it.
        where: folder of a generation that it is in.
        vectors_NE: float32, memory-mapped.
        table: of each vector: file_id, start_s, end_s.
        approximate: how the nearest are found without looking at all; None: by looking at all.
    """

    facts: SegmentFacts
    where: Path
    vectors_NE: np.ndarray
    table: pd.DataFrame
    approximate: Approximate | None

    @classmethod
    def open(cls, where: Path, facts: SegmentFacts) -> Self:
        """Open a segment of a generation, whose files were checked."""
        vectors_NE = np.load(where / facts.vectors_file, mmap_mode="c")  # nobody writes; see `products`
        found = None if facts.search == EXACT else Approximate.open(where / facts.faiss_file, facts.search, vectors_NE)
        return cls(facts, where, vectors_NE, pd.read_parquet(where / facts.table_file), found)

    def paths(self) -> list[Path]:
        """Return its files."""
        names = [self.facts.vectors_file, self.facts.table_file, self.facts.faiss_file]
        return [self.where / name for name in names[: 2 if self.facts.search == EXACT else 3]]

    def nearest(self, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows [Q, K] of the nearest vectors of those that are allowed; -inf and -1 where there are fewer."""
        if self.approximate is not None and self.approximate.pays(allowed_N):
            return self.approximate.nearest(queries_QE, k, allowed_N)
        return exact(self.vectors_NE, queries_QE, k, allowed_N)


def write_segment(
    folder: Path, dim: int, old: Sequence[tuple[Segment, np.ndarray]], file_ids: Sequence[str], added: Vectors
) -> SegmentFacts | None:
    """Write a segment.

    Args:
        folder: where.
        dim: E.
        old: segments, and which of their rows are taken over.
        file_ids: files whose vectors are added.
        added: where they are had from.

    Returns:
        What is to be known of it; None if it would have no row.
    """
    rows = sum(len(taken) for _, taken in old) + sum(map(added.count, file_ids))
    if rows == 0:
        return None
    new = SegmentFacts(name=_NEW, rows=rows, search=EXACT)
    vectors_NE = np.lib.format.open_memmap(folder / new.vectors_file, mode="w+", dtype=np.float32, shape=(rows, dim))
    start = 0
    spans = [np.empty((0, 2))]
    for embedded in _parts(old, file_ids, added):
        vectors_NE[start : start + len(embedded.vectors_WE)] = embedded.vectors_WE
        spans.append(embedded.spans_W2)
        start += len(embedded.vectors_WE)
    vectors_NE.flush()
    _table(old, file_ids, added, np.concatenate(spans)).to_parquet(folder / new.table_file, index=False)
    search = build_approximate(vectors_NE, folder / new.faiss_file)
    del vectors_NE
    name = sha256_file(folder / new.vectors_file)[:8] + sha256_file(folder / new.table_file)[:8]
    named = new.model_copy(update={"name": name, "search": search})
    for before, after in zip(_names(new), _names(named), strict=True):
        if (folder / before).is_file():
            (folder / before).rename(folder / after)
    return named


def _parts(old: Iterable[tuple[Segment, np.ndarray]], file_ids: Iterable[str], added: Vectors) -> Iterator[Embedded]:
    for segment, taken in old:
        spans_N2 = segment.table[["start_s", "end_s"]].to_numpy()
        for start in range(0, len(taken), _ROWS_AT_ONCE):
            rows_n = taken[start : start + _ROWS_AT_ONCE]
            yield Embedded(spans_N2[rows_n], segment.vectors_NE[rows_n])
    yield from map(added.get, file_ids)


def _table(
    old: Iterable[tuple[Segment, np.ndarray]], file_ids: Sequence[str], added: Vectors, spans_N2: np.ndarray
) -> pd.DataFrame:
    # Column by column: a table for each file would take most of the time that it takes to write an index of many.
    before = [segment.table["file_id"].iloc[taken] for segment, taken in old]
    counts = np.array([added.count(file_id) for file_id in file_ids], dtype=np.int64)
    fresh = pd.Series(file_ids, dtype="str").iloc[np.repeat(np.arange(len(counts)), counts)]
    file_id = pd.concat([*before, fresh], ignore_index=True)
    return pd.DataFrame({"file_id": file_id, "start_s": spans_N2[:, 0], "end_s": spans_N2[:, 1]})


def _names(facts: SegmentFacts) -> tuple[str, str, str]:
    return facts.vectors_file, facts.table_file, facts.faiss_file
