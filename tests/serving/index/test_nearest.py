"""The nearest vectors are the nearest: exactly, or nearly always and of those that are allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.serving.index.contents import DIM, embedded, write
from umt_pipeline.serving.index import approximate, nearest
from umt_pipeline.serving.index.approximate import EXACT, Approximate, build_approximate
from umt_pipeline.serving.index.nearest import exact
from umt_pipeline.serving.index.reading import Index

WIDTH = 16


def by_hand(
    vectors_NE: np.ndarray, queries_QE: np.ndarray, k: int, allowed_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    scores_QN = queries_QE @ vectors_NE.T
    if allowed_N is not None:
        scores_QN[:, ~allowed_N] = -np.inf
    rows_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, :k]
    found_QK = np.take_along_axis(scores_QN, rows_QK, 1)
    return found_QK, np.where(np.isneginf(found_QK), -1, rows_QK)


def clusters(n: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 20, width))
    vectors_NE = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, width))
    return (vectors_NE / np.linalg.norm(vectors_NE, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("share", [None, 0.0, 0.002, 0.1, 0.6, 1.0])
def test_exact_is_exact_in_any_number_of_blocks(monkeypatch: pytest.MonkeyPatch, share: float | None) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", 300)
    vectors_NE, queries_QE = clusters(1000), clusters(40, seed=1)
    allowed_N = None if share is None else np.random.default_rng(2).random(1000) < share
    scores_QK, rows_QK = exact(vectors_NE, queries_QE, 7, allowed_N)
    expected = by_hand(vectors_NE, queries_QE, 7, allowed_N)
    np.testing.assert_allclose(scores_QK, expected[0], rtol=1e-5)
    assert np.array_equal(rows_QK, expected[1])


def test_more_than_there_are_is_filled_up() -> None:
    scores_QK, rows_QK = exact(clusters(20)[:3], clusters(20, seed=1)[:2], 5, None)
    assert (rows_QK[:, 3:] == -1).all()
    assert np.isneginf(scores_QK[:, 3:]).all()
    assert (np.sort(rows_QK[:, :3], axis=1) == [0, 1, 2]).all()


def test_a_small_segment_is_searched_exactly(tmp_path: Path) -> None:
    assert build_approximate(clusters(100), tmp_path / "x.faiss") == EXACT
    assert not (tmp_path / "x.faiss").exists()


def test_a_large_segment_finds_as_much_as_was_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "FEW_BYTES", 200 * 4 * WIDTH)
    monkeypatch.setattr(approximate, "_LEAST_CANDIDATES", 100)
    vectors_NE = clusters(6_000)
    search = build_approximate(vectors_NE, tmp_path / "x.faiss", exact_bytes=1000)
    assert search["kind"] == "ivf_pq"
    assert search["recall_at_10"] >= 0.97
    opened = Approximate.open(tmp_path / "x.faiss", search, vectors_NE)
    queries_QE = clusters(4000, seed=3)[:200]
    for share in (None, 0.5, 0.05):
        allowed_N = None if share is None else np.random.default_rng(4).random(len(vectors_NE)) < share
        assert opened.pays(allowed_N)
        scores_QK, rows_QK = opened.nearest(queries_QE, 10, allowed_N)
        true_scores, true_rows = exact(vectors_NE, queries_QE, 10, allowed_N)
        recall = np.mean([len(np.intersect1d(one, other)) for one, other in zip(rows_QK, true_rows, strict=True)]) / 10
        assert recall >= 0.95
        if allowed_N is not None:
            assert allowed_N[rows_QK].all()
        np.testing.assert_allclose(scores_QK[:, 0], np.einsum("qe,qe->q", queries_QE, vectors_NE[rows_QK[:, 0]]), rtol=1e-5)
        assert (scores_QK <= true_scores + 1e-5).all()
    assert not opened.pays(np.arange(len(vectors_NE)) < 200), "few are compared one by one"


def test_what_cannot_be_found_approximately_is_searched_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "ENOUGH", 1.1)
    assert build_approximate(clusters(2_000), tmp_path / "x.faiss", exact_bytes=1000) == EXACT
    assert not (tmp_path / "x.faiss").exists()


def test_generations_keep_the_index_of_a_large_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = build_approximate
    monkeypatch.setattr(
        "umt_pipeline.serving.index.segments.build_approximate", lambda vectors, path: build(vectors, path, exact_bytes=50_000)
    )
    monkeypatch.setattr(approximate, "FEW_BYTES", 100 * 4 * DIM)
    of = {f"f{number}": embedded(number, 50) for number in range(100)}
    write(tmp_path, of)
    of["new"] = embedded(1000, 3)
    del of["f7"]
    manifest = write(tmp_path, of)
    assert [segment.search["kind"] for segment in manifest.segments] == ["ivf_pq", "exact"]
    with Index.open(tmp_path) as index:
        vectors_NE = index.vectors(np.arange(len(index.windows)))
        queries_QE = embedded(2000, 30, DIM).vectors_WE
        _, rows_QK = index.nearest(queries_QE, 10)
        _, true_QK = exact(vectors_NE, queries_QE, 10, None)
        recall = np.mean([len(np.intersect1d(one, other)) for one, other in zip(rows_QK, true_QK, strict=True)]) / 10
        assert recall >= 0.9
        assert index.nearest(of["new"].vectors_WE[1:2], 1)[1][0, 0] == len(index.windows) - 2
