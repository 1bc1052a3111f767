"""Answers are ranked and captions chosen as a plain loop over the published rules does it; luck counts for nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.question_answering.answering import (
    AnswerList,
    RankedAnswers,
    answering_result,
    choice_accuracy,
    choice_scores,
    make_answer_list,
    rank_answers,
    score_choices,
)
from umt_pipeline.tasks.question_answering.model import Question, QuestionAnsweringConfig, QuestionAnsweringModel

QUESTIONS = ["what moves left", "what stops", "what is it", "where does the star go"]
ANSWERS = ["a red circle", "a star", "left", "a blue star stops", "a", "star", "red", "it moves left", "circle"]
TOKENIZER = train_wordpiece([*QUESTIONS, *ANSWERS], vocab_size=70)
VISION = ViTConfig(image_size=16, patch_size=8, frames=2, dim=24, depth=1, heads=2)
TEXT = TextConfig(
    vocab_size=70, dim=16, layers=4, fusion_layer=2, heads=2, mlp_dim=32, max_positions=12, vision_dim=24, dropout=0.0
)
Q, V = len(QUESTIONS), 8


@pytest.fixture(scope="module")
def model() -> QuestionAnsweringModel:
    torch.manual_seed(3)
    made = QuestionAnsweringModel(QuestionAnsweringConfig(vision=VISION, text=TEXT)).eval()
    with torch.no_grad():  # Larger weights, so that scores lie apart.
        made.decoder.embeddings.word_embeddings.weight.mul_(20.0)
    return made


@pytest.fixture(scope="module")
def question(model: QuestionAnsweringModel) -> Question:
    patches = torch.randn(Q, V, VISION.patch_values, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.encode(patches, torch.arange(V).unsqueeze(0), *encode_batch(TOKENIZER, QUESTIONS, 8))


@torch.no_grad()
def brute_force(
    model: QuestionAnsweringModel, question: Question, answers: list[str], k: int, parity: bool
) -> list[list[tuple[int, float]]]:
    """The published rules for one question, one answer and one token at a time: candidates and their scores."""
    rows = []
    for states, mask in zip(question.states_BLD, question.mask_BL, strict=True):
        alone = Question(states[mask].unsqueeze(0), mask[mask].unsqueeze(0))
        pieces = [TOKENIZER.tokenize(answer) for answer in answers]
        if parity:
            pieces = [[*words, "[SEP]"][:3] for words in pieces]  # Five tokens at most, [CLS] and the last [SEP] among them.
        scored = []
        for index, words in enumerate(pieces):
            ids = TOKENIZER.convert_tokens_to_ids(["[CLS]", *words, "[SEP]"])
            steps = []
            for length in range(1, len(ids)):
                seen = torch.tensor(ids[:length]).reshape(1, 1, -1)
                logits = model.decoder.logits(model.decoder(seen, alone)[0, 0, -1])
                steps.append(float(logits.log_softmax(dim=-1)[ids[length]]))
            scored.append((index, steps[0], math.fsum(steps) + (steps[0] if parity else 0.0)))
        chosen = sorted(scored, key=lambda item: (-round(item[1], 5), item[0]))[:k]
        rows.append([(index, total) for index, _, total in chosen])
    return rows


@pytest.mark.parametrize("parity", [False, True])
@pytest.mark.parametrize("k", [1, 4, 9, 128])
def test_ranking_is_that_of_a_plain_loop(
    model: QuestionAnsweringModel, question: Question, k: int, parity: bool
) -> None:
    answers = make_answer_list(TOKENIZER, ANSWERS, 12, parity=parity)
    expected = brute_force(model, question, ANSWERS, k, parity)
    for rows in (1, 3, 10, 1024):
        ranked = rank_answers(model, question, answers, k, rows)
        assert ranked.index_QK.shape == (Q, min(k, len(ANSWERS)))
        for found_index, found_score, row in zip(ranked.index_QK, ranked.score_QK, expected, strict=True):
            assert found_index.tolist() == [index for index, _ in row]
            np.testing.assert_allclose(found_score, [score for _, score in row], atol=2e-5)


def test_the_first_token_counts_once_and_parity_counts_it_twice(model: QuestionAnsweringModel, question: Question) -> None:
    """With one-word answers of a single token, both differ by exactly that token and by the second [SEP]."""
    plain = make_answer_list(TOKENIZER, ["left", "star"], 12)
    assert plain.tokens.ids.shape == (2, 3)
    twice = AnswerList(plain.texts, plain.tokens, plain.group_N, parity=True)
    first = model.first_log_probabilities(question, TOKENIZER.cls_token_id)[:, plain.tokens.ids[:, 1]].detach()
    once, double = (rank_answers(model, question, answers) for answers in (plain, twice))
    difference = double.score_QK - once.score_QK
    np.testing.assert_allclose(difference, np.take_along_axis(first.numpy(), once.index_QK, axis=1), atol=1e-6)
    parity = make_answer_list(TOKENIZER, ["left", "star"], 12, parity=True)
    assert TOKENIZER.convert_ids_to_tokens(parity.tokens.ids[0].tolist()) == ["[CLS]", "left", "[SEP]", "[SEP]"]


def test_only_parity_cuts_answers_and_it_says_which() -> None:
    long = "a red circle moves left"
    whole, cut = (make_answer_list(TOKENIZER, ["left", long], 12, parity=parity) for parity in (False, True))
    assert whole.cut == ()
    assert TOKENIZER.decode(whole.tokens.ids[1].tolist()) == f"[CLS] {long} [SEP]"
    assert cut.cut == (long,)
    assert TOKENIZER.decode(cut.tokens.ids[1].tolist()) == "[CLS] a red circle [SEP]"
    with pytest.raises(EvaluationError, match="'a red circle moves left' has 7 tokens, but the model has 6 positions"):
        make_answer_list(TOKENIZER, ["left", long], 6)
    with pytest.raises(EvaluationError, match="'left' is there 2 times"):
        make_answer_list(TOKENIZER, ["left", "star", "left"], 12)
    with pytest.raises(NoDataError):
        make_answer_list(TOKENIZER, [], 12)


def result(
    truth: dict[str, str], scores: list[list[float]], texts: tuple[str, ...] = ("left", "star", "red")
) -> tuple[Any, ...]:
    answers = make_answer_list(TOKENIZER, texts, 12)
    ranked = RankedAnswers(np.tile(np.arange(len(texts)), (len(scores), 1)), np.array(scores))
    found = answering_result(truth, [f"q{row}" for row in range(len(scores))], ranked, answers)
    return found.accuracy, found.predicted, found.not_in_list, found.tied


def test_what_counts_as_wrong_is_listed() -> None:
    truth = {"q0": "left", "q1": "star", "q2": "Left", "q3": "red", "q4": "red", "q5": "star"}
    scores = [[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-2.0, -1.0, -1.0], [-9.0, -9.5, -0.1]]
    accuracy, predicted, absent, tied = result(truth, scores)
    assert accuracy == pytest.approx(100.0 * 2 / 6), "q0 and q4 alone are right, q5 has no prediction"
    assert predicted == {"q0": "left", "q1": "left", "q2": "left", "q3": "star", "q4": "red"}
    assert (absent, tied) == (("q2",), ("q3",))


def test_a_constant_score_is_always_wrong() -> None:
    accuracy, _, _, tied = result({"q0": "left", "q1": "red"}, [[0.0] * 3] * 2)
    assert accuracy == 0.0
    assert tied == ("q0", "q1")


def test_answers_with_the_same_tokens_are_equals_whatever_rounding_says() -> None:
    accuracy, predicted, _, tied = result({"q0": "left"}, [[-1.0, -1.1, -5.0]], ("left", "Left", "red"))
    assert (accuracy, predicted, tied) == (0.0, {"q0": "Left"}, ("q0",))
    accuracy, _, _, tied = result({"q0": "red"}, [[-2.0, -2.1, -1.0]], ("left", "Left", "red"))
    assert (accuracy, tied) == (100.0, ())


def test_refusals_of_predictions() -> None:
    with pytest.raises(EvaluationError, match="1 of 1 questions have a score that is NaN, the first is 'q0'"):
        result({"q0": "left"}, [[math.nan, 0.0, 0.0]])
    with pytest.raises(EvaluationError, match=r"1 of them not in the set \['q1'\]"):
        result({"q0": "left"}, [[0.0] * 3] * 2)
    with pytest.raises(NoDataError):
        result({}, [])
    parts = [RankedAnswers(np.zeros((n, 2), dtype=np.int64), np.zeros((n, 2))) for n in (1, 2)]
    assert RankedAnswers.join(parts).index_QK.shape == (3, 2)


def test_choice_is_the_published_mixture() -> None:
    match = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
    cosine, temperature = torch.tensor([[0.2, 0.3]]), 0.1
    yes = [math.e / (1 + math.e), 1 / (1 + math.e**2)]
    share = [math.e**2 / (math.e**2 + math.e**3), math.e**3 / (math.e**2 + math.e**3)]
    expected = [0.7 * a + 0.3 * b for a, b in zip(yes, share, strict=True)]
    assert choice_scores(match, cosine, temperature)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("pool", ["clip", "frame"])
@torch.no_grad()
def test_choices_are_scored_as_one_pair_at_a_time(pool: str) -> None:
    torch.manual_seed(5)
    model = VideoTextModel(VideoTextConfig(vision=VISION, text=TEXT, embed_dim=8)).eval()
    patches, visible = torch.randn(2, V, VISION.patch_values), torch.arange(V).expand(2, V)
    options = [["a red circle", "a star", "left"], ["star", "red", "a blue star stops"]]
    ids, mask = (torch.stack(part) for part in zip(*(encode_batch(TOKENIZER, row, 8) for row in options), strict=True))
    found_BO = score_choices(model, patches, visible, ids, mask, pool)  # type: ignore[arg-type]
    for b in range(2):
        one, cosines, matches = patches[b : b + 1], [], []
        for o in range(3):
            tokens = model.vision(one, visible[b : b + 1])
            text, text_E = model.encode_text(ids[b, o : o + 1], mask[b, o : o + 1])
            pooled = tokens.reshape(2, 4, -1).mean(dim=1) if pool == "frame" else tokens.mean(dim=1)
            video: Tensor = F.normalize(model.vision_proj(model.pool_norm(pooled)), dim=-1)
            cosines.append(float((video @ text_E[0]).mean()))
            matches.append(float(model.match_logits(text, mask[b, o : o + 1], tokens).softmax(dim=-1)[0, 1]))
        shares = torch.softmax(torch.tensor(cosines) / 0.07, dim=0).tolist()
        expected = [0.7 * match + 0.3 * share for match, share in zip(matches, shares, strict=True)]
        assert found_BO[b].tolist() == pytest.approx(expected, abs=1e-5)


def test_accuracy_of_choices() -> None:
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [0.2, 0.1]])
    assert choice_accuracy(scores, np.array([1, 0, 0])) == pytest.approx(200 / 3), "the tie is wrong"
    assert choice_accuracy(scores, np.array([1, 0, 0]), failures=1) == 50.0
    with pytest.raises(EvaluationError, match="expected true options 0 to 1, found 0 to 2"):
        choice_accuracy(scores, np.array([0, 1, 2]))
    with pytest.raises(EvaluationError, match="1 scores are NaN"):
        choice_accuracy(np.array([[math.nan, 1.0]]), np.array([1]))
    with pytest.raises(EvaluationError, match=r"expected scores \[Q, O\]"):
        choice_accuracy(scores, np.array([1]))
    with pytest.raises(NoDataError):
        choice_accuracy(np.zeros((0, 5)), np.zeros(0, dtype=int))
