"""Re-ranking: the k best candidates of the dual encoder, ordered anew with the help of the matching head.

There are two rules. The published one orders them by the head's logit of a match alone. The other orders them by

    (1 - weight) * cosine / temperature + weight * (logit of a match - logit of none)

Training draws the head's wrong pairs by softmax(cosine / temperature), so the head learns to tell what the dual encoder cannot:
the odds of a perfect head are p(clip | text) / softmax(cosine / temperature), but for a factor that is the same for all
candidates. What a clip is worth is then the sum of both logarithms, and not the second alone, which takes all candidates for
equally likely beforehand; so the weight should be a half. A head that has learnt little only adds noise, and one that is too
sure of itself says too much: hence the weight is chosen, on clips that nothing is reported on.

The other candidates follow in the dual encoder's order. (The published code gives all of them one equal score: the sort
decides.)

Shapes: U distinct texts, C clips of the set, G pairs of a text and a clip, R rows of either direction, B of a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.retrieval import (
    Choice,
    Cost,
    RetrievalSet,
    SystemScores,
    WeightedSum,
    query_ranks,
    row_blocks,
)

# Scores pairs: (text index [G], clip index [G]) -> the matching head's logits [G, 2]: no match, match.
PairScorer = Callable[[np.ndarray, np.ndarray], np.ndarray]

# From which a weight is chosen.
WEIGHTS = tuple(tenth / 10 for tenth in range(11))


@dataclass(frozen=True)
class Matched:
    """The k best candidates of each query, in both directions, and what the matching head says of them.

    Attributes:
        dual: the scores that chose them.
        chosen_UC: the best clips of each text.
        chosen_CU: the best texts of each clip.
        match_UC: the head's logit of a match, or its log-odds; -inf where neither direction asks.
        k: candidates per query.
        cost: of the head.
    """

    dual: SystemScores
    chosen_UC: np.ndarray
    chosen_CU: np.ndarray
    match_UC: np.ndarray
    k: int
    cost: Cost


def match_best(dual: SystemScores, score_pairs: PairScorer, k: int, log_odds: bool) -> Matched:
    """Ask the matching head about the k best candidates of each query; a pair that both directions need is scored once.

    Args:
        dual: scores that choose the candidates.
        score_pairs: returns the match logits of pairs of text and clip indices, which are sorted by clip.
        k: candidates per query; beyond the number of candidates it means all of them.
        log_odds: the difference of both logits is kept, not that of a match alone.

    Raises:
        EvaluationError: ``score_pairs`` returned NaN.
    """
    chosen_UC, chosen_CU = _top_k(dual.text_to_video_UC, k), _top_k(dual.video_to_text_CU, k)
    text_G, clip_G = np.nonzero(chosen_UC | chosen_CU.T)
    started = time.perf_counter()
    match_UC = np.full(chosen_UC.shape, -np.inf)
    if len(text_G):
        # By clip, so that neighbouring pairs read the same clip's tokens.
        order_G = np.lexsort((text_G, clip_G))
        text_G, clip_G = text_G[order_G], clip_G[order_G]
        logits_G2 = np.asarray(score_pairs(text_G, clip_G), dtype=np.float64)
        if np.isnan(logits_G2).any():
            wrong = int(np.isnan(logits_G2).any(axis=1).sum())
            raise EvaluationError(f"{dual.model}: the matching head gave NaN for {wrong} pairs")
        match_UC[text_G, clip_G] = logits_G2[:, 1] - logits_G2[:, 0] if log_odds else logits_G2[:, 1]
    cost = Cost(pairs=len(text_G), seconds=time.perf_counter() - started)
    return Matched(dual, chosen_UC, chosen_CU, match_UC, min(k, max(chosen_UC.shape)), cost)


def reranked(matched: Matched, mixed: WeightedSum | None = None) -> SystemScores:
    """Order the candidates anew.

    Args:
        matched: with log-odds for a weighted sum, else with the logits of a match.
        mixed: the weighted sum; None: by the matching head alone, as published.
    """
    dual = matched.dual
    return SystemScores(
        dual.model,
        "reranked",
        _chosen_first(dual.text_to_video_UC, matched.match_UC, matched.chosen_UC, mixed),
        _chosen_first(dual.video_to_text_CU, matched.match_UC.T, matched.chosen_CU, mixed),
        matched.k,
        mixed=mixed,
        cost=matched.cost,
    )


def choose_weight(data: RetrievalSet, matched: Matched, temperature: float) -> WeightedSum:
    """Return the weight of :data:`WEIGHTS` with the best R@1, the mean of both directions.

    Of equally good ones the smallest is taken, which leaves most of the order that was there before.

    Args:
        data: a set that nothing is reported on.
        matched: with log-odds.
        temperature: divisor of the cosines.
    """
    best, best_r1 = WeightedSum(WEIGHTS[0], temperature), -1.0
    asked = 0
    for weight in WEIGHTS:
        mixed = WeightedSum(weight, temperature)
        ranks = query_ranks(data, reranked(matched, mixed))
        asked = sum(map(len, ranks))
        r1 = 100.0 * float(np.mean([np.mean(found == 1) for found in ranks]))
        if r1 > best_r1:
            best, best_r1 = mixed, r1
    return replace(best, choice=Choice(asked, data.annotation_sha256, best_r1, matched.cost))


def _top_k(scores_RC: np.ndarray, k: int) -> np.ndarray:
    """Mark the k best finite scores of each row; of equals the first."""
    chosen_RC = np.zeros(scores_RC.shape, dtype=bool)
    for rows in row_blocks(len(scores_RC)):
        order_BC = np.argsort(-scores_RC[rows], axis=1, kind="stable")[:, :k]
        np.put_along_axis(chosen_RC[rows], order_BC, True, axis=1)
        chosen_RC[rows] &= np.isfinite(scores_RC[rows])
    return chosen_RC


def _chosen_first(
    dual_RC: np.ndarray, match_RC: np.ndarray, chosen_RC: np.ndarray, mixed: WeightedSum | None
) -> np.ndarray:
    """Merge both scores into one per row: all chosen candidates above all others, each group in its own order."""
    merged_RC = np.empty_like(dual_RC)
    for rows in row_blocks(len(dual_RC)):
        dual_BC, match_BC, chosen_BC = dual_RC[rows], match_RC[rows], chosen_RC[rows]
        if mixed is not None:
            match_BC = _weighted(dual_BC, match_BC, chosen_BC, mixed)
        lowest_B1 = np.where(chosen_BC, match_BC, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        others_BC = np.where(chosen_BC, -np.inf, dual_BC)
        highest_B1 = others_BC.max(axis=1, keepdims=True, initial=-np.inf)
        # Rows without a chosen or without another candidate need no shift; zero keeps infinities out of the arithmetic.
        shift_B1 = np.zeros_like(lowest_B1)
        np.subtract(lowest_B1 - 1.0, highest_B1, out=shift_B1, where=np.isfinite(lowest_B1) & np.isfinite(highest_B1))
        merged_RC[rows] = np.where(chosen_BC, match_BC, others_BC + shift_B1)
    return merged_RC


def _weighted(dual_BC: np.ndarray, match_BC: np.ndarray, chosen_BC: np.ndarray, mixed: WeightedSum) -> np.ndarray:
    """Return the weighted sum of the chosen; of the others, which may have neither score, -inf."""
    sum_BC = np.full(dual_BC.shape, -np.inf)
    cosine, odds = dual_BC[chosen_BC] / mixed.temperature, match_BC[chosen_BC]
    sum_BC[chosen_BC] = (1.0 - mixed.weight) * cosine + mixed.weight * odds
    return sum_BC
