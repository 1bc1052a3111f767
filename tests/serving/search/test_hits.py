"""Neighbouring windows are one hit: hits of a file never overlap, the best score is kept, and the order is always the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.array_index import ArrayIndex, unit
from umt_pipeline.serving.search import hits
from umt_pipeline.serving.search.hits import Place, best_places, cosines, floor_of, layout_of

PLACES = hits._places
# Few different vectors, so that windows score alike.
VECTORS = [unit(numbers) for numbers in ((1, 0, 0), (1, 1, 0), (0, 1, 0), (1, 2, 2), (-1, 0, 1), (3, 1, 0), (0, 0, 1))]
FILMS = st.tuples(st.integers(1, 12), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.5, 1.0, 2.0, 3.0]))


@st.composite
def indexes(draw: st.DrawFn) -> ArrayIndex:
    """A few films of overlapping, touching or parted windows, numbered in any order."""
    windows = [
        (film, number * stride, number * stride + length)
        for film, (count, stride, length) in enumerate(draw(st.lists(FILMS, min_size=1, max_size=5)))
        for number in range(count)
    ]
    windows = draw(st.permutations(windows))
    vectors = draw(st.lists(st.sampled_from(VECTORS), min_size=len(windows), max_size=len(windows)))
    return ArrayIndex(np.array(vectors), windows)


def by_hand(index: ArrayIndex, vector: np.ndarray, allowed: np.ndarray | None = None) -> list[Place]:
    """Places as they are defined, from the scores of all windows."""
    score = cosines(index.vectors_NE, vector)
    typical = float(np.median(score))
    found = []
    for file, rows in index.windows.groupby("file"):
        numbers = [number for number in rows.index if allowed is None or allowed[number]]
        if not numbers:
            continue
        floor = floor_of(max(float(score[number]) for number in numbers), typical)
        kept = sorted((number for number in numbers if score[number] >= floor), key=lambda n: (rows.start_s[n], rows.end_s[n]))
        group: list[int] = []
        for number in [*kept, None]:
            if number is None or (group and rows.start_s[number] > max(rows.end_s[n] for n in group)):
                best = min(group, key=lambda n: (-score[n], n))
                ends = min(rows.start_s[n] for n in group), max(rows.end_s[n] for n in group)
                found.append(Place(int(str(file)), *ends, float(score[best]), best))
                group = []
            if number is not None:
                group.append(number)
    return sorted(found, key=lambda place: (-place.score, place.window))


@settings(deadline=None)
@given(index=indexes(), vector=st.sampled_from(VECTORS), wanted=st.integers(1, 8))
def test_hits_are_the_best_places_in_order_however_many_are_asked_for(
    index: ArrayIndex, vector: list[float], wanted: int
) -> None:
    assert best_places(index, np.array(vector), wanted, None) == by_hand(index, np.array(vector))[:wanted]


@settings(deadline=None)
@given(index=indexes(), vector=st.sampled_from(VECTORS), data=st.data())
def test_hits_of_a_file_never_overlap_and_keep_its_best_score(
    index: ArrayIndex, vector: list[float], data: st.DataObject
) -> None:
    count = len(index.windows)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    places = best_places(index, np.array(vector), count, allowed)
    score = cosines(index.vectors_NE, np.array(vector))
    assert places == by_hand(index, np.array(vector), allowed)
    for file in {place.file for place in places}:
        own = sorted((place for place in places if place.file == file), key=lambda place: place.start_s)
        assert all(one.end_s < other.start_s for one, other in itertools.pairwise(own))
        there = allowed & (index.windows["file"] == file).to_numpy()
        assert max(place.score for place in own) == score[there].max()
    assert {place.file for place in places} == set(index.windows["file"][allowed])
    assert all(allowed[place.window] and place.score == score[place.window] for place in places)


def test_a_place_grows_as_long_as_neighbours_answer_half_as_well() -> None:
    """Of a film, and an index, that answer 0 in general, windows of 0.5 and more belong to a place beside the best, of 1."""
    heights = [0.0, 0.6, 1.0, 0.55, 0.4, 0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0]
    vectors = np.array([(height, np.sqrt(1 - height**2)) for height in heights])
    index = ArrayIndex(vectors, [(0, 5.0 * number, 5.0 * number + 10) for number in range(len(heights))])
    places = best_places(index, np.array([1.0, 0.0]), 10, None)
    assert [(place.start_s, place.end_s, place.window) for place in places] == [(5.0, 25.0, 2), (40.0, 50.0, 8)]
    assert [place.score for place in places] == pytest.approx([1.0, 0.7])


def test_a_long_place_is_found_whole_though_few_windows_are_asked_for() -> None:
    """Its windows are more than what the index is asked for at first."""
    rng = np.random.default_rng(0)
    others = rng.normal(size=(500, 8))
    vectors = np.concatenate([others / np.linalg.norm(others, axis=1, keepdims=True), np.tile(np.eye(8)[0], (400, 1))])
    windows = [(number, 0.0, 10.0) for number in range(500)] + [(500, 5.0 * number, 5.0 * number + 10) for number in range(400)]
    index = ArrayIndex(vectors, windows)
    (best, *others_found) = best_places(index, np.eye(8)[0], 3, None)
    assert (best.file, best.start_s, best.end_s, best.window) == (500, 0.0, 5.0 * 399 + 10, 500)
    assert len(others_found) == 2
    assert all(place.file < 500 for place in others_found)


def test_where_all_score_the_same_only_the_first_files_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a model that sees no difference: a search must not look at each of many files, once for each other."""
    index = ArrayIndex(np.tile(np.eye(3)[0], (3000, 1)), [(2999 - number, 0.0, 10.0) for number in range(3000)])
    looked_at = []
    monkeypatch.setattr(hits, "_places", lambda *args: looked_at.append(1) or PLACES(*args))
    assert [place.window for place in best_places(index, np.eye(3)[0], 5, None)] == [0, 1, 2, 3, 4]
    assert len(looked_at) <= 5 * 4, "5 files in each of 4 rounds: 64, 256, 1024, 3000 windows"


def test_scores_do_not_depend_on_how_many_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(301, 97)).astype(np.float32)
    whole = cosines(vectors, vectors[0])
    assert all(cosines(vectors[row : row + 1], vectors[0])[0] == whole[row] for row in range(301))


def test_an_empty_index_has_no_places() -> None:
    index = ArrayIndex(np.zeros((0, 3)), [])
    assert best_places(index, np.array(VECTORS[0]), 5, None) == []
    assert layout_of(index).typical(np.array(VECTORS[0])) == 0.0
