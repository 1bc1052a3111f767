"""Large segments are searched without looking at every vector: IVF-PQ finds candidates, their vectors give the scores.

A segment of up to :data:`EXACT_BYTES` is searched exactly. Above that faiss divides its vectors into lists, by the nearest of
some thousand centres, and keeps of each some bytes (product quantisation). A query looks through the lists next to it, and the
best of what it sees there are compared with it by their own vectors, read from the file. In how many lists is looked is not
guessed but measured, on each segment when it is written: as few as find enough of what an exact search finds. A segment of
which no number does is searched exactly.

Shapes: n vectors, Q queries, K found for each, E embedding width.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from umt_pipeline.serving.index.nearest import exact, products, top

logger = logging.getLogger(__name__)

# Its types are those of the C++ below; Python takes arrays and names.
_FAISS: Any = faiss

EXACT: dict[str, Any] = {"kind": "exact"}
# Of vectors, that one query reads: measured, docs/search.md.
EXACT_BYTES = 256 * 2**20
# Measured recall@10 that a segment must reach; a little more than is promised, 0.95.
ENOUGH = 0.97
# Of the vectors that are allowed: up to there all of them are compared. 16 MiB are 8,192 of width 512, 5 to 10 ms.
FEW_BYTES = 16 * 2**20
_SAMPLE_QUERIES, _SAMPLE_K, _NOISE = 200, 10, 3.0
# The queries that probes are measured with come of vectors of the segment. Texts lie beside these, and in more lists.
_LEAST_PROBES = 32
# More points and turns than that find no more.
_TRAINING_PER_LIST, _TURNS = 40, 10
_CANDIDATES_PER_K, _LEAST_CANDIDATES = 4, 400
_BYTES_PER_VECTOR = 64


@dataclass(frozen=True)
class Approximate:
    """An IVF-PQ index of a segment.

    Args:
        index: faiss's.
        probes: lists that are looked through.
        vectors_NE: of the segment.
    """

    index: Any
    probes: int
    vectors_NE: np.ndarray

    @classmethod
    def open(cls, path: Path, search: dict[str, Any], vectors_NE: np.ndarray) -> Self:
        """Open the index of a segment."""
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), int(search["probes"]), vectors_NE)

    def pays(self, allowed_N: np.ndarray | None) -> bool:
        """Whether it is faster than comparing all vectors that are allowed."""
        bytes_per_vector = self.vectors_NE.itemsize * self.vectors_NE.shape[1]
        return allowed_N is None or int(np.count_nonzero(allowed_N)) * bytes_per_vector > FEW_BYTES

    def nearest(self, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows [Q, K] of the nearest vectors that are allowed; -inf and -1 where fewer were found."""
        probes, options = self.probes, dict[str, Any]()
        if allowed_N is not None:
            # The nearest of those that are allowed are farther off, and in more lists, but by far not in 1 / share as many.
            share = np.count_nonzero(allowed_N) / len(allowed_N)
            probes = min(self.index.nlist, math.ceil(probes / math.sqrt(share)))
            options["sel"] = _FAISS.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        wanted = min(len(self.vectors_NE), max(_LEAST_CANDIDATES, _CANDIDATES_PER_K * k))
        parameters = _FAISS.SearchParametersIVF(nprobe=probes, **options)
        # In the order of the file: neighbours are read together. Those that are missing, -1, come first.
        rows_QC = np.sort(self.index.search(queries_QE, wanted, params=parameters)[1], axis=1)
        scores_QC = np.full(rows_QC.shape, -np.inf, dtype=np.float32)
        for query, rows_C in enumerate(rows_QC):
            found = rows_C >= 0
            scores_QC[query, found] = products(queries_QE[query], self.vectors_NE[rows_C[found]])
        scores_QK, rows_QK = top(scores_QC, rows_QC, k)
        if (missing := k - scores_QK.shape[1]) > 0:
            scores_QK = np.pad(scores_QK, ((0, 0), (0, missing)), constant_values=-np.inf)
            rows_QK = np.pad(rows_QK, ((0, 0), (0, missing)), constant_values=-1)
        return scores_QK, rows_QK


def build_approximate(vectors_NE: np.ndarray, path: Path, exact_bytes: int = EXACT_BYTES) -> dict[str, Any]:
    """Write an approximate index of a segment if it is large, and measure how well it finds.

    Args:
        vectors_NE: float32, of the segment.
        path: file to write.
        exact_bytes: up to which a segment is searched exactly.

    Returns:
        How the segment is to be searched: :data:`EXACT`, or kind, probes, and the recall and milliseconds of a query that were
        measured.
    """
    if vectors_NE.nbytes <= exact_bytes:
        return EXACT
    started = time.perf_counter()
    index = _trained(vectors_NE)
    faiss.write_index(index, str(path))
    search = _measured(Approximate(index, 0, vectors_NE))
    logger.info("an index of %d vectors: %s, built in %.0f s", len(vectors_NE), search, time.perf_counter() - started)
    if search == EXACT:
        path.unlink()
    return search


def _trained(vectors_NE: np.ndarray) -> Any:
    n, width = vectors_NE.shape
    lists = 2 ** round(math.log2(4 * math.sqrt(n)))
    codes = math.gcd(width, _BYTES_PER_VECTOR)
    # A product of unit vectors is a cosine.
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter, index.pq.cp.niter = 1234, _TURNS, _TURNS
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(n, min(n, _TRAINING_PER_LIST * lists), replace=False))
    index.train(np.ascontiguousarray(vectors_NE[sample]))
    for start in range(0, n, 65_536):
        index.add(np.ascontiguousarray(vectors_NE[start : start + 65_536]))
    return index


def _measured(approximate: Approximate) -> dict[str, Any]:
    """Find how many lists are enough."""
    vectors_NE = approximate.vectors_NE
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(vectors_NE), min(len(vectors_NE), _SAMPLE_QUERIES), replace=False))
    noise_QE = rng.standard_normal((len(chosen), vectors_NE.shape[1])).astype(np.float32)
    # A text is not as near to a clip as clips are to each other: cosines of a third are usual.
    queries_QE = vectors_NE[chosen] + _NOISE * noise_QE / np.linalg.norm(noise_QE, axis=1, keepdims=True)
    queries_QE /= np.linalg.norm(queries_QE, axis=1, keepdims=True)
    _, true_QK = exact(vectors_NE, queries_QE, _SAMPLE_K, None)
    probes = min(_LEAST_PROBES, approximate.index.nlist // 4)
    while probes <= approximate.index.nlist // 4:
        trial = Approximate(approximate.index, probes, vectors_NE)
        started = time.perf_counter()
        found = [trial.nearest(queries_QE[number : number + 1], _SAMPLE_K, None)[1][0] for number in range(len(queries_QE))]
        took_ms = 1000 * (time.perf_counter() - started) / len(queries_QE)
        pairs = zip(found, true_QK, strict=True)
        recall = float(np.mean([len(np.intersect1d(one, true)) / _SAMPLE_K for one, true in pairs]))
        if recall >= ENOUGH:
            measured = {"recall_at_10": round(recall, 4), "query_ms": round(took_ms, 2)}
            return {"kind": "ivf_pq", "lists": approximate.index.nlist, "probes": probes, **measured}
        probes *= 2
    return EXACT
