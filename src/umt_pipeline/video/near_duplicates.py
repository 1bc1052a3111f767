"""Files that look the same, found by their perceptual hashes without comparing each with each.

A hash has 192 bits: three frames of 64. Two hashes that differ in at most D bits, dealt to D // 2 + 1 bands, agree in one of
them but for one bit at most (the pigeonhole principle). So only files that share a band without one of its bits are compared,
and no pair within D bits is missed.

Shapes: N files, H different hashes, W = 3 words of 64 bits, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BITS = 192
WORDS = 3
# A frame whose hash has fewer bits set than this, or fewer unset, is flat: black, white, a fade. Its few bits are noise.
FLAT_BITS = 6
# Bits are dealt to the bands in a fixed random order: neighbouring bits are neighbouring pixels, and a band of one row of
# sky would be equal in many pictures.
_RANDOM = np.random.Generator(np.random.Philox(key=BITS))
_DEALT = _RANDOM.permutation(BITS)
_WEIGHTS = _RANDOM.integers(0, 2**64, BITS, dtype=np.uint64)


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


def pack(hashes: Sequence[str]) -> np.ndarray:
    """Return hashes as words, uint64 [N, W]: zeros where there is none.

    Args:
        hashes: 48 hexadecimal digits, or "" where there is none.

    Raises:
        ValueError: a hash is of another form.
    """
    wrong = next((text for text in hashes if text and len(text) != BITS // 4), None)
    if wrong is not None:
        raise ValueError(f"expected a perceptual hash of {BITS // 4} hexadecimal digits, found {wrong!r}")
    raw = bytes.fromhex("".join(text or "0" * (BITS // 4) for text in hashes))
    return np.frombuffer(raw, dtype=np.uint64).reshape(-1, WORDS)


def group_near_duplicates(words_NW: np.ndarray, bits: int) -> NearDuplicates:
    """Group files whose hashes differ in at most so many bits.

    A file without a hash is compared with none, and neither is one of flat frames only: two black films have nothing in
    common.

    Args:
        words_NW: uint64, from :func:`pack`.
        bits: the largest distance, of 192.

    Raises:
        ValueError: ``bits`` is not from 0 to 191.
    """
    if not 0 <= bits < BITS:
        raise ValueError(f"expected a distance from 0 to {BITS - 1} bits, found {bits}")
    set_NW = np.bitwise_count(words_NW)
    informative = ((set_NW >= FLAT_BITS) & (set_NW <= 64 - FLAT_BITS)).any(axis=1)
    (known,) = np.nonzero(informative)
    words_NW = words_NW[informative]
    if not len(known):
        return NearDuplicates([], 0)
    words_HW, hash_of_N = np.unique(words_NW, axis=0, return_inverse=True)
    root_N = _roots(words_HW, bits)[hash_of_N.reshape(-1)]
    order = np.argsort(root_N, kind="stable")
    cuts = np.flatnonzero(np.diff(root_N[order])) + 1
    parts = [known[part].tolist() for part in np.split(order, cuts) if len(part) > 1]
    return NearDuplicates(sorted(parts), len(known))


def _roots(words_HW: np.ndarray, bits: int) -> np.ndarray:
    """Return for each hash the first one of its group, int64 [H]."""
    groups = _Groups(len(words_HW))
    # First each with its next alone: where thousands are alike, that puts them into one group before pairs are counted.
    for key_H in _keys(words_HW, bits):
        order = np.argsort(key_H, kind="stable")
        (start,) = np.nonzero(key_H[order[:-1]] == key_H[order[1:]])
        groups.join(*_near(order[start], order[start + 1], words_HW, bits, groups))
    for key_H in _keys(words_HW, bits):
        _join_equal(key_H, words_HW, bits, groups)
    return groups.root_H


def _keys(words_HW: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    """Yield a key of each hash, uint16 [H], for each band without one of its bits: equal bits have equal keys.

    Sixteen bits, because these are sorted in linear time; that others may share them costs a comparison.
    """
    bytes_HB = words_HW.view(np.uint8)
    for band in np.array_split(np.arange(BITS), bits // 2 + 1):
        # A sum of random numbers, one for each bit that is set. The terms are made anew for each key: all of a band would
        # take a kilobyte for each hash.
        sum_H = np.zeros(len(words_HW), np.uint64)
        for place in band:
            sum_H += _term(bytes_HB, place)
        for place in band:
            yield ((sum_H - _term(bytes_HB, place)) >> np.uint64(48)).astype(np.uint16)


def _term(bytes_HB: np.ndarray, place: int) -> np.ndarray:
    """Return the random number of the bit that was dealt to a place where it is set, else 0, uint64 [H]."""
    bit = _DEALT[place]
    return ((bytes_HB[:, bit // 8] >> (7 - bit % 8)) & 1).astype(np.uint64) * _WEIGHTS[place]


def _join_equal(key_H: np.ndarray, words_HW: np.ndarray, bits: int, groups: _Groups) -> None:
    """Compare all hashes of equal keys that are not in one group yet."""
    order = groups.largest_first()
    order = order[np.argsort(key_H[order], kind="stable")]
    key, root = key_H[order], groups.root_H[order]
    other_key = key[1:] != key[:-1]
    bucket_end, group_end = _ends(other_key), _ends(other_key | (root[1:] != root[:-1]))
    # Each with the first of its bucket after its own group, then with the next: all pairs, and never all at once. As the
    # largest group comes first, there are as many turns as there are hashes outside it.
    (start,) = np.nonzero(group_end < bucket_end)
    partner = group_end[start]
    while len(start):
        groups.join(*_near(order[start], order[partner], words_HW, bits, groups))
        partner = partner + 1
        left = partner < bucket_end[start]
        start, partner = start[left], partner[left]


def _ends(starts_another: np.ndarray) -> np.ndarray:
    """Return for each position where its run ends, given whether each but the first starts another one."""
    ends = np.append(np.flatnonzero(starts_another) + 1, len(starts_another) + 1)
    return ends[np.concatenate(([0], np.cumsum(starts_another)))]


def _near(
    first_P: np.ndarray, second_P: np.ndarray, words_HW: np.ndarray, bits: int, groups: _Groups
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that are within the distance and not in one group yet."""
    (alike,) = np.nonzero(np.bitwise_count(words_HW[first_P, 0] ^ words_HW[second_P, 0]) <= bits)  # tells most pairs apart
    first_P, second_P = first_P[alike], second_P[alike]
    apart = groups.root_H[first_P] != groups.root_H[second_P]
    first_P, second_P = first_P[apart], second_P[apart]
    near = np.bitwise_count(words_HW[first_P] ^ words_HW[second_P]).sum(axis=1, dtype=np.uint16) <= bits
    return first_P[near], second_P[near]


class _Groups:
    """Union-find over the hashes, with every root known at any time.

    Attributes:
        root_H: for each hash the first one of its group.
    """

    def __init__(self, count: int) -> None:
        self.root_H = np.arange(count)
        self._order: np.ndarray | None = None

    def largest_first(self) -> np.ndarray:
        """Return all hashes, those of the largest group first, those of one group together."""
        if self._order is None:
            size_H = np.bincount(self.root_H, minlength=len(self.root_H))[self.root_H]
            self._order = np.lexsort((self.root_H, -size_H))
        return self._order

    def join(self, first_P: np.ndarray, second_P: np.ndarray) -> None:
        """Put each of ``first_P`` into one group with its partner of ``second_P``."""
        if len(first_P) == 0:
            return
        self._order = None
        for one, other in zip(self.root_H[first_P].tolist(), self.root_H[second_P].tolist(), strict=True):
            a, b = self._root(one), self._root(other)
            self.root_H[max(a, b)] = min(a, b)
        while True:
            above_H = self.root_H[self.root_H]
            if np.array_equal(above_H, self.root_H):
                return
            self.root_H = above_H

    def _root(self, number: int) -> int:
        while self.root_H[number] != number:
            number = int(self.root_H[number])
        return number
