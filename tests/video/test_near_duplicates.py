"""Files that look the same are found without comparing each with each, and flat pictures do not join what is apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_pipeline.video import near_duplicates
from umt_pipeline.video.near_duplicates import BITS, group_near_duplicates, pack


def random_hashes(count: int, seed: int = 0) -> np.ndarray:
    """Return hashes as bits, uint8 [count, BITS]."""
    return np.random.default_rng(seed).integers(0, 2, (count, BITS), dtype=np.uint8)


def flipped(bits: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    changed = bits.copy()
    changed[np.random.default_rng(seed).choice(BITS, count, replace=False)] ^= 1
    return changed


def written(bits: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in np.packbits(np.atleast_2d(bits), axis=1)]


def test_copies_are_grouped_and_others_left_alone() -> None:
    first, second, third = random_hashes(3)
    hashes = written(np.stack([first, second, flipped(first, 12), third, flipped(second, 13), first]))
    found = group_near_duplicates(pack([*hashes, ""]), 12)
    assert found.groups == [[0, 2, 5]]
    assert found.compared == 6, "one has no hash"
    assert group_near_duplicates(pack(hashes), 13).groups == [[0, 2, 5], [1, 4]]
    assert group_near_duplicates(pack(hashes), 0).groups == [[0, 5]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), bits=st.integers(0, 40))
def test_no_pair_within_the_distance_is_missed(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    base = random_hashes(6, seed)
    rows = np.stack([flipped(base[rng.integers(6)], int(rng.integers(0, 50)), int(rng.integers(2**32))) for _ in range(40)])
    groups = group_near_duplicates(pack(written(rows)), bits).groups
    group_of = {member: number for number, group in enumerate(groups) for member in group}
    distance = (rows[:, None] != rows[None]).sum(axis=2)
    near = [(one, other) for one in range(40) for other in range(one) if distance[one, other] <= bits]
    assert all(one in group_of and group_of[one] == group_of[other] for one, other in near)
    assert set(group_of) == {member for pair in near for member in pair}


def test_flat_pictures_have_nothing_in_common() -> None:
    black, noisy = np.zeros(BITS, np.uint8), np.zeros(BITS, np.uint8)
    noisy[[0, 70, 140]] = 1
    seen = random_hashes(1)[0]
    fade = seen.copy()
    fade[:128] = 0  # two black frames, and one that shows something
    found = group_near_duplicates(pack(written(np.stack([black, noisy, 1 - black, black, fade, flipped(fade, 3)]))), 12)
    assert found.groups == [[4, 5]]
    assert found.compared == 2


def test_alike_files_are_not_compared_each_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 10_000
    rows = random_hashes(count)
    rows[5_000:6_000] = 0
    rows[6_000:7_000] = rows[6_000]
    for number in range(7_000, 8_000):  # a thousand that differ in a bit or two
        rows[number] = flipped(rows[7_000], number % 3, number)
    compared = 0
    near = near_duplicates._near

    def counted(*pairs: Any) -> tuple[np.ndarray, np.ndarray]:
        nonlocal compared
        compared += len(pairs[0])
        return near(*pairs)

    monkeypatch.setattr(near_duplicates, "_near", counted)
    found = group_near_duplicates(pack(written(rows)), 12)
    assert [len(group) for group in found.groups] == [1_000, 1_000]
    assert compared < 0.2 * count**2 / 2


@pytest.mark.parametrize(("hashes", "bits"), [(["00"], 12), (["0" * 48], -1), (["0" * 48], BITS)])
def test_what_is_no_hash_or_no_distance_is_refused(hashes: list[str], bits: int) -> None:
    with pytest.raises(ValueError, match="expected a"):
        group_near_duplicates(pack(hashes), bits)


def test_nothing_to_compare() -> None:
    assert group_near_duplicates(pack([]), 12).groups == []
    assert group_near_duplicates(pack(["", ""]), 12).compared == 0
