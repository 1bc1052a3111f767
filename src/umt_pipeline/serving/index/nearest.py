"""The nearest vectors of a segment: Q queries, n vectors, E embedding width, K wanted."""

from __future__ import annotations

import numpy as np

# Rows of a block of scores: 128 Ki rows of one query are half a MiB.
_BLOCK_ROWS = 131_072


def exact(
    vectors_NE: np.ndarray, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare each query with each vector that is allowed.

    Returns:
        scores float32 [Q, K], falling, and rows int64 [Q, K]; where there are not as many, -inf and -1.
    """
    best_QK = np.full((len(queries_QE), k), -np.inf, dtype=np.float32)
    rows_QK = np.full((len(queries_QE), k), -1, dtype=np.int64)
    chosen = None if allowed_N is None else np.flatnonzero(allowed_N)
    total = len(vectors_NE) if chosen is None else len(chosen)
    for start in range(0, total, _BLOCK_ROWS):
        rows_n = np.arange(start, min(start + _BLOCK_ROWS, total))
        rows_n = rows_n if chosen is None else chosen[rows_n]
        block_nE = vectors_NE[start : start + len(rows_n)] if chosen is None else vectors_NE[rows_n]
        scores_Qn = queries_QE @ block_nE.T
        best_QK, rows_QK = top(
            np.concatenate([best_QK, scores_Qn], axis=1),
            np.concatenate([rows_QK, np.broadcast_to(rows_n, scores_Qn.shape)], axis=1),
            k,
        )
    return best_QK, rows_QK


def top(scores_QN: np.ndarray, rows_QN: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the K largest scores, falling, and what they belong to; of equal ones the first row comes first."""
    if scores_QN.shape[1] > 4 * k:
        part_QK = np.argpartition(-scores_QN, k - 1, axis=1)[:, :k]
        scores_QN, rows_QN = np.take_along_axis(scores_QN, part_QK, 1), np.take_along_axis(rows_QN, part_QK, 1)
    order_QK = np.lexsort((rows_QN, -scores_QN), axis=1)[:, :k]
    return np.take_along_axis(scores_QN, order_QK, 1), np.take_along_axis(rows_QN, order_QK, 1)
