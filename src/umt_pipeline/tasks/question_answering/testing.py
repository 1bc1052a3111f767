"""Asking models the questions of a table: open ones and captions to choose from; what counts as true, and as a baseline.

A clip is decoded and encoded once, however many questions it has. One that cannot be read makes its questions wrong.

Shapes: Q questions, B questions of a batch, R clips of a batch, O options, L text length.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from umt_pipeline.core.config import Config
from umt_pipeline.evaluation.encoders import ClipLoader, all_patches, decoded_batches, view_of
from umt_pipeline.evaluation.params import PoolRule
from umt_pipeline.evaluation.workers import Tick, Workers, default_device
from umt_pipeline.models.tokenizer import clean_caption, encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.question_answering.answering import (
    CANDIDATES,
    MATCH_SHARE,
    AnswerList,
    RankedAnswers,
    rank_answers,
    score_choices,
)
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel

logger = logging.getLogger(__name__)

TypeRule = Literal["text", "first_word"]
# Questions that go through the question encoder at once.
QUESTIONS_PER_PASS = 128


class ChoiceConfig(Config):
    """How captions are chosen, by a stage-2 model as it is.

    Attributes:
        match_share: weight of the matching head's probability; the rest is that of the cosine's share.
        pool: ``frame``, as published: the mean of the frames' cosines; ``clip``: that of the clip as a whole.
    """

    match_share: float = Field(MATCH_SHARE, ge=0.0, le=1.0)
    pool: PoolRule = "frame"


class AskingConfig(Config):
    """How questions are tested.

    Attributes:
        k: answers whose likelihood is computed in full, those whose first token is likeliest; beyond the list it means all.
        parity: write and score answers as the published code does; see :mod:`umt_pipeline.tasks.question_answering.answering`.
        types: what questions are counted by: their ``text``, once cleaned, or its ``first_word`` (what, who, where, ...).
        batch_size: clips per batch.
        nproc: processes that share the clips, one per GPU. On a CPU they share the cores.
        workers: decoding threads of each process; null: as many as there are cores for it.
    """

    k: int = Field(CANDIDATES, ge=1)
    parity: bool = False
    types: TypeRule = "first_word"
    batch_size: int = Field(32, ge=1)
    nproc: int = Field(1, ge=1)
    workers: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Answered:
    """What a model said to open questions.

    Args:
        question_ids: those whose clip could be read.
        ranked: their candidates and scores.
        failures: clips that could not be read, with the reason.
    """

    question_ids: tuple[str, ...]
    ranked: RankedAnswers
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Chosen:
    """What a model said to choices.

    Args:
        question_ids: those whose clip could be read.
        scores_QO: higher is better; -inf beyond a question's own options.
        failures: clips that could not be read, with the reason.
    """

    question_ids: tuple[str, ...]
    scores_QO: np.ndarray
    failures: Mapping[str, str]


def true_answers(questions: pd.DataFrame) -> dict[str, str]:
    """Return the true answer to each open question of a table: the most frequent of ``answers``, of equals the first."""
    pairs = zip(questions["question_id"], questions["answers"], strict=True)
    return {question_id: Counter(list(answers)).most_common(1)[0][0] for question_id, answers in pairs}


def question_types(questions: pd.DataFrame, rule: TypeRule) -> dict[str, str]:
    """Return the type of each question, as ``rule`` says (:class:`AskingConfig`)."""
    cleaned = questions["question"].map(clean_caption)
    kinds = cleaned if rule == "text" else cleaned.map(lambda text: text.split(" ")[0])
    return dict(zip(questions["question_id"], kinds, strict=True))


def majority_answers(training: pd.DataFrame, questions: pd.DataFrame) -> dict[str, str]:
    """Answer each question by what was most often said to the same text in training, or to any question if it is new there.

    What a model must beat that sees clips. Of equally frequent answers the first of the alphabet is taken.

    Args:
        training: columns question and answer, a row per answer given.
        questions: columns question_id and question.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, answer in zip(training["question"].map(clean_caption), training["answer"], strict=True):
        counts[text][answer] += 1
    best = {text: _most_common(counter) for text, counter in counts.items()}
    overall = _most_common(Counter(training["answer"]))
    cleaned = questions["question"].map(clean_caption)
    return {name: best.get(text, overall) for name, text in zip(questions["question_id"], cleaned, strict=True)}


