from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.evaluation.agreement import top1_agreement
from umt_pipeline.evaluation.examples import choose_examples, moved_query
from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError
from umt_pipeline.evaluation.reranking import match_best, reranked
from umt_pipeline.evaluation.retrieval import (
    RetrievalSet,
    SystemScores,
    build_retrieval_set,
    dual_scores,
    dual_softmax,
    query_ranks,
    retrieval_values,
)


def captions(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"caption_id": n, "video_id": v, "caption": c} for n, (v, c) in enumerate(rows)])


def diagonal(size: int) -> RetrievalSet:
    table = captions(*((f"v{n:03}", f"text {n:03}") for n in range(size)))
    return build_retrieval_set("test", list(table["video_id"]), table, "first")


def scores_of(matrix: np.ndarray) -> SystemScores:
    return SystemScores("stage2", "dual", matrix, matrix.T)


TABLE = captions(("b", "A red disc."), ("a", "blue square"), ("b", "Blue  square!"), ("c", "green star"), ("x", "else"))


def test_first_caption_asks_and_identical_texts_share_their_clips() -> None:
    data = build_retrieval_set("test", ["c", "b", "a", "d"], TABLE, "first")
    assert data.video_ids == ("a", "b", "c", "d")
    assert data.texts == ("A red disc.", "blue square", "green star")
    assert [data.texts[text] for text in data.query_text_Q] == ["A red disc.", "blue square", "green star"]
    assert [data.video_ids[clip] for clip in data.query_clip_Q] == ["b", "a", "c"]
    # Clip b is also a blue square: it has that caption too, though it does not ask with it.
    assert data.truth_UC.tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]


def test_all_captions_ask() -> None:
    data = build_retrieval_set("test", ["a", "b", "c"], TABLE, "all")
    assert len(data.texts) == 3
    assert data.query_text_Q.tolist() == [0, 1, 1, 2]
    assert data.query_clip_Q.tolist() == [1, 0, 1, 2]


def test_a_set_without_queries() -> None:
    for clips in ([], ["d"]):
        with pytest.raises(NoDataError, match="no query"):
            build_retrieval_set("test", clips, TABLE, "first")


def test_perfect_and_failed() -> None:
    data = diagonal(4)
    values = retrieval_values(query_ranks(data, scores_of(np.eye(4))))
    assert values["t2v_r1"] == values["v2t_r1"] == 100.0
    failed = dual_scores("stage2", np.eye(4), np.eye(4)[[0, 1, 3]], np.array([0, 1, 3]), 4)
    to_video, to_text = query_ranks(data, failed)
    assert to_video.tolist() == [1, 1, 4, 1]
    assert to_text.tolist() == [1, 1, 4, 1]


