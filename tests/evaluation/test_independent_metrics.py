"""Metrics against other people's implementations and against plain loops, on random and on degenerate inputs.

Equal scores, few candidates, one class, one sample and scores that are no numbers are what flatters most easily.
"""

from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_recall,
)

from umt_pipeline.evaluation.metrics import EvaluationError, accuracy, best_candidates, recall_summary, retrieval_ranks
from umt_pipeline.evaluation.retrieval import SystemScores, build_retrieval_set, query_ranks, retrieval_values
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.tasks.classification.testing import Predictions, Scores, score
from umt_pipeline.tasks.question_answering.answering import (
    AnswerList,
    RankedAnswers,
    answering_result,
    choice_accuracy,
    make_answer_list,
)
from umt_pipeline.tasks.question_answering.testing import accuracy_by_type

NAMES = tuple("abcdefgh")
# The same tokens in upper and in lower case: such answers are equals.
TEXTS = ("left", "Left", "star", "red", "a star")
ANSWERS: AnswerList = make_answer_list(train_wordpiece(list(TEXTS), vocab_size=40), TEXTS, 12)
# Few values, so that ties are common.
SCORES = st.sampled_from([-2.0, -1.0, 0.0, 0.25])
quick = settings(deadline=None, max_examples=40)


def untied(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.permuted(np.tile(np.linspace(0.1, 1, columns), (rows, 1)), axis=1)


def classified(scores_SC: np.ndarray, true_S: np.ndarray) -> Scores:
    ids = tuple(f"v{row}" for row in range(len(scores_SC)))
    truth = {name: NAMES[label] for name, label in zip(ids, true_S.tolist(), strict=True)}
    return score(Predictions(ids, scores_SC, {}), truth, NAMES[: scores_SC.shape[1]])


# --- classification ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(2, 8), st.booleans(), st.integers(0, 2**32))
@quick
def test_classification_equals_torchmetrics_where_nothing_is_tied(
    samples: int, classes: int, one_class: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores_SC = untied(rng, samples, classes)
    true_S = np.full(samples, rng.integers(0, classes)) if one_class else rng.integers(0, classes, samples)
    found = classified(scores_SC, true_S)
    predicted, target = torch.from_numpy(scores_SC), torch.from_numpy(true_S)
    for k in (1, 5) if classes > 5 else (1,):
        expected = multiclass_accuracy(predicted, target, classes, top_k=k, average="micro")
        assert found.values[f"top{k}"] == pytest.approx(100 * float(expected))
    recall_C = multiclass_recall(predicted, target, classes, average=None)
    there = sorted(set(true_S.tolist()))
    assert found.per_class == pytest.approx({NAMES[label]: 100 * float(recall_C[label]) for label in there})
    assert found.values["mean_class"] == pytest.approx(100 * float(recall_C[there].mean()))
    expected_CC = multiclass_confusion_matrix(predicted, target, classes)
    assert found.confusion_LL[:, :-1].tolist() == expected_CC.tolist()


@given(st.integers(1, 12), st.integers(1, 8), st.floats(-3, 3), st.integers(0, 2**32))
@quick
def test_equal_scores_are_right_only_where_there_is_no_other_class(
    samples: int, classes: int, value: float, seed: int
) -> None:
    true_S = np.random.default_rng(seed).integers(0, classes, samples)
    found = classified(np.full((samples, classes), value), true_S)
    only = 100.0 if classes == 1 else 0.0
    assert set(found.values.values()) == {only}
    assert set(found.per_class.values()) == {only}


# --- retrieval --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
@quick
def test_the_summary_of_ranks_is_plain_counting(ranks: list[int]) -> None:
    found = recall_summary(np.array(ranks))
    assert found["medr"] == statistics.median(ranks)
    assert found["meanr"] == pytest.approx(statistics.fmean(ranks))
    for k in (1, 5, 10):
        assert found[f"r{k}"] == pytest.approx(100 * sum(rank <= k for rank in ranks) / len(ranks))


@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 7))), st.floats(-5, 5))
@quick
def test_of_equal_scores_every_wrong_candidate_is_ahead(truth_QC: np.ndarray, value: float) -> None:
    truth_QC[:, 0] = True
    ranks_Q = retrieval_ranks(np.full(truth_QC.shape, value), truth_QC)
    assert ranks_Q.tolist() == [1 + sum(not true for true in row) for row in truth_QC.tolist()]