def accuracy_by_type(
    truth: Mapping[str, str], predicted: Mapping[str, str], types: Mapping[str, str]
) -> dict[str, float]:
    """Return percent right of each type of question; a question without a prediction is wrong."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for question_id, answer in truth.items():
        right[types[question_id]].append(predicted.get(question_id) == answer)
    return {kind: 100.0 * sum(found) / len(found) for kind, found in sorted(right.items())}


def answer_questions(
    workers: Workers[tuple[QuestionAnsweringModel, PreTrainedTokenizerFast]],
    questions: pd.DataFrame,
    answers: AnswerList,
    load: ClipLoader,
    max_length: int,
    config: AskingConfig,
    title: str,
) -> Answered:
    """Rank the answers of a list for open questions.

    Args:
        workers: hold the model and its tokenizer, and share the clips; each puts the model on its GPU if it has one, and in
            eval mode.
        questions: columns question_id, video_id and question.
        answers: the list.
        load: reads clips; it can be sent to other processes.
        max_length: longest question in tokens, as in training.
        config: candidates and batches.
        title: for the progress bar.

    Raises:
        EvaluationError: a process ended without an error of its own.
    """
    run = functools.partial(_answer, answers, load, max_length, config, workers.threads(config.workers))
    parts = workers.share(run, _batches(questions, config.batch_size), title, "question")
    return Answered(
        tuple(name for part in parts for name in part.question_ids),
        RankedAnswers.join([part.ranked for part in parts]),
        _all_failures([part.failures for part in parts], title),
    )


@torch.inference_mode()
def _answer(
    answers: AnswerList,
    load: ClipLoader,
    max_length: int,
    config: AskingConfig,
    threads: int,
    loaded: tuple[QuestionAnsweringModel, PreTrainedTokenizerFast],
    batches: Sequence[pd.DataFrame],
    tick: Tick,
) -> Answered:
    device = default_device()
    (model, tokenizer), answers = loaded, answers.to(device)
    model = model.to(device).eval()
    asked: list[str] = []
    candidates = min(config.k, len(answers.texts))
    parts = [RankedAnswers(np.empty((0, candidates), dtype=np.int64), np.empty((0, candidates)))]
    failures: dict[str, str] = {}
    for seen in _look(batches, model.config.vision, load, config.batch_size, threads, failures, tick):
        tokens_RVW = model.encode_clips(seen.patches_RVP, seen.visible_1V)
        for start in range(0, len(seen.questions), QUESTIONS_PER_PASS):
            some = seen.questions.iloc[start : start + QUESTIONS_PER_PASS]
            ids_BL, mask_BL = encode_batch(tokenizer, some["question"].tolist(), max_length)
            clip_B = torch.tensor(some["row"].to_numpy(), device=device)
            question = model.encode_questions(tokens_RVW, ids_BL.to(device), mask_BL.to(device), clip_B)
            parts.append(rank_answers(model, question, answers, config.k))
            asked += some["question_id"].tolist()
    return Answered(tuple(asked), RankedAnswers.join(parts), failures)


def choose_options(
    workers: Workers[tuple[VideoTextModel, PreTrainedTokenizerFast]],
    questions: pd.DataFrame,
    load: ClipLoader,
    choice: ChoiceConfig,
    config: AskingConfig,
    title: str,
) -> Chosen:
    """Score the options of multiple-choice questions; an option is read behind the question's text, if it has one.

    Args:
        workers: hold the model and its tokenizer, and share the clips; each puts the model on its GPU if it has one, and in
            eval mode.
        questions: columns question_id, video_id, question and options.
        load: reads clips; it can be sent to other processes.
        choice: the scores.
        config: batches.
        title: for the progress bar.

    Raises:
        EvaluationError: a process ended without an error of its own.
    """
    widest = max(map(len, questions["options"]), default=1)
    run = functools.partial(_choose, widest, load, choice, config, workers.threads(config.workers))
    parts = workers.share(run, _batches(questions, config.batch_size), title, "question")
    return Chosen(
        tuple(name for part in parts for name in part.question_ids),
        np.concatenate([part.scores_QO for part in parts]),
        _all_failures([part.failures for part in parts], title),
    )


@torch.inference_mode()
def _choose(
    widest: int,
    load: ClipLoader,
    choice: ChoiceConfig,
    config: AskingConfig,
    threads: int,
    loaded: tuple[VideoTextModel, PreTrainedTokenizerFast],
    batches: Sequence[pd.DataFrame],
    tick: Tick,
) -> Chosen:
    device, (model, tokenizer) = default_device(), loaded
    model = model.to(device).eval()
    asked: list[str] = []
    parts = [np.empty((0, widest))]
    failures: dict[str, str] = {}
    for seen in _look(batches, model.config.vision, load, config.batch_size, threads, failures, tick):
        for width, questions in seen.questions.groupby(seen.questions["options"].map(len), sort=False):
            width = int(width)
            for start in range(0, len(questions), config.batch_size):
                some = questions.iloc[start : start + config.batch_size]
                ids_XL, mask_XL = _encode_options(model, tokenizer, _texts(some))
                ids_BOL, mask_BOL = (x.to(device).unflatten(0, (len(some), width)) for x in (ids_XL, mask_XL))
                clip_B = torch.tensor(some["row"].to_numpy(), device=device)
                scores_BO = score_choices(
                    model, seen.patches_RVP[clip_B], seen.visible_1V, ids_BOL, mask_BOL, choice.pool, choice.match_share
                )
                own = scores_BO.double().cpu().numpy()
                parts.append(np.pad(own, ((0, 0), (0, widest - width)), constant_values=-np.inf))
                asked += some["question_id"].tolist()
    return Chosen(tuple(asked), np.concatenate(parts), failures)


def said_options(scores_QO: np.ndarray, truth_Q: np.ndarray) -> np.ndarray:
    """Return the option that was said to each question, int64 [Q]: of equally good ones the first that is not the true one."""
    best_QO = scores_QO == scores_QO.max(axis=1, keepdims=True)
    wrong_QO = best_QO & (np.arange(scores_QO.shape[1]) != truth_Q[:, None])
    return np.where(wrong_QO.any(axis=1), wrong_QO.argmax(axis=1), best_QO.argmax(axis=1))


def chance(questions: pd.DataFrame) -> float:
    """Return the percent that drawing lots among the options would get right."""
    return 100.0 * float(np.mean([1.0 / len(options) for options in questions["options"]]))


def _encode_options(
    model: VideoTextModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Tokenise as retrieval does, padded to the longest text only."""
    length = min(tokenizer.model_max_length, model.config.text.max_positions)
    return encode_batch(tokenizer, texts, length, clean=model.config.clean_captions, pad_to=1)


