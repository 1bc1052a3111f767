"""Re-ranking by the matching head alone and by a weighted sum, and how the weight is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.reranking import WEIGHTS, Matched, PairScorer, choose_weight, match_best, reranked
from umt_pipeline.evaluation.retrieval import (
    Cost,
    RetrievalSet,
    SystemScores,
    WeightedSum,
    build_retrieval_set,
    query_ranks,
    retrieval_values,
)

matrices = given(st.integers(0, 500), st.integers(1, 6), st.integers(1, 8), st.integers(1, 9))


def scores_of(matrix: np.ndarray) -> SystemScores:
    return SystemScores("stage2", "dual", matrix, matrix.T)


def diagonal(size: int) -> RetrievalSet:
    rows = [{"caption_id": n, "video_id": f"v{n:03}", "caption": f"text {n:03}"} for n in range(size)]
    return build_retrieval_set("validation", [row["video_id"] for row in rows], pd.DataFrame(rows), "first")


def head(no: np.ndarray, yes: np.ndarray) -> PairScorer:
    return lambda text, clip: np.stack((no[text, clip], yes[text, clip]), axis=1)


def asked_of(odds: np.ndarray, dual: np.ndarray, k: int = 100) -> Matched:
    return match_best(scores_of(dual), head(np.zeros_like(odds), odds), k, log_odds=True)


def drawn(seed: int, rows: int, clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cosines, of which some clips have none, and both logits of a matching head."""
    rng = np.random.default_rng(seed)
    dual, no, yes = rng.normal(size=(rows, clips)), *(100 * rng.normal(size=(2, rows, clips)))
    dual[:, rng.random(clips) < 0.2] = -np.inf
    return dual, no, yes


def check_order(result: SystemScores, dual: np.ndarray, by: np.ndarray, k: int) -> None:
    for merged, before, value in (
        *zip(result.text_to_video_UC, dual, by, strict=True),
        *zip(result.video_to_text_CU, dual.T, by.T, strict=True),
    ):
        order = [place for place in np.argsort(-before) if np.isfinite(before[place])]
        expected = sorted(order[:k], key=lambda place: -value[place]) + order[k:]
        assert [place for place in np.argsort(-merged) if np.isfinite(merged[place])] == expected
        assert (np.isfinite(merged) == np.isfinite(before)).all()


@matrices
def test_the_published_rule_orders_the_best_k_by_match_and_the_rest_as_before(
    seed: int, rows: int, clips: int, k: int
) -> None:
    dual, no, yes = drawn(seed, rows, clips)
    asked: list[tuple[int, int]] = []

    def score(text: np.ndarray, clip: np.ndarray) -> np.ndarray:
        asked.extend(zip(text.tolist(), clip.tolist(), strict=True))
        return head(no, yes)(text, clip)

    check_order(reranked(match_best(scores_of(dual), score, k, log_odds=False)), dual, yes, k)
    assert len(asked) == len(set(asked))
    assert asked == sorted(asked, key=lambda pair: (pair[1], pair[0]))


@matrices
def test_a_weighted_sum_orders_them_by_cosine_and_log_odds(seed: int, rows: int, clips: int, k: int) -> None:
    dual, no, yes = drawn(seed, rows, clips)
    matched = match_best(scores_of(dual), head(no, yes), k, log_odds=True)
    for weight in (0.3, 0.9, 1.0):
        result = reranked(matched, WeightedSum(weight, 0.05))
        assert result.mixed == WeightedSum(weight, 0.05)
        finite = np.where(np.isfinite(dual), dual, 0.0)
        check_order(result, dual, (1 - weight) * finite / 0.05 + weight * (yes - no), k)
    check_order(reranked(matched, WeightedSum(0.0, 0.05)), dual, dual, k)


def test_a_constant_matching_head_does_not_look_good() -> None:
    data = diagonal(10)
    nothing = match_best(scores_of(np.eye(10)), lambda text, clip: np.zeros((len(text), 2)), 100, log_odds=False)
    result = reranked(nothing)
    assert retrieval_values(query_ranks(data, result))["t2v_r1"] == 0.0
    assert (result.k, result.mixed) == (10, None)
    assert result.cost is not None
    assert result.cost.pairs == 100
    assert result.cost.seconds >= 0
    assert Cost(pairs=10, seconds=0.5).pairs_per_second == 20.0
    assert Cost(pairs=0, seconds=0.0).pairs_per_second == 0.0


def test_nan_from_the_matching_head_is_an_error() -> None:
    for no, yes in ((np.nan, 0.0), (0.0, np.nan)):
        with pytest.raises(EvaluationError, match="NaN for 4 pairs"):
            match_best(scores_of(np.eye(2)), head(np.full((2, 2), no), np.full((2, 2), yes)), 2, log_odds=False)


def test_the_right_order_is_the_sum_of_both_where_the_head_knows_what_the_cosine_does_not() -> None:
    """The cosine knows one half of what tells clips apart, the head, trained on negatives drawn by it, the other half."""
    size, seen, unseen = 36, np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    dual = 0.07 * 8.0 * (seen[:, None] == seen[None])
    odds = 4.0 * (unseen[:, None] == unseen[None])
    chosen = choose_weight(diagonal(size), asked_of(odds, dual), 0.07)
    assert 0.0 < chosen.weight < 1.0
    assert chosen.choice is not None
    assert (chosen.choice.r1, chosen.choice.queries, chosen.choice.cost.pairs) == (100.0, 2 * size, size * size)
    assert chosen.choice.annotation_sha256 == diagonal(size).annotation_sha256
    for alone in (0.0, 1.0):
        ranks = query_ranks(diagonal(size), reranked(asked_of(odds, dual), WeightedSum(alone, 0.07)))
        assert retrieval_values(ranks)["t2v_r1"] == 0.0


def test_of_equally_good_weights_the_smallest_is_chosen() -> None:
    right = np.eye(5)
    rng = np.random.default_rng(0)
    assert choose_weight(diagonal(5), asked_of(right, right), 0.07).weight == 0.0, "the head changes nothing for the better"
    assert choose_weight(diagonal(5), asked_of(rng.normal(size=(5, 5)), right), 0.07).weight == 0.0
    blind = np.zeros((5, 5))
    assert choose_weight(diagonal(5), asked_of(right, blind), 0.07).weight == WEIGHTS[1]
    # It takes a weight of more than a half to overrule a cosine that is sure of the wrong.
    wrong = 0.07 * np.roll(np.eye(5), 1, axis=1)
    assert choose_weight(diagonal(5), asked_of(right, wrong), 0.07).weight == 0.6


def test_r1_of_both_directions_counts() -> None:
    # One clip that every text likes best: the texts find it, the clips find their texts.
    dual = np.eye(4)
    dual[:, 0] = 2.0
    chosen = choose_weight(diagonal(4), asked_of(np.zeros((4, 4)), dual), 1.0)
    assert chosen.choice is not None
    assert chosen.choice.r1 == pytest.approx(100 * (0.25 + 0.75) / 2)