@given(st.data())
@quick
def test_both_directions_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    """A caption of several clips has several right answers, and so has a clip with several captions."""
    texts = data.draw(st.lists(st.sampled_from("pqrs"), min_size=1, max_size=7))
    ids = [f"v{number}" for number in range(data.draw(st.integers(1, len(texts))))]
    owners = [ids[number % len(ids)] for number in range(len(texts))]
    captions = pd.DataFrame({"caption_id": range(len(texts)), "video_id": owners, "caption": texts})
    made = build_retrieval_set("test", ids, captions, "all")
    scores_UC = data.draw(arrays(np.float64, made.truth_UC.shape, elements=SCORES))
    found = retrieval_values(query_ranks(made, SystemScores("model", "dual", scores_UC, scores_UC.T)))

    said = {(text, clip) for text, clip in zip(texts, owners, strict=True)}
    score_of = {(text, clip): scores_UC[u, c] for u, text in enumerate(made.texts) for c, clip in enumerate(made.video_ids)}

    def rank(right: list[float], wrong: list[float]) -> int:
        return 1 + sum(value >= max(right) for value in wrong)

    t2v, v2t = [], []
    for text in texts:  # every caption asks, also one that another clip has too
        parts: dict[bool, list[float]] = {True: [], False: []}
        for clip in ids:
            parts[(text, clip) in said].append(score_of[text, clip])
        t2v.append(rank(parts[True], parts[False]))
    for clip in ids:
        parts = {True: [], False: []}
        for text in sorted(set(texts)):
            parts[(text, clip) in said].append(score_of[text, clip])
        v2t.append(rank(parts[True], parts[False]))
    for way, ranks in (("t2v", t2v), ("v2t", v2t)):
        for k in (1, 5, 10):
            assert found[f"{way}_r{k}"] == pytest.approx(100 * statistics.fmean(rank <= k for rank in ranks))
        assert found[f"{way}_medr"] == statistics.median(ranks)
        assert found[f"{way}_meanr"] == pytest.approx(statistics.fmean(ranks))


# --- questions --------------------------------------------------------------------------------------------------------


@given(st.data())
@quick
def test_answers_are_right_if_alone_on_top_and_alike_to_no_other(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(TEXTS)))
    questions = data.draw(st.integers(1, 6))
    index_QK = np.array([data.draw(st.permutations(range(len(TEXTS))))[:k] for _ in range(questions)])
    score_QK = data.draw(arrays(np.float64, (questions, k), elements=SCORES))
    ids = [f"q{number}" for number in range(questions)]
    truths = st.sampled_from([*TEXTS, "not in the list"])
    truth = {name: data.draw(truths) for name in [*ids, *(f"lost{n}" for n in range(data.draw(st.integers(0, 2))))]}
    found = answering_result(truth, ids, RankedAnswers(index_QK, score_QK), ANSWERS)

    right = 0
    for name, places, scores in zip(ids, index_QK.tolist(), score_QK.tolist(), strict=True):
        told = {TEXTS[index]: value for index, value in zip(places, scores, strict=True)}
        true = truth[name]
        others = [text for text in told if text != true]
        good = true in told and all(told[text] < told[true] and text.lower() != true.lower() for text in others)
        right += good
        assert (found.predicted[name] == true) == good
        assert found.predicted[name] in told
    assert found.accuracy == pytest.approx(100 * right / len(truth))
    said = [found.predicted.get(name, "") for name in truth]
    assert found.accuracy == pytest.approx(100 * accuracy_score(list(truth.values()), said))


