"""Ranks, recall and accuracy.

Ties are broken the pessimistic way: the true item ranks last among equals, so a constant score never looks good. All
metrics are percent, except ranks, which count from 1. R@k counts the queries with a true candidate among the first k; of
fewer than k candidates all are among the first k.

Shapes: Q queries, C candidates, S samples.
"""

from __future__ import annotations

import numpy as np

from umt_pipeline.core.errors import UmtError

RECALL_AT = (1, 5, 10)


class EvaluationError(UmtError):
    """Scores, labels or clips from which no honest number can be computed."""


class NoDataError(EvaluationError):
    """There is nothing to measure on: reported as a note, not as a failure of the run."""


def retrieval_ranks(scores_QC: np.ndarray, truth_QC: np.ndarray, system: str = "scores") -> np.ndarray:
    """Return the rank (1 is best) of each query's best true candidate, int64 [Q].

    The rank is one more than the number of wrong candidates that score at least as high as the best true one. A
    candidate without features has the score -inf: if it is the only true one, its query ranks last.

    Args:
        scores_QC: higher is better; finite or -inf.
        truth_QC: bool, at least one true candidate for each query.
        system: whose scores they are, for messages.

    Raises:
        EvaluationError: shapes differ, a score is NaN or +inf, or a query has no true candidate.
    """
    scores_QC = np.asarray(scores_QC)
    truth_QC = np.asarray(truth_QC, dtype=bool)
    if scores_QC.ndim != 2 or scores_QC.shape != truth_QC.shape:
        raise EvaluationError(
            f"{system}: expected one [queries, candidates] shape for scores and ground truth, found "
            f"{scores_QC.shape} and {truth_QC.shape}"
        )
    broken_QC = np.isnan(scores_QC) | np.isposinf(scores_QC)
    if broken_QC.any():
        query, candidate = (int(index) for index in np.argwhere(broken_QC)[0])
        raise EvaluationError(
            f"{system}: {int(broken_QC.sum())} of {scores_QC.size} scores are NaN or +inf, the first for query {query}, "
            f"candidate {candidate}; expected finite numbers (or -inf for a candidate without features). Check the "
            "model's weights"
        )
    lost_Q = np.flatnonzero(~truth_QC.any(axis=1))
    if lost_Q.size:
        raise EvaluationError(
            f"{system}: {lost_Q.size} of {len(truth_QC)} queries have no true candidate, the first is query "
            f"{lost_Q[0]}; leave such queries out or add their clips"
        )
    best_Q1 = np.where(truth_QC, scores_QC, -np.inf).max(axis=1, keepdims=True)
    ahead_QC = ~truth_QC & (scores_QC >= best_Q1)
    return 1 + ahead_QC.sum(axis=1, dtype=np.int64)


def best_candidates(scores_QC: np.ndarray, truth_QC: np.ndarray) -> np.ndarray:
    """Return each query's best candidate, int64 [Q]: of equals the first that is not true; -1 where none scores above -inf.

    So it is a true one exactly where the rank is 1, but for a query whose candidates all have no features.

    Args:
        scores_QC: higher is better; finite or -inf; at least one candidate.
        truth_QC: bool.
    """
    highest_Q1 = scores_QC.max(axis=1, keepdims=True)
    best_QC = scores_QC == highest_Q1
    wrong_QC = best_QC & ~truth_QC
    chosen_Q = np.where(wrong_QC.any(axis=1), wrong_QC.argmax(axis=1), best_QC.argmax(axis=1))
    return np.where(np.isneginf(highest_Q1[:, 0]), -1, chosen_Q)


def recall_summary(ranks_Q: np.ndarray) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10`` in percent, and median and mean rank (``medr``, ``meanr``), of at least one query.

    The median of an even number of ranks is the mean of the middle two.

    Raises:
        NoDataError: there is no query.
    """
    if len(ranks_Q) == 0:
        raise NoDataError("recall: expected at least one query, found none")
    recalls = {f"r{k}": 100.0 * float(np.mean(ranks_Q <= k)) for k in RECALL_AT}
    return {**recalls, "medr": float(np.median(ranks_Q)), "meanr": float(np.mean(ranks_Q))}


def accuracy(predicted_S: np.ndarray, expected_S: np.ndarray, failures: int = 0) -> float:
    """Return the share of right predictions in percent.

    Args:
        predicted_S: predicted classes.
        expected_S: true classes.
        failures: samples beyond these for which nothing could be predicted; each counts as wrong.

    Raises:
        EvaluationError: the lengths differ.
        NoDataError: there is no sample at all.
    """
    if len(predicted_S) != len(expected_S):
        raise EvaluationError(f"accuracy: found {len(predicted_S)} predictions for {len(expected_S)} labels")
    total = len(expected_S) + failures
    if total == 0:
        raise NoDataError("accuracy: expected at least one sample, found none")
    return 100.0 * float(np.sum(np.asarray(predicted_S) == np.asarray(expected_S))) / total
