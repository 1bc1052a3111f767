from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidenced import check_evidence
from umt_pipeline.evaluation.evidence import CLASS_RANK, CORRECT, aggregate, evidence_rows, joined, measure_of, rows_of
from umt_pipeline.evaluation.metrics import EvaluationError, best_candidates, retrieval_ranks
from umt_pipeline.evaluation.params import SearchParams
from umt_pipeline.evaluation.retrieval import SystemScores, build_retrieval_set
from umt_pipeline.evaluation.search import Searched, Searcher, searched
from umt_pipeline.video.views import ViewConfig


def search_of(scores_UC: np.ndarray, captions: pd.DataFrame, clips: list[str], rule: str = "all") -> Searched:
    data = build_retrieval_set("test", clips, captions, rule)  # type: ignore[arg-type]
    system = SystemScores("stage2", "dual", scores_UC[: len(data.texts)], scores_UC[: len(data.texts)].T)
    searcher = Searcher(ViewConfig(frames=2, size=32), None, "fp32")
    failures = {clip for index, clip in enumerate(data.video_ids) if np.isneginf(scores_UC[:, index]).all()}
    return searched(SearchParams(), 0, data, system, searcher, failures)


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from(["first", "all"]))
@settings(max_examples=40, deadline=None)
def test_recalls_and_ranks_follow_from_the_ranks_of_queries(seed: int, clips: int, rule: str) -> None:
    """With ties, clips without features, texts of several clips and clips without a text."""
    rng = np.random.default_rng(seed)
    names = [f"v{number}" for number in range(clips)]
    rows = [(str(rng.choice(names)), f"text {rng.integers(0, 4)}") for _ in range(8)]
    captions = pd.DataFrame(rows, columns=["video_id", "caption"]).assign(caption_id=np.arange(8) + 100)
    scores_UC = rng.integers(0, 3, size=(8, clips)).astype(float)
    scores_UC[:, rng.random(clips) < 0.2] = -np.inf
    found = search_of(scores_UC, captions, names, rule)
    check_evidence(found.evidence, [found.record])
    queries = found.evidence[found.evidence["metric"] == "t2v_rank"]
    clip_of = dict(zip(captions["caption_id"].astype(str), captions["video_id"], strict=True))
    assert queries["video"].tolist() == queries["truth"].tolist() == [clip_of[item] for item in queries["item"]]
    assert set(queries["answer"].dropna()) <= set(names)
    assert (found.evidence.loc[found.evidence["metric"] == "v2t_rank", "item"].isin(clip_of.values())).all()


def test_what_was_said_stands_beside_what_was_true() -> None:
    captions = pd.DataFrame({"caption_id": [7, 8], "video_id": ["a", "b"], "caption": ["red disc", "blue star"]})
    found = search_of(np.array([[0.1, 0.9, -np.inf], [0.2, 0.8, -np.inf]]), captions, ["a", "b", "c"])
    told = found.evidence[["metric", "item", "video", "value", "answer", "truth"]].to_numpy(object).tolist()
    assert told == [
        ["t2v_rank", "7", "a", 2.0, "b", "a"],
        ["t2v_rank", "8", "b", 1.0, "b", "b"],
        ["v2t_rank", "a", "a", 2.0, "blue star", "red disc"],
        ["v2t_rank", "b", "b", 2.0, "red disc", "blue star"],
    ]


def test_a_clip_that_cannot_be_read_ranks_last_and_says_nothing() -> None:
    captions = pd.DataFrame({"caption_id": [0, 1], "video_id": ["a", "b"], "caption": ["red disc", "blue star"]})
    found = search_of(np.array([[-np.inf, 0.5], [-np.inf, 0.5]]), captions, ["a", "b"])
    assert found.evidence["value"].tolist() == [2.0, 1.0, 2.0, 2.0]
    assert found.evidence["answer"].isna().tolist() == [False, False, True, False]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 7))
@settings(max_examples=60)
def test_the_best_candidate_is_true_where_the_rank_is_one(seed: int, queries: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.choice([-np.inf, 0.0, 1.0], size=(queries, candidates))
    truth = rng.random((queries, candidates)) < 0.4
    truth[np.arange(queries), rng.integers(0, candidates, queries)] = True
    best, ranks = best_candidates(scores, truth), retrieval_ranks(scores, truth)
    some = best >= 0
    assert (np.isneginf(scores).all(axis=1) == ~some).all()
    assert (truth[np.flatnonzero(some), best[some]] == (ranks[some] == 1)).all()
    assert (scores[np.flatnonzero(some), best[some]] == scores[some].max(axis=1)).all()


def test_numbers_that_follow() -> None:
    ranks = np.array([1, 1, 3, 6])
    table = joined([
        evidence_rows("c/stage2", CLASS_RANK, "abcd", "abcd", ranks, None, ["x", "x", "x", "y"]),
        evidence_rows("probe", CORRECT, "abcd", "abcd", np.array([True, False, False, False])),
        evidence_rows("q", "t2v_rank", range(4), "aabb", ranks),
    ])  # fmt: skip
    expected = {
        "c/stage2/top1": 50.0, "c/stage2/top5": 75.0, "c/stage2/mean_class": 100 * (2 / 3 + 0) / 2, "probe": 25.0,
        "probe/accuracy": 25.0, "q/t2v_r1": 50.0, "q/t2v_r5": 75.0, "q/t2v_r10": 100.0, "q/t2v_medr": 2.0, "q/t2v_meanr": 2.75,
    }  # fmt: skip
    assert {name: aggregate(table, name) for name in expected} == pytest.approx(expected)


def test_only_shares_of_items_can_be_told_apart() -> None:
    names = ("", "accuracy", "top1", "top5", "t2v_r1", "v2t_r10", "mean_class", "t2v_medr", "v2t_meanr", "map", "top0")
    shares = {name: getattr(measure_of(name), "is_share", None) for name in names}
    assert shares == {
        "": True, "accuracy": True, "top1": True, "top5": True, "t2v_r1": True, "v2t_r10": True, "mean_class": False,
        "t2v_medr": False, "v2t_meanr": False, "map": None, "top0": None,
    }  # fmt: skip


def test_what_does_not_follow_is_named_with_what_does() -> None:
    table = evidence_rows("detection/test/stage2", CLASS_RANK, "ab", "ab", np.ones(2))
    with pytest.raises(EvaluationError, match=r"follows from class_rank of task 'detection/test/stage2', found 'map'.*top1"):
        rows_of(table, "detection/test/stage2/map")
    with pytest.raises(EvaluationError, match=r"a task 'detection/test/stage1', found 1 others, such as detection/test/stage2"):
        rows_of(table, "detection/test/stage1/top1")
    with pytest.raises(EvaluationError, match="found none at all"):
        rows_of(joined([]), "a/top1")
    with pytest.raises(EvaluationError, match="expected the true class of each item in `truth`"):
        aggregate(table, "detection/test/stage2/mean_class")


def test_a_large_table_is_made_and_summed_in_no_time() -> None:
    count = 300_000
    started = time.perf_counter()
    videos = np.repeat([f"clip {number}" for number in range(count // 20)], 20)
    table = joined([evidence_rows("a", "t2v_rank", np.arange(count), videos, np.arange(count) % 9 + 1, videos, videos)])
    assert aggregate(table, "a/t2v_r5") == pytest.approx(100 * 5 / 9, abs=0.01)
    assert time.perf_counter() - started < 10
