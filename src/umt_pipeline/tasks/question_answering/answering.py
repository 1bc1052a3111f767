"""Questions about clips: ranking the answers of a list, and choosing between captions.

Shapes: Q questions, B questions of a batch, N answers in the list, A answer length, K candidates scored in full, O options,
L caption length, Y vocabulary size, X = B * O.

Source: UMT section 4.2 and the published code. An answer's score is the log-probability of all its tokens. (The published code
adds the first token's a second time and ends an answer with two [SEP]: ``parity=True`` does the same, for its files.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.compute.precision import full_precision
from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError, accuracy
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.tasks.question_answering.model import Answers, Question, QuestionAnsweringModel, encode_answers

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

# The published number of candidates, most tokens of an answer, and share of the matching head in a choice.
CANDIDATES, PARITY_LENGTH, MATCH_SHARE = 128, 5, 0.7
# Answers that go through the decoder at once: their vocabulary logits are what takes memory.
ROWS = 1024


@dataclass(frozen=True)
class AnswerList:
    """The answers that a model chooses from.

    Args:
        texts: N different answers.
        tokens: their ids and mask [N, A].
        group_N: answers with the same tokens have the same number: no model can tell them apart.
        parity: whether they are written and scored as in the published code.
        cut: answers that ``parity`` cut, as the published code does; otherwise none is ever cut.
    """

    texts: tuple[str, ...]
    tokens: Answers
    group_N: np.ndarray
    parity: bool = False
    cut: tuple[str, ...] = ()

    def to(self, device: torch.device) -> AnswerList:
        """Return the same list with its tokens on a device."""
        return replace(self, tokens=Answers(*(tensor.to(device) for tensor in self.tokens)))


@dataclass(frozen=True)
class RankedAnswers:
    """The candidates of some questions, in order of their first token's probability, and their scores.

    Args:
        index_QK: indices into the answer list.
        score_QK: log-probabilities, higher is better.
    """

    index_QK: np.ndarray
    score_QK: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[RankedAnswers]) -> RankedAnswers:
        """Put batches together."""
        return cls(np.concatenate([part.index_QK for part in parts]), np.concatenate([part.score_QK for part in parts]))


@dataclass(frozen=True)
class AnsweringResult:
    """What a model answered.

    Args:
        accuracy: share of right answers in percent; every question of the set counts, those without a prediction as wrong.
        predicted: the answer to each question that has one.
        not_in_list: questions whose true answer is not in the answer list: wrong.
        tied: questions whose true answer shares the best score with another answer: wrong.
    """

    accuracy: float
    predicted: dict[str, str]
    not_in_list: tuple[str, ...]
    tied: tuple[str, ...]


def make_answer_list(
    tokenizer: PreTrainedTokenizerFast, answers: Sequence[str], max_positions: int, *, parity: bool = False
) -> AnswerList:
    """Tokenise the answers to choose from.

    Args:
        tokenizer: of the model.
        answers: as in the ground truth, letter by letter: the tokenizer lowers the case, the comparison does not.
        max_positions: longest text that the model takes.
        parity: write them as in the published code: a second [SEP], and at most five tokens.

    Raises:
        NoDataError: there is no answer.
        EvaluationError: an answer is there twice, or is longer than the model takes.
    """
    texts = tuple(answers)
    if not texts:
        raise NoDataError("answer list: expected at least one answer, found none")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise EvaluationError(f"answer list: {twice!r} is there {texts.count(twice)} times, expected each answer once")
    tokens = encode_answers(tokenizer, [f"{text} {tokenizer.sep_token}" for text in texts] if parity else texts)
    lengths_N, cut = tokens.mask.sum(dim=1), ()
    if parity:
        cut = tuple(texts[index] for index in (lengths_N > PARITY_LENGTH).nonzero().flatten().tolist())
        tokens = _cut(tokens, tokenizer.sep_token_id)
        lengths_N = tokens.mask.sum(dim=1)
    if int(lengths_N.max()) > max_positions:
        longest = int(lengths_N.argmax())
        raise EvaluationError(
            f"answer list: {texts[longest]!r} has {int(lengths_N[longest])} tokens, but the model has "
            f"{max_positions} positions: leave it out"
        )
    group_N = torch.unique(tokens.ids, dim=0, return_inverse=True)[1].numpy()
    return AnswerList(texts, tokens, group_N, parity, cut)


@torch.no_grad()
def rank_answers(
    model: QuestionAnsweringModel, question: Question, answers: AnswerList, k: int = CANDIDATES, rows: int = ROWS
) -> RankedAnswers:
    """Score the answers whose first token is likeliest.

    Args:
        model: in eval mode.
        question: a batch from :meth:`QuestionAnsweringModel.encode`.
        answers: on the model's device.
        k: candidates to score in full; beyond the length of the list it means all. Of equals at the border, as answers with
            the same first token are, those that come first in the list are taken.
        rows: answers that go through the decoder at once.
    """
    ids_NA, mask_NA = answers.tokens
    # Every answer begins with [CLS], and its second token is the first one to be guessed.
    first_BY = model.first_log_probabilities(question, int(ids_NA[0, 0]))
    first_BN = first_BY.index_select(1, ids_NA[:, 1])
    order_BK = first_BN.argsort(dim=1, descending=True, stable=True)[:, :k]
    B, K = order_BK.shape
    score_BK = first_BN.gather(1, order_BK) if answers.parity else first_BN.new_zeros(B, K)
    width = min(K, rows)
    height = max(1, rows // width)
    for top in range(0, B, height):
        part = Question(*(tensor[top : top + height] for tensor in question))
        for left in range(0, K, width):
            index = order_BK[top : top + height, left : left + width]
            chosen = Answers(ids_NA[index], mask_NA[index])
            score_BK[top : top + height, left : left + width] += model.log_likelihoods(part, chosen)
    return RankedAnswers(order_BK.cpu().numpy(), score_BK.double().cpu().numpy())


def answering_result(
    truth: Mapping[str, str], question_ids: Sequence[str], ranked: RankedAnswers, answers: AnswerList
) -> AnsweringResult:
    """Compare the best answers with the true ones, letter by letter.

    Args:
        truth: the true answer to each question of the set.
        question_ids: Q different questions, those that ``ranked`` is about.
        ranked: their scored candidates.
        answers: the list.

    Raises:
        NoDataError: the set has no question.
        EvaluationError: a score is NaN, or ``question_ids`` has another length than ``ranked``, a question twice, or one that
            is not in the set.
    """
    if not truth:
        raise NoDataError("question answering: expected at least one question, found none")
    answered = set(question_ids)
    if len(question_ids) != len(ranked.index_QK) or len(answered) != len(question_ids) or not answered <= truth.keys():
        unknown = sorted(answered - truth.keys())
        raise EvaluationError(
            f"question answering: expected one prediction for each of {len(question_ids)} different questions of the set, "
            f"found {len(ranked.index_QK)} for {len(answered)}, {len(unknown)} of them not in the set {unknown[:3]}"
        )
    broken = np.isnan(ranked.score_QK).any(axis=1)
    if broken.any():
        raise EvaluationError(
            f"question answering: {int(broken.sum())} of {len(broken)} questions have a score that is NaN, the first is "
            f"{question_ids[int(broken.argmax())]!r}. Check the model's weights"
        )
    index_of = {text: index for index, text in enumerate(answers.texts)}
    true_Q1 = np.array([[index_of.get(truth[question], -1)] for question in question_ids], dtype=np.int64).reshape(-1, 1)
    # Answers with the same tokens are equals, even if rounding made one score a little higher.
    group_QK = answers.group_N[ranked.index_QK]
    top_Q1 = ranked.score_QK.argmax(axis=1)[:, None]
    best_QK = ranked.score_QK == np.take_along_axis(ranked.score_QK, top_Q1, axis=1)
    best_QK |= group_QK == np.take_along_axis(group_QK, top_Q1, axis=1)
    false_QK = best_QK & (ranked.index_QK != true_Q1)
    has_false_Q = false_QK.any(axis=1)
    # Pessimistic: where a wrong answer is as good as the true one, the wrong one is what was said.
    choice_Q = np.where(has_false_Q, false_QK.argmax(axis=1), best_QK.argmax(axis=1))
    best_Q = np.take_along_axis(ranked.index_QK, choice_Q[:, None], axis=1)[:, 0]
    tied_Q = has_false_Q & (best_QK & ~false_QK).any(axis=1)
    return AnsweringResult(
        accuracy=accuracy(best_Q, true_Q1[:, 0], failures=len(truth) - len(answered)),
        predicted={question: answers.texts[said] for question, said in zip(question_ids, best_Q.tolist(), strict=True)},
        not_in_list=tuple(question for question, answer in truth.items() if answer not in index_of),
        tied=tuple(question for question, tied in zip(question_ids, tied_Q.tolist(), strict=True) if tied),
    )


def choice_scores(
    match_BO2: Tensor, cosine_BO: Tensor, temperature: Tensor | float, match_share: float = MATCH_SHARE
) -> Tensor:
    """Return the score [B, O] of each option; as published 0.7 times its match, 0.3 times its share of the similarity.

    Args:
        match_BO2: logits of the matching head, class 1 is a match.
        cosine_BO: cosines of clip and option.
        temperature: the model's divisor of cosines.
        match_share: weight of the match; the rest is that of the similarity.
    """
    match_BO = match_BO2.float().softmax(dim=-1)[..., 1]
    return match_share * match_BO + (1.0 - match_share) * (cosine_BO.float() / temperature).softmax(dim=-1)


@torch.no_grad()
def score_choices(
    model: VideoTextModel,
    patches_BVP: Tensor,
    visible_BV: Tensor,
    ids_BOL: Tensor,
    mask_BOL: Tensor,
    pool: Literal["clip", "frame"] = "frame",
    match_share: float = MATCH_SHARE,
) -> Tensor:
    """Score the options of multiple-choice questions [B, O], with a retrieval model.

    Args:
        model: in eval mode.
        patches_BVP: normalised patches.
        visible_BV: their positions.
        ids_BOL: tokens of the O captions to choose from.
        mask_BOL: True at tokens.
        pool: ``frame``, as published, takes the mean of the frames' cosines; ``clip`` that of the clip as a whole.
        match_share: weight of the match; the rest is that of the similarity.
    """
    B, options = ids_BOL.shape[:2]
    tokens_BVD, video = model.encode_video(patches_BVP, visible_BV, pool)
    text_XLD, text_XE = model.encode_text(ids_BOL.flatten(0, 1), mask_BOL.flatten(0, 1))
    video_BTE = video if pool == "frame" else video.unsqueeze(1)
    with full_precision(video_BTE.device):
        cosine_BO = torch.einsum("bte,boe->bto", video_BTE, text_XE.unflatten(0, (B, options))).mean(dim=1)
    clips_X = torch.arange(B, device=ids_BOL.device).repeat_interleave(options)
    fused_BVD = model.fusion_tokens(tokens_BVD, visible_BV)
    match_X2 = model.match_logits(text_XLD, mask_BOL.flatten(0, 1), fused_BVD, clips_X)
    return choice_scores(match_X2.unflatten(0, (B, options)), cosine_BO, model.temperature, match_share)


def choice_accuracy(scores_QO: np.ndarray, truth_Q: np.ndarray, failures: int = 0) -> float:
    """Return the share of questions in percent whose true option scores above every other one; a tie is wrong.

    Args:
        scores_QO: higher is better.
        truth_Q: the true option, 0 to O - 1.
        failures: questions beyond these that could not be scored; each counts as wrong.

    Raises:
        NoDataError: there is no question at all.
        EvaluationError: shapes do not fit, a score is NaN, or a true option is none of the options.
    """
    scores_QO, truth_Q = np.asarray(scores_QO), np.asarray(truth_Q)
    if scores_QO.ndim != 2 or truth_Q.shape != scores_QO.shape[:1]:
        found = f"{scores_QO.shape} and {truth_Q.shape}"
        raise EvaluationError(f"multiple choice: expected scores [Q, O] and truths [Q], found {found}")
    options = scores_QO.shape[1]
    if len(truth_Q) and (truth_Q.min() < 0 or truth_Q.max() >= options):
        found = f"{truth_Q.min()} to {truth_Q.max()}"
        raise EvaluationError(f"multiple choice: expected true options 0 to {options - 1}, found {found}")
    if np.isnan(scores_QO).any():
        raise EvaluationError(f"multiple choice: {int(np.isnan(scores_QO).sum())} scores are NaN. Check the model's weights")
    true_Q1 = np.take_along_axis(scores_QO, truth_Q[:, None].astype(np.int64), axis=1)
    right_Q = (scores_QO >= true_Q1).sum(axis=1) == 1
    return accuracy(right_Q, np.ones_like(right_Q), failures)


def _cut(tokens: Answers, sep_id: int) -> Answers:
    ids, mask = tokens.ids[:, :PARITY_LENGTH].clone(), tokens.mask[:, :PARITY_LENGTH]
    # The tokenizer's own [SEP] stays the last token of an answer that was cut.
    ids[tokens.mask.sum(dim=1) > PARITY_LENGTH, -1] = sep_id
    return Answers(ids, mask)
