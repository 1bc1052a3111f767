"""The nearest vectors of a segment, by comparing all: Q queries, n vectors, E embedding width, K wanted.

By matrix products over the mapped file: nothing is copied, and all cores are used, where faiss gives a single query one.
"""

from __future__ import annotations

import numpy as np
import torch

# Rows of a block of scores: 128 Ki rows of one query are half a MiB.
_BLOCK_ROWS = 131_072
# Share of a block from which on it is faster to compare all of it than to gather what is allowed.
_MANY = 0.125


def exact(
    vectors_NE: np.ndarray, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare each query with each vector that is allowed.

    Returns:
        scores float32 [Q, K], falling, and rows int64 [Q, K]; where there are not as many, -inf and -1.
    """
    best_QK = np.full((len(queries_QE), k), -np.inf, dtype=np.float32)
    rows_QK = np.full((len(queries_QE), k), -1, dtype=np.int64)
    for start in range(0, len(vectors_NE), _BLOCK_ROWS):
        block_nE = vectors_NE[start : start + _BLOCK_ROWS]
        rows_n = np.arange(start, start + len(block_nE))
        if allowed_N is None:
            scores_Qn = products(queries_QE, block_nE)
        else:
            own_n = allowed_N[start : start + len(block_nE)]
            if np.count_nonzero(own_n) > _MANY * len(own_n):
                scores_Qn = np.where(own_n, products(queries_QE, block_nE), -np.inf)
            else:
                rows_n = rows_n[own_n]
                scores_Qn = products(queries_QE, block_nE[own_n])
        # First of the block by itself: the scores of many queries are not copied once more.
        some_Qk, found_Qk = top(scores_Qn, np.broadcast_to(rows_n, scores_Qn.shape), k)
        best_QK, rows_QK = top(np.concatenate([best_QK, some_Qk], axis=1), np.concatenate([rows_QK, found_Qk], axis=1), k)
    return best_QK, np.where(np.isneginf(best_QK), -1, rows_QK)


def products(queries_QE: np.ndarray, vectors_nE: np.ndarray) -> np.ndarray:
    """Return the product of each query with each vector, [Q, n], of the type of both.

    By torch. The threads of NumPy's products are others than those of the encoders, and go on waiting for work for some time,
    on cores that the next query's text needs: it took 70 ms in place of 28.

    Args:
        queries_QE: queries.
        vectors_nE: of the same type; writable, if only into a private copy, as torch wants it.
    """
    return torch.nn.functional.linear(torch.from_numpy(queries_QE), torch.from_numpy(vectors_nE)).numpy()


def top(scores_QN: np.ndarray, rows_QN: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the K largest scores, falling, and what they belong to; of equal ones the first row comes first."""
    if scores_QN.shape[1] > 4 * k:
        part_QK = np.argpartition(-scores_QN, k - 1, axis=1)[:, :k]
        scores_QN, rows_QN = np.take_along_axis(scores_QN, part_QK, 1), np.take_along_axis(rows_QN, part_QK, 1)
    order_QK = np.lexsort((rows_QN, -scores_QN), axis=1)[:, :k]
    return np.take_along_axis(scores_QN, order_QK, 1), np.take_along_axis(rows_QN, order_QK, 1)