@given(st.integers(0, 500), st.integers(1, 6), st.integers(1, 8), st.sampled_from([0.01, 0.07, 1.0]))
def test_dual_softmax_equals_a_loop(seed: int, texts: int, clips: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    cosines = rng.uniform(-1, 1, (texts, clips))
    cosines[:, rng.random(clips) < 0.2] = -np.inf
    result = dual_softmax(scores_of(cosines), temperature)
    assert (result.score, result.temperature, result.k) == ("dsl", temperature, None)
    for text in range(texts):
        for clip in range(clips):
            cosine = cosines[text, clip]
            if cosine == -np.inf:
                assert result.text_to_video_UC[text, clip] == result.video_to_text_CU[clip, text] == -np.inf
                continue
            over_texts = sum(math.exp((other - cosine) / temperature) for other in cosines[:, clip])
            over_clips = sum(math.exp((other - cosine) / temperature) for other in cosines[text] if other > -np.inf)
            assert result.text_to_video_UC[text, clip] == pytest.approx(cosine / over_texts, abs=1e-12)
            assert result.video_to_text_CU[clip, text] == pytest.approx(cosine / over_clips, abs=1e-12)


def test_dual_softmax_takes_a_clip_that_all_queries_like_from_all_but_one() -> None:
    # Clip 0 is a hub: the best of every text. Text 1 likes it a little less than its own clip deserves.
    cosines = np.array([[0.9, 0.1, 0.1], [0.8, 0.7, 0.1], [0.8, 0.1, 0.7]])
    data = diagonal(3)
    assert retrieval_values(query_ranks(data, scores_of(cosines)))["t2v_r1"] == pytest.approx(100 / 3)
    assert retrieval_values(query_ranks(data, dual_softmax(scores_of(cosines), 0.05)))["t2v_r1"] == 100.0


def test_constant_scores_rank_last_in_every_row() -> None:
    data = diagonal(10)
    dual = scores_of(np.full((10, 10), 0.3))
    matched = match_best(dual, lambda text, clip: np.zeros((len(text), 2)), 100, log_odds=False)
    for system in (dual, dual_softmax(dual, 0.07), reranked(matched)):
        values = retrieval_values(query_ranks(data, system))
        assert (values["t2v_r10"], values["t2v_meanr"], values["v2t_meanr"]) == (100.0, 10.0, 10.0)
        assert (values["t2v_r5"], values["v2t_r5"]) == (0.0, 0.0)


def test_a_nan_names_the_system_and_a_clip_without_text_asks_nothing() -> None:
    scores = np.eye(4)
    scores[2, 1] = np.nan
    for system in (scores_of(scores), dual_softmax(scores_of(scores), 0.07)):
        with pytest.raises(EvaluationError, match=f"stage2/{system.score}, text to video: .*NaN"):
            retrieval_values(query_ranks(diagonal(4), system))
    data = build_retrieval_set("test", ["a", "b", "c", "d"], TABLE, "first")  # d has no caption
    _, to_text = query_ranks(data, scores_of(np.ones((3, 4))))
    assert len(to_text) == 3


def test_frames_averaged_are_the_mean_of_cosines() -> None:
    rng = np.random.default_rng(0)
    text, frames = rng.normal(size=(3, 8)), rng.normal(size=(2, 5, 8))
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    frames /= np.linalg.norm(frames, axis=-1, keepdims=True)
    scores = dual_scores("stage2", text, frames.mean(axis=1), np.arange(2), 2)
    np.testing.assert_allclose(scores.text_to_video_UC, np.einsum("ue,cte->utc", text, frames).mean(axis=1))


def test_agreement() -> None:
    data = diagonal(4)
    label_of = {"v000": "disc", "v001": "disc", "v002": "star"}
    shifted = np.roll(np.eye(4), 1, axis=1)  # every query finds the next clip
    found = top1_agreement(data, scores_of(shifted), label_of)
    assert found.query_L.tolist() == [0, 1, 2]
    assert found.value == pytest.approx(100 / 3)
    assert (found.own_L.tolist(), found.found_L.tolist()) == (["disc", "disc", "star"], ["disc", "star", None])
    # Ties are pessimistic: all best clips must agree.
    assert top1_agreement(data, scores_of(np.zeros((4, 4))), label_of).value == 0.0
    # A query whose own clip has no features counts as wrong, though the best of the others would agree.
    failed = np.roll(np.eye(4), 1, axis=1)
    failed[:, 0] = -np.inf
    assert top1_agreement(data, scores_of(failed), label_of).value == 0.0
    with pytest.raises(NoDataError, match="label"):
        top1_agreement(data, scores_of(shifted), {"other": "disc"})


def test_examples_are_half_hits_half_misses() -> None:
    data = diagonal(10)
    matrix = np.eye(10)
    matrix[5:] = np.roll(matrix[5:], 1, axis=1)
    examples = choose_examples(data, [scores_of(matrix), scores_of(np.eye(10))], count=4)
    assert [example.rank == 1 for example in examples[::2]] == [True, True, False, False]
    assert all(example.rank == 1 for example in examples[1::2])
    assert all(len(example.top) == 5 for example in examples)
    assert examples[0].relevant[0]
    assert not examples[4].relevant[0]
    assert choose_examples(data, [scores_of(np.eye(10))], count=0) == []
    assert len(choose_examples(data, [scores_of(np.eye(10))], count=40)) == 10


def test_one_query_shows_what_a_new_order_does_to_hits() -> None:
    data = diagonal(10)
    before, after = np.eye(10), np.eye(10)
    before[2:7] = np.roll(before[2:7], 1, axis=1)
    after[0] = np.roll(after[0], 1)
    assert moved_query(data, scores_of(before), scores_of(after)) == 4, "the middle one of the five hits that are new"
    assert moved_query(data, scores_of(after), scores_of(before)) == 4, "of the five that are lost"
    assert moved_query(data, scores_of(before), scores_of(before)) is None
    shown = choose_examples(data, [scores_of(after), scores_of(before)], count=2, also=4)
    assert [example.query for example in shown[-2:]] == [data.texts[data.query_text_Q[4]]] * 2
    assert [example.rank for example in shown[-2:]] == [1, 10]
    assert choose_examples(data, [scores_of(after)], count=10, also=4) == choose_examples(data, [scores_of(after)], count=10)
