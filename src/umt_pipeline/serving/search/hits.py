"""Windows that answer a query, merged into places: neighbouring windows of one file are one hit with a start and an end.

A place is grown around its best window. A neighbour, one that overlaps or touches, belongs to it as long as it answers at
least half as well as the best window of the file does, counted from what the index answers to this query in general (the
half-height rule for the width of a peak). So the places of a file never overlap, and do not depend on how many are asked for.

Shapes: n windows of the index, m windows of a file, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from umt_pipeline.serving.index.nearest import products
from umt_pipeline.serving.index.reading import Index

# Share of the best window's height that a neighbour needs, and windows that stand for the index when heights are counted.
_HEIGHT = 0.5
_SAMPLE = 1024
# Windows on both sides of those that were found, which are looked at first.
_MORE = 8
# Vectors that are copied at a time.
_AT_ONCE = 65_536
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
    """Where the windows of an index lie, in the order of files and time, and what they answer in general.

    Of the windows of a file, none ends before one that starts earlier.

    Args:
        index: an open index.

    Attributes:
        order_n: window numbers, sorted by file, start and number; what follows is in this order.
        file_n: rows of their files.
        start_n: where they start, in seconds.
        end_n: where they end.
        position_n: of each window number, its position in that order.
    """

    def __init__(self, index: Index) -> None:
        windows, count = index.windows, len(index.windows)
        file_n, start_n = windows["file"].to_numpy(), windows["start_s"].to_numpy()
        self.order_n = np.lexsort((np.arange(count), start_n, file_n))
        self.file_n, self.start_n = file_n[self.order_n], start_n[self.order_n]
        self.end_n = windows["end_s"].to_numpy()[self.order_n]
        self.position_n = np.empty_like(self.order_n)
        self.position_n[self.order_n] = np.arange(count)
        sample = np.unique(np.linspace(0, max(count - 1, 0), min(_SAMPLE, count)).astype(np.int64))
        self._sample_mE = index.vectors(sample).astype(np.float64)

    def typical(self, vector_E: np.ndarray) -> float:
        """Return the median cosine of a vector and the windows of the index, or of windows evenly spaced over it."""
        return float(np.median(cosines(self._sample_mE, vector_E))) if len(self._sample_mE) else 0.0

    def bounds(self, file: int) -> tuple[int, int]:
        """Return the position of a file's first window, and the one after its last."""
        first, after = np.searchsorted(self.file_n, (file, file + 1))
        return int(first), int(after)

    def touch(self, first: int, other: int) -> bool:
        """Whether of two positions of one file the later window overlaps the earlier one, or starts where that ends."""
        return bool(self.start_n[other] <= self.end_n[first] + _TOUCHING_S)

    def inside(self, place: Place) -> np.ndarray:
        """Return the numbers of the windows that lie within a place."""
        own = slice(*self.bounds(place.file))
        return self.order_n[own][(self.start_n[own] >= place.start_s) & (self.end_n[own] <= place.end_s)]

    def around(self, window: int) -> list[int]:
        """Return a window, by its number, and those of its file that overlap or touch it."""
        position = int(self.position_n[window])
        own = slice(*self.bounds(int(self.file_n[position])))
        touching = (self.start_n[own] <= self.end_n[position] + _TOUCHING_S) & (
            self.end_n[own] >= self.start_n[position] - _TOUCHING_S
        )
        return self.order_n[own][touching].tolist()


_LAYOUTS: WeakKeyDictionary[Index, Layout] = WeakKeyDictionary()


def layout_of(index: Index) -> Layout:
    """Return the layout of an index, made once for as long as the index is open; of a million windows, within a second."""
    layout = _LAYOUTS.get(index)
    if layout is None:
        layout = _LAYOUTS[index] = Layout(index)
    return layout


