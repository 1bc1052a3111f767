"""Windows that answer a query, merged into places: neighbouring windows of one file are one hit with a start and an end.

A place is grown around its best window. A neighbour, one that overlaps or touches, belongs to it as long as it answers at
least half as well as the best window of the file does, counted from what the index answers to this query in general (the
half-height rule for the width of a peak). So the places of a file never overlap, and do not depend on how many are asked for.

Shapes: n windows of the index, m windows of a file, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from umt_pipeline.serving.index.reading import Index

# Share of the best window's height that a neighbour needs, and windows that stand for the index when heights are counted.
_HEIGHT = 0.5
_SAMPLE = 1024
# Of windows whose ends were rounded when they were written, a millisecond apart is touching.
_TOUCHING_S = 1e-3


@dataclass(frozen=True)
class Place:
    """A part of a file that answers a query.

    Attributes:
        file: row of the file in the index' table.
        start_s: where it starts, in seconds.
        end_s: where it ends; that of an image is where it starts.
        score: cosine of its best window.
        window: number of that window, the first of those that are equally good.
    """

    file: int
    start_s: float
    end_s: float
    score: float
    window: int

    @property
    def rank_key(self) -> tuple[float, int]:
        """What places are sorted by: the best first, ties by window number."""
        return -self.score, self.window


class Layout:
    """Where the windows of an index lie: in the order of files and time, and what they answer in general.

    Args:
        index: an open index.
    """

    def __init__(self, index: Index) -> None:
        self.file_n = index.windows["file"].to_numpy()
        self.start_n = index.windows["start_s"].to_numpy()
        self.end_n = index.windows["end_s"].to_numpy()
        sample = np.unique(np.linspace(0, max(len(self.file_n) - 1, 0), min(_SAMPLE, len(self.file_n))).astype(np.int64))
        self._sample_mE = index.vectors(sample)

    @cached_property
    def order_n(self) -> np.ndarray:
        """Window numbers, sorted by file, start, end and number."""
        return np.lexsort((np.arange(len(self.file_n)), self.end_n, self.start_n, self.file_n))

    @cached_property
    def position_n(self) -> np.ndarray:
        """Of each window, its position in that order."""
        position_n = np.empty_like(self.order_n)
        position_n[self.order_n] = np.arange(len(self.order_n))
        return position_n

    def typical(self, vector_E: np.ndarray) -> float:
        """Return the median cosine of a vector and the windows of the index, or of windows evenly spaced over it."""
        return float(np.median(cosines(self._sample_mE, vector_E))) if len(self._sample_mE) else 0.0

    def around(self, window: int, reach: int) -> list[int]:
        """Return the windows of the same file that overlap or touch a window, and ``reach`` more on either side."""
        found, at, last = [], int(self.position_n[window]), len(self.order_n)
        for step in (-1, 1):
            left, position = reach, at + step
            while 0 <= position < last:
                other = int(self.order_n[position])
                if self.file_n[other] != self.file_n[window]:
                    break
                if not self.touch(window, other):
                    if not left:
                        break
                    left -= 1
                found.append(other)
                position += step
        return found

    def touch(self, one: int, other: int) -> bool:
        """Whether two windows of a file overlap, or one ends where the other starts."""
        first, last = max(self.start_n[one], self.start_n[other]), min(self.end_n[one], self.end_n[other])
        return bool(first <= last + _TOUCHING_S)


_LAYOUTS: WeakKeyDictionary[Index, Layout] = WeakKeyDictionary()


def layout_of(index: Index) -> Layout:
    """Return the layout of an index, made once for as long as the index is open."""
    layout = _LAYOUTS.get(index)
    if layout is None:
        layout = _LAYOUTS[index] = Layout(index)
    return layout


def cosines(vectors_mE: np.ndarray, vector_E: np.ndarray) -> np.ndarray:
    """Return the product of each vector with one, float32 [m]: the same numbers however many are asked at a time."""
    # Added up in double precision: what a product of matrices rounds differently by its size is gone in single precision.
    product_m = np.asarray(vectors_mE, dtype=np.float64) @ np.asarray(vector_E, dtype=np.float64)
    return product_m.astype(np.float32)


def floor_of(best: float, typical: float) -> float:
    """Return the score that windows of a file need beside its best one."""
    return best - (1 - _HEIGHT) * max(best - typical, 0.0)


def best_places(index: Index, vector_E: np.ndarray, wanted: int, allowed_n: np.ndarray | None) -> list[Place]:
    """Return the places that answer a vector best, the best first; fewer than wanted if the index has no more.

    Args:
        index: what is searched.
        vector_E: unit vector float32 [E].
        wanted: places.
        allowed_n: windows that may be found, bool [n]; None: all.
    """
    layout, windows = layout_of(index), len(index.windows)
    typical = layout.typical(vector_E)
    # Most files give several windows.
    asked = min(windows, max(64, 8 * wanted))
    while True:
        found_K = index.nearest(vector_E[None], asked, allowed_n)[1][0] if asked else np.zeros(0, dtype=np.int64)
        seen_K = found_K[found_K >= 0]
        score_of = dict(zip(seen_K.tolist(), cosines(index.vectors(seen_K), vector_E).tolist(), strict=True))
        exhausted = asked == windows or len(seen_K) < asked
        # A place that was not seen is no better than the last window that was.
        last = -np.inf if exhausted else min(score_of.values())
        found = _grown(index, layout, vector_E, score_of, typical, allowed_n)
        certain = sorted((place for place in found if place.score > last), key=lambda place: place.rank_key)
        if exhausted or len(certain) >= wanted:
            return certain[:wanted]
        asked = min(windows, 4 * asked)


def _grown(
    index: Index,
    layout: Layout,
    vector_E: np.ndarray,
    score_of: dict[int, float],
    typical: float,
    allowed_n: np.ndarray | None,
) -> list[Place]:
    """Return the places around windows whose scores are known; ``score_of`` grows by the neighbours that were looked at."""
    floors = _floors(layout, score_of, typical)
    fresh, reach = list(score_of), 1
    while fresh:
        around: set[int] = set()
        for window in fresh:
            if score_of[window] >= floors[int(layout.file_n[window])]:
                around.update(layout.around(window, reach))
        fresh = sorted(other for other in around - score_of.keys() if allowed_n is None or allowed_n[other])
        if fresh:
            score_of.update(zip(fresh, cosines(index.vectors(np.array(fresh)), vector_E).tolist(), strict=True))
            # An index that answers approximately may have missed the best window of a file.
            floors = _floors(layout, score_of, typical)
            reach *= 2
    return merged(layout, score_of, floors)


def _floors(layout: Layout, score_of: Mapping[int, float], typical: float) -> dict[int, float]:
    best: dict[int, float] = {}
    for window, score in score_of.items():
        file = int(layout.file_n[window])
        best[file] = max(score, best.get(file, -np.inf))
    return {file: floor_of(score, typical) for file, score in best.items()}


def merged(layout: Layout, score_of: Mapping[int, float], floors: Mapping[int, float]) -> list[Place]:
    """Return the places that windows make up, in the order of files and time.

    Args:
        layout: of the index.
        score_of: scores of windows.
        floors: of each file, the score below which a window belongs to no place.
    """
    places: list[Place] = []
    for window in sorted(score_of, key=lambda number: layout.position_n[number]):
        score, file = score_of[window], int(layout.file_n[window])
        if score < floors[file]:
            continue
        start_s, end_s = float(layout.start_n[window]), float(layout.end_n[window])
        before = places[-1] if places else None
        if before is None or before.file != file or start_s > before.end_s + _TOUCHING_S:
            places.append(Place(file, start_s, end_s, score, window))
            continue
        best = min((before.rank_key, (-score, window)))
        places[-1] = Place(file, before.start_s, max(before.end_s, end_s), -best[0], best[1])
    return places
