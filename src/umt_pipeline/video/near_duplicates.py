"""Files that look the same, found by their perceptual hashes without comparing each with each.

A hash has 192 bits: three frames of 64. Two hashes that differ in at most D bits agree in at least one of D + 1 bands of bits
(the pigeonhole principle), so only files that share a band are compared, and no pair within D bits is missed.

Shapes: N files, H different hashes, W = 3 words of 64 bits, P members of a bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BITS = 192
WORDS = 3
# A frame whose hash has fewer bits set than this, or fewer unset, is flat: black, white, a fade. Its few bits are noise.
FLAT_BITS = 6
# Rows of a bucket that are compared at a time, so that a bucket of thousands needs no memory for all of its pairs.
ROWS = 1024
# Bits are dealt to the bands in a fixed random order: neighbouring bits are neighbouring pixels, and a band of one row of
# sky would be equal in many pictures.
_DEALT = np.random.Generator(np.random.Philox(key=192)).permutation(BITS)


@dataclass(frozen=True)
class NearDuplicates:
    """What was found.

    Attributes:
        groups: positions of files that look the same, sorted, each group of at least two; files of a group are linked by
            pairs within the distance, so two of them may be further apart.
        compared: how many files had a hash to compare by.
    """

    groups: list[list[int]]
    compared: int


def group_near_duplicates(hashes: Sequence[str], bits: int) -> NearDuplicates:
    """Group files whose hashes differ in at most so many bits.

    A file without a hash is compared with none, and neither is one of flat frames only: two black films have nothing in
    common. Time is that of the buckets' pairs: seconds for 100,000 files of different content.

    Args:
        hashes: 48 hexadecimal digits, or "" where there is none.
        bits: the largest distance, of 192.

    Raises:
        ValueError: a hash is of another form, or ``bits`` is not from 0 to 191.
    """
    if not 0 <= bits < BITS:
        raise ValueError(f"expected a distance from 0 to {BITS - 1} bits, found {bits}")
    wrong = next((text for text in hashes if text and len(text) != BITS // 4), None)
    if wrong is not None:
        raise ValueError(f"expected a perceptual hash of {BITS // 4} hexadecimal digits, found {wrong!r}")
    known = np.array([position for position, text in enumerate(hashes) if text], dtype=np.int64)
    if len(known) == 0:
        return NearDuplicates([], 0)
    raw = np.frombuffer(bytes.fromhex("".join(text for text in hashes if text)), dtype=np.uint8)
    words_NW = raw.view(np.uint64).reshape(-1, WORDS)
    set_NW = np.bitwise_count(words_NW)
    informative = ((set_NW >= FLAT_BITS) & (set_NW <= 64 - FLAT_BITS)).any(axis=1)
    known, words_NW = known[informative], words_NW[informative]
    words_HW, hash_of_N = np.unique(words_NW, axis=0, return_inverse=True)
    groups = _Groups(len(words_HW))
    for members_P in _buckets(words_HW, bits + 1):
        _join(groups, words_HW, members_P, bits)
    root_N = groups.roots()[hash_of_N.reshape(-1)]
    order = np.argsort(root_N, kind="stable")
    cuts = np.flatnonzero(np.diff(root_N[order])) + 1
    parts = [known[part].tolist() for part in np.split(order, cuts) if len(part) > 1]
    return NearDuplicates(sorted(parts), len(known))


def _buckets(words_HW: np.ndarray, bands: int) -> Iterator[np.ndarray]:
    """Yield the hashes that agree in a band, for each band and each value that more than one has."""
    bits_HB = np.unpackbits(words_HW.view(np.uint8), axis=1)[:, _DEALT]
    for band in np.array_split(np.arange(BITS), bands):
        packed = np.packbits(bits_HB[:, band], axis=1)
        value_H = np.unique(packed, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(value_H, kind="stable")
        cuts = np.flatnonzero(np.diff(value_H[order])) + 1
        yield from (part for part in np.split(order, cuts) if len(part) > 1)


def _join(groups: _Groups, words_HW: np.ndarray, members_P: np.ndarray, bits: int) -> None:
    own_PW = words_HW[members_P]
    for start in range(0, len(members_P), ROWS):
        rows = own_PW[start : start + ROWS]
        rest = own_PW[start:]
        distance = np.zeros((len(rows), len(rest)), dtype=np.uint16)
        for word in range(WORDS):
            distance += np.bitwise_count(rows[:, word, None] ^ rest[None, :, word])
        first, second = np.nonzero(np.triu(distance <= bits, k=1))
        groups.join(members_P[start + first], members_P[start + second])


class _Groups:
    """Union-find over the hashes."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Put each of ``first`` into one group with its partner of ``second``."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._root(one), self._root(other)
            if a != b:
                self._parent[max(a, b)] = min(a, b)

    def roots(self) -> np.ndarray:
        """Return the root of each hash."""
        return np.array([self._root(number) for number in range(len(self._parent))], dtype=np.int64)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = int(self._parent[number])
        return number