def cosines(vectors_mE: np.ndarray, vector_E: np.ndarray) -> np.ndarray:
    """Return the product of each vector with one, float32 [m]: the same numbers however many are asked at a time."""
    # Added up in double precision: what a product of matrices rounds differently by its size is gone in single precision.
    return products(np.array(vector_E, dtype=np.float64), np.array(vectors_mE, dtype=np.float64)).astype(np.float32)


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
    seen, score_K = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    # Most files give several windows.
    open_n, asked = allowed_n, min(windows, max(64, 8 * wanted))
    while True:
        found_K = index.nearest(vector_E[None], asked, open_n)[1][0] if asked else seen
        fresh = found_K[found_K >= 0]
        seen = np.concatenate([seen, fresh])
        score_K = np.concatenate([score_K, _scores(index, fresh, vector_E)])
        exhausted = asked == windows or len(fresh) < asked
        # A place that was not seen is no better than the last window that was.
        last = -np.inf if exhausted else float(score_K[-len(fresh) :].min())
        places: list[Place] = []
        for seeds, best in _by_file(layout, seen, score_K):
            # No place of this file or of the next ones is among the best. Where all score the same, too, this ends.
            if sum(place.rank_key < best for place in places) >= wanted:
                break
            places += _places(index, layout, vector_E, seeds, typical, allowed_n)
        certain = sorted((place for place in places if place.score > last), key=lambda place: place.rank_key)
        if exhausted or len(certain) >= wanted:
            return certain[:wanted]
        # One place may be a whole day: what is in it is known, and need not be found window by window.
        open_n = np.ones(windows, dtype=bool) if allowed_n is None else allowed_n.copy()
        open_n[np.concatenate([seen, *(layout.inside(place) for place in places)])] = False
        asked = min(windows, 4 * asked)


def _by_file(layout: Layout, seen_K: np.ndarray, score_K: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[float, int]]]:
    """Give the positions of the windows that were seen of each file, and the rank key of its best; the best file first."""
    order_K = np.lexsort((seen_K, -score_K))
    position_K = layout.position_n[seen_K[order_K]]
    _, first, which_K, count = np.unique(layout.file_n[position_K], return_index=True, return_inverse=True, return_counts=True)
    # The windows of each file side by side, the best first.
    own_K, end = position_K[np.argsort(which_K, kind="stable")], np.cumsum(count)
    for row in np.argsort(first):
        best = order_K[first[row]]
        yield own_K[end[row] - count[row] : end[row]], (-float(score_K[best]), int(seen_K[best]))


def _scores(index: Index, windows: np.ndarray, vector_E: np.ndarray) -> np.ndarray:
    """Return the cosine of each window, by its number, and a vector, float32 [m]; in parts, for they may be all there are."""
    parts = [cosines(index.vectors(windows[start : start + _AT_ONCE]), vector_E) for start in range(0, len(windows), _AT_ONCE)]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _places(
    index: Index,
    layout: Layout,
    vector_E: np.ndarray,
    seeds: np.ndarray,
    typical: float,
    allowed_n: np.ndarray | None,
) -> list[Place]:
    """Return the places of a file.

    Args:
        index: that it is in.
        layout: of the index.
        vector_E: the query.
        seeds: positions of its best windows.
        typical: what the index answers in general.
        allowed_n: windows that may be found.
    """
    start, stop = layout.bounds(int(layout.file_n[seeds[0]]))
    first, after, more = max(start, int(seeds.min()) - _MORE), min(stop, int(seeds.max()) + 1 + _MORE), _MORE
    while True:
        numbers_m = layout.order_n[first:after]
        score_m = _scores(index, numbers_m, vector_E)
        if allowed_n is not None:
            score_m[~allowed_n[numbers_m]] = -np.inf
        kept_m = np.flatnonzero(score_m >= floor_of(float(score_m.max()), typical))
        left = first > start and layout.touch(first - 1, first + int(kept_m[0]))
        right = after < stop and layout.touch(first + int(kept_m[-1]), after)
        if not left and not right:
            return _merged(layout, first + kept_m, score_m[kept_m])
        more *= 2
        first, after = max(start, first - more * left), min(stop, after + more * right)


def _merged(layout: Layout, positions_m: np.ndarray, score_m: np.ndarray) -> list[Place]:
    """Return the places that windows of one file make up.

    Args:
        layout: of the index.
        positions_m: of the windows, rising.
        score_m: their scores.
    """
    apart = layout.start_n[positions_m[1:]] > layout.end_n[positions_m[:-1]] + _TOUCHING_S
    places = []
    for group in np.split(np.arange(len(positions_m)), np.flatnonzero(apart) + 1):
        own = positions_m[group]
        best = min(group.tolist(), key=lambda row: (-score_m[row], layout.order_n[positions_m[row]]))
        places.append(
            Place(
                file=int(layout.file_n[own[0]]),
                start_s=float(layout.start_n[own[0]]),
                end_s=float(layout.end_n[own[-1]]),
                score=float(score_m[best]),
                window=int(layout.order_n[positions_m[best]]),
            )
        )
    return places
