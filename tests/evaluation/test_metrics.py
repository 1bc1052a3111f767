from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import top_k_accuracy_score
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_reciprocal_rank

from umt_pipeline.evaluation.metrics import (
    EvaluationError,
    NoDataError,
    accuracy,
    recall_summary,
    retrieval_ranks,
)

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 8))
# Few distinct values, so that ties are common; -inf stands for candidates without features.
SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5000001, 2.0])


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    scores = draw(arrays(np.float64, shape, elements=SCORES))
    truth = draw(arrays(np.bool_, shape))
    truth[np.arange(shape[0]), draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))] = True
    return scores, truth


def slow_rank(scores: np.ndarray, truth: np.ndarray) -> int:
    """Sort by score, wrong before true among equals; the place of the first true candidate."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], bool(truth[place])))
    return 1 + next(rank for rank, place in enumerate(order) if truth[place])


@given(problems())
def test_ranks_equal_a_sort_with_true_items_last_among_equals(problem: tuple[np.ndarray, np.ndarray]) -> None:
    scores, truth = problem
    expected = [slow_rank(row, true) for row, true in zip(scores, truth, strict=True)]
    assert retrieval_ranks(scores, truth).tolist() == expected


@given(st.integers(0, 1000), st.integers(3, 12))
def test_recall_equals_scikit_learn_without_ties(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(size * size).reshape(size, size).astype(float)
    true = rng.integers(0, size, size)
    summary = recall_summary(retrieval_ranks(scores, np.eye(size, dtype=bool)[true]))
    for k in (1, 5, 10):
        expected = top_k_accuracy_score(true, scores, k=k, labels=np.arange(size)) if k < size else 1.0
        assert summary[f"r{k}"] == pytest.approx(100 * expected)


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 14))
@settings(deadline=None)
def test_ranks_and_recall_equal_torchmetrics_with_several_truths(seed: int, queries: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    # From 1 on: torchmetrics takes a score of zero or less for "not found".
    scores = 1 + rng.permutation(queries * candidates).reshape(queries, candidates).astype(np.float32)
    truth = rng.random((queries, candidates)) < 0.3
    truth[np.arange(queries), rng.integers(0, candidates, queries)] = True
    ranks = retrieval_ranks(scores, truth)
    rows = list(zip(torch.from_numpy(scores), torch.from_numpy(truth), strict=True))
    assert (1 / ranks).tolist() == pytest.approx([float(retrieval_reciprocal_rank(*row)) for row in rows])
    for k in (1, 5, 10):
        hits = [float(retrieval_hit_rate(*row, top_k=min(k, candidates))) for row in rows]
        assert recall_summary(ranks)[f"r{k}"] == pytest.approx(100 * np.mean(hits))


def test_fewer_candidates_than_k() -> None:
    summary = recall_summary(retrieval_ranks(np.zeros((2, 3)), np.eye(2, 3, dtype=bool)))
    assert (summary["r1"], summary["r5"], summary["r10"], summary["meanr"]) == (0.0, 100.0, 100.0, 3.0)


@given(problems(), st.floats(-0.5, 0.5))
def test_more_true_candidates_or_a_higher_true_score_never_hurt(
    problem: tuple[np.ndarray, np.ndarray], bonus: float
) -> None:
    scores, truth = problem
    ranks = retrieval_ranks(scores, truth)
    assert (ranks >= 1).all()
    assert (ranks <= scores.shape[1]).all()
    assert (retrieval_ranks(np.where(truth, scores + abs(bonus), scores), truth) <= ranks).all()
    more = truth.copy()
    more[:, 0] = True
    assert (retrieval_ranks(scores, more) <= ranks).all()


def test_constant_scores_never_look_good() -> None:
    summary = recall_summary(retrieval_ranks(np.zeros((20, 20)), np.eye(20, dtype=bool)))
    assert summary == {"r1": 0.0, "r5": 0.0, "r10": 0.0, "medr": 20.0, "meanr": 20.0}


def test_summary_in_percent() -> None:
    assert recall_summary(np.array([1, 2, 6, 11])) == {"r1": 25.0, "r5": 50.0, "r10": 75.0, "medr": 4.0, "meanr": 5.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_scores_are_an_error(bad: float) -> None:
    scores = np.zeros((2, 3))
    scores[1, 2] = bad
    with pytest.raises(EvaluationError, match=r"stage2/dual: 1 of 6 scores .* query 1, candidate 2"):
        retrieval_ranks(scores, np.ones((2, 3), dtype=bool), "stage2/dual")


def test_a_query_without_truth_is_an_error() -> None:
    truth = np.array([[True, False], [False, False]])
    with pytest.raises(EvaluationError, match="first is query 1"):
        retrieval_ranks(np.zeros((2, 2)), truth)


def test_shapes_must_agree() -> None:
    with pytest.raises(EvaluationError, match="shape"):
        retrieval_ranks(np.zeros((2, 3)), np.ones((3, 2), dtype=bool))


def test_accuracy_counts_failures_as_wrong() -> None:
    assert accuracy(np.array(["a", "b"]), np.array(["a", "a"]), failures=2) == 25.0


def test_nothing_to_measure() -> None:
    with pytest.raises(NoDataError):
        accuracy(np.array([]), np.array([]))
    with pytest.raises(NoDataError):
        recall_summary(np.array([]))
