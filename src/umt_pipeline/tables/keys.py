"""What rows have in common, found by hashes: a few bytes for each row, whatever is in it.

Two kinds, for two questions. *Which rows may be equal?* is asked of 64 bits; who asks compares the rows that are left
themselves, so that a hash two rows share by chance costs a comparison. *Which row is it?* is asked of 128 bits, and nobody
compares: among 10^9 rows two share one with a probability of 10^-21.

Shapes: R rows, K keys, Q questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import pandas as pd

Rows = np.ndarray  # int64: numbers of rows


def hash_rows(table: pd.DataFrame, *columns: str) -> np.ndarray:
    """Return 64 bits for each row, uint64 [R]: equal cells in these columns give equal ones."""
    cells = table[list(columns)]
    zeros = {name: cells[name] + 0.0 for name in columns if cells[name].dtype == np.float64}  # -0.0 becomes 0.0
    return pd.util.hash_pandas_object(cells.assign(**zeros), index=False, categorize=False).to_numpy()


def repeated(hash_R: np.ndarray) -> Rows:
    """Return the rows whose hash another row has too, in their order."""
    sorted_R = np.sort(hash_R)
    shared_K = np.unique(sorted_R[1:][sorted_R[1:] == sorted_R[:-1]])
    if not len(shared_K):
        return np.empty(0, np.int64)
    place_R = np.searchsorted(shared_K, hash_R)
    return np.flatnonzero(shared_K[np.minimum(place_R, len(shared_K) - 1)] == hash_R)


def count_distinct(parts: Iterable[np.ndarray]) -> int:
    """Return how many different hashes there are."""
    return len(np.unique(np.concatenate([np.empty(0, np.uint64), *parts])))


def digests(texts: Iterable[str]) -> np.ndarray:
    """Return 128 bits for each text, uint64 [R, 2]."""
    found = b"".join([blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts])
    return np.frombuffer(found, np.uint64).reshape(-1, 2)


class KeyIndex:
    """Finds numbers by texts.

    Args:
        parts: :func:`digests` of the texts, in parts, [K, 2] in all.
        number_K: the number of each, below 2^31 unless there are as many texts; None: they count from 0. The first one of
            equal texts is found.
    """

    def __init__(self, parts: Sequence[np.ndarray], number_K: np.ndarray | None = None) -> None:
        digest_K2 = np.concatenate([np.empty((0, 2), np.uint64), *parts])
        order_K = np.lexsort((digest_K2[:, 1], digest_K2[:, 0]))  # stable
        self._high_K, self._low_K = digest_K2[order_K, 0], digest_K2[order_K, 1]
        number_K = order_K if number_K is None else number_K[order_K]
        self._number_K = number_K if len(number_K) > np.iinfo(np.int32).max else number_K.astype(np.int32)

    def __len__(self) -> int:
        return len(self._number_K)

    def find(self, digest_Q2: np.ndarray) -> np.ndarray:
        """Return the numbers of texts, int64 [Q], -1 for those that are not there."""
        if not len(self):
            return np.full(len(digest_Q2), -1)
        high_Q, low_Q = digest_Q2[:, 0], digest_Q2[:, 1]
        place_Q = np.searchsorted(self._high_K, high_Q)
        last = len(self) - 1
        while True:
            at_Q = np.minimum(place_Q, last)
            same_Q = (self._high_K[at_Q] == high_Q) & (place_Q <= last)
            further_Q = same_Q & (self._low_K[at_Q] < low_Q)  # two texts agree in the first half
            if not further_Q.any():
                break
            place_Q = place_Q + further_Q
        return np.where(same_Q & (self._low_K[at_Q] == low_Q), self._number_K[at_Q], -1).astype(np.int64)