@given(st.integers(1, 20), st.integers(2, 8), st.integers(0, 2**32))
@quick
def test_choices_equal_torchmetrics_where_nothing_is_tied(questions: int, options: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_QO, truth_Q = untied(rng, questions, options), rng.integers(0, options, questions)
    expected = multiclass_accuracy(torch.from_numpy(scores_QO), torch.from_numpy(truth_Q), options, average="micro")
    assert choice_accuracy(scores_QO, truth_Q) == pytest.approx(100 * float(expected))


@given(st.data())
@quick
def test_choices_are_right_if_alone_on_top(data: st.DataObject) -> None:
    """Questions have as many options as they have; one alone is right, equals are wrong."""
    widths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    rows = [data.draw(st.lists(SCORES, min_size=width, max_size=width)) for width in widths]
    truth = [data.draw(st.integers(0, width - 1)) for width in widths]
    failures = data.draw(st.integers(0, 3))
    scores_QO = np.full((len(rows), max(widths)), -np.inf)
    for index, row in enumerate(rows):
        scores_QO[index, : len(row)] = row
    right = [all(value < row[true] for i, value in enumerate(row) if i != true) for row, true in zip(rows, truth, strict=True)]
    assert choice_accuracy(scores_QO, np.array(truth), failures) == pytest.approx(100 * sum(right) / (len(rows) + failures))
    said_Q = best_candidates(scores_QO, np.arange(scores_QO.shape[1]) == np.array(truth)[:, None])
    assert (said_Q == np.array(truth)).tolist() == right
    assert all(said < width for said, width in zip(said_Q.tolist(), widths, strict=True)), "one of its own options"


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz-"), st.sampled_from("pqr")), min_size=1, max_size=20))
@quick
def test_accuracy_by_type_is_scikit_learns_of_each_type(rows: list[tuple[str, str, str]]) -> None:
    """A dash is a question without a prediction."""
    truth = {str(index): true for index, (true, _, _) in enumerate(rows)}
    predicted = {str(index): said for index, (_, said, _) in enumerate(rows) if said != "-"}
    types = {str(index): kind for index, (_, _, kind) in enumerate(rows)}
    groups: dict[str, list[tuple[str, str]]] = {}
    for true, said, kind in rows:
        groups.setdefault(kind, []).append((true, said))
    expected = {kind: 100 * accuracy_score(*zip(*group, strict=True)) for kind, group in groups.items()}
    assert accuracy_by_type(truth, predicted, types) == pytest.approx(expected)
    known = [(true, said) for true, said, _ in rows if said != "-"]
    share = accuracy(np.array([s for _, s in known]), np.array([t for t, _ in known]), failures=len(rows) - len(known))
    assert share == pytest.approx(100 * accuracy_score(*zip(*((true, said) for true, said, _ in rows), strict=True)))


# --- what is refused --------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.data())
@quick
def test_a_score_that_is_no_number_is_refused_wherever_it_stands(rows: int, columns: int, data: st.DataObject) -> None:
    scores = np.zeros((rows, columns))
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    scores[row, column] = np.nan
    truth = np.zeros(rows, dtype=np.int64)
    with pytest.raises(EvaluationError, match=f"for query {row}, candidate {column}"):
        retrieval_ranks(scores, np.ones((rows, columns), dtype=bool))
    with pytest.raises(EvaluationError, match=f"the first is 'v{row}'"):
        classified(scores, truth)
    with pytest.raises(EvaluationError, match="1 scores are NaN"):
        choice_accuracy(scores, truth)
    ids = [f"q{number}" for number in range(rows)]
    ranked = RankedAnswers(np.tile(np.arange(columns), (rows, 1)), scores)
    with pytest.raises(EvaluationError, match=f"the first is 'q{row}'"):
        answering_result(dict.fromkeys(ids, "left"), ids, ranked, ANSWERS)