def _texts(questions: pd.DataFrame) -> list[str]:
    """Return what is read of each option of each question."""
    pairs = zip(questions["question"], questions["options"], strict=True)
    return [f"{text} {option}".strip() for text, options in pairs for option in options]


def _batches(questions: pd.DataFrame, clips: int) -> list[pd.DataFrame]:
    """Cut questions into those about so many clips each; clips come in order of appearance, with all of their questions."""
    if questions.empty:
        return []
    number_Q = pd.factorize(questions["video_id"])[0]
    return [part for _, part in questions.iloc[number_Q.argsort(kind="stable")].groupby(np.sort(number_Q) // clips)]


def _most_common(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


@dataclass(frozen=True)
class _Seen:
    """Clips of a batch that could be read: patches [R, V, P] on the device, their indices [1, V], and what is asked.

    ``questions`` has the columns of the table and ``row``, the clip's.
    """

    questions: pd.DataFrame
    patches_RVP: Tensor
    visible_1V: Tensor


def _look(
    batches: Sequence[pd.DataFrame],
    vision: ViTConfig,
    load: ClipLoader,
    batch_size: int,
    threads: int,
    failures: dict[str, str],
    tick: Tick,
) -> Iterator[_Seen]:
    """Decode clips ahead of time.

    Args:
        batches: questions about ``batch_size`` clips each, about fewer in the last.
        vision: the encoder of the clips.
        load: reads clips.
        batch_size: likewise.
        threads: that decode.
        failures: gets the clips that could not be read, with the reason.
        tick: is called with the number of questions that are done.
    """
    view, device = view_of(vision), default_device()
    video_ids = [video_id for batch in batches for video_id in batch["video_id"].unique()]
    found = decoded_batches(video_ids, [view], load, batch_size, threads)
    for batch, (clips, frames, failed) in zip(batches, found, strict=True):
        failures |= failed
        if clips:
            row_of = {video_id: row for row, video_id in enumerate(clips)}
            asked = batch[batch["video_id"].isin(clips)]
            asked = asked.assign(row=asked["video_id"].map(row_of))
            yield _Seen(asked, *all_patches(torch.from_numpy(frames[view]).to(device), vision))
        tick(len(batch))


def _all_failures(parts: Sequence[Mapping[str, str]], title: str) -> dict[str, str]:
    failures = {video_id: reason for part in parts for video_id, reason in part.items()}
    for video_id, reason in failures.items():
        logger.warning("%s: questions about video %s count as wrong: %s", title, video_id, reason)
    return failures
