"""Testing models on the questions of a table: open ones and captions to choose from; what counts as true, and as a baseline.

A clip is decoded and encoded once, however many questions it has. One that cannot be read makes its questions wrong.

Shapes: Q questions, B questions of a batch, R clips of a batch, V tokens of a clip, P values per patch, Z vision width,
O options, X = B * O, L text length.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.core.config import Config
from umt_pipeline.evaluation.encoders import ClipLoader, decoded_batches, view_of
from umt_pipeline.evaluation.params import PoolRule, WorkParams
from umt_pipeline.evaluation.workers import Tick, Workers, default_device, work_precision
from umt_pipeline.models.tokenizer import clean_caption, encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import all_patches
from umt_pipeline.tasks.question_answering.answering import (
    CANDIDATES,
    MATCH_SHARE,
    AnswerList,
    RankedAnswers,
    rank_answers,
    score_choices,
)
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

TypeRule = Literal["text", "first_word"]
Model = TypeVar("Model", QuestionAnsweringModel, VideoTextModel)
Scores = TypeVar("Scores")
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


class QuestionTest(WorkParams):
    """How questions are tested.

    Attributes:
        k: answers whose likelihood is computed in full, those whose first token is likeliest; beyond the list it means all.
        parity: write and score answers as the published code does, a second [SEP] and the first token's score twice.
        types: what questions are counted by: their ``text``, once cleaned, or its ``first_word`` (what, who, where, ...).
    """

    k: int = Field(CANDIDATES, ge=1)
    parity: bool = False
    types: TypeRule = "first_word"


@dataclass(frozen=True)
class Scored(Generic[Scores]):
    """What a model says of questions.

    Args:
        question_ids: those whose clip could be read.
        scores: theirs.
        failures: clips that could not be read, with the reason.
    """

    question_ids: tuple[str, ...]
    scores: Scores
    failures: Mapping[str, str]


def true_answers(questions: pd.DataFrame) -> dict[str, str]:
    """Return the true answer to each open question of a table: the most frequent of ``answers``, of equals the first."""
    pairs = zip(questions["question_id"], questions["answers"], strict=True)
    return {question_id: Counter(list(answers)).most_common(1)[0][0] for question_id, answers in pairs}


def question_types(questions: pd.DataFrame, rule: TypeRule) -> dict[str, str]:
    """Return the type of each question, as ``rule`` says (:class:`QuestionTest`)."""
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


def accuracy_by_type(truth: Mapping[str, str], predicted: Mapping[str, str], types: Mapping[str, str]) -> dict[str, float]:
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
    config: QuestionTest,
    title: str,
) -> Scored[RankedAnswers]:
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
    score = functools.partial(_rank, answers, max_length, config.k)
    question_ids, parts, failures = _share(workers, questions, score, load, config, title)
    shape = (0, min(config.k, len(answers.texts)))
    none = RankedAnswers(np.empty(shape, dtype=np.int64), np.empty(shape))
    return Scored(question_ids, RankedAnswers.join([none, *parts]), failures)


def choose_options(
    workers: Workers[tuple[VideoTextModel, PreTrainedTokenizerFast]],
    questions: pd.DataFrame,
    load: ClipLoader,
    choice: ChoiceConfig,
    config: QuestionTest,
    title: str,
) -> Scored[np.ndarray]:
    """Score the options of multiple-choice questions; an option is encoded behind the question's text, if it has one.

    Workers, ``load`` and ``title`` are as in :func:`answer_questions`; the table also has a column ``options``.

    Returns:
        Scores [Q, O], higher is better, -inf beyond a question's own options.

    Raises:
        EvaluationError: a process ended without an error of its own.
    """
    most = max(map(len, questions["options"]), default=1)
    score = functools.partial(_score_options, most, choice, config.batch_size)
    question_ids, parts, failures = _share(workers, questions, score, load, config, title)
    return Scored(question_ids, np.concatenate([np.empty((0, most)), *parts]), failures)


@dataclass(frozen=True)
class _Clips:
    """Clips that could be read: patches [R, V, P] on the device, their indices [1, V], and the questions about them.

    ``questions`` has the columns of the table and ``row``, the clip's.
    """

    questions: pd.DataFrame
    patches_RVP: Tensor
    visible_1V: Tensor


# Scores questions about some clips with what is loaded, a few at a time: their ids, and their scores.
_Score = Callable[[Model, "PreTrainedTokenizerFast", _Clips], Iterator[tuple[list[str], Scores]]]


def _rank(
    answers: AnswerList,
    max_length: int,
    k: int,
    model: QuestionAnsweringModel,
    tokenizer: PreTrainedTokenizerFast,
    clips: _Clips,
) -> Iterator[tuple[list[str], RankedAnswers]]:
    device = clips.patches_RVP.device
    tokens_RVZ = model.encode_clips(clips.patches_RVP, clips.visible_1V)
    for start in range(0, len(clips.questions), QUESTIONS_PER_PASS):
        some = clips.questions.iloc[start : start + QUESTIONS_PER_PASS]
        ids_BL, mask_BL = encode_batch(tokenizer, some["question"].tolist(), max_length)
        clip_B = torch.tensor(some["row"].to_numpy(), device=device)
        question = model.encode_questions(tokens_RVZ, ids_BL.to(device), mask_BL.to(device), clip_B)
        yield some["question_id"].tolist(), rank_answers(model, question, answers.to(device), k)


def _score_options(
    most: int,
    choice: ChoiceConfig,
    batch_size: int,
    model: VideoTextModel,
    tokenizer: PreTrainedTokenizerFast,
    clips: _Clips,
) -> Iterator[tuple[list[str], np.ndarray]]:
    device = clips.patches_RVP.device
    # Tokenised as in retrieval, padded to the longest text only.
    length = min(tokenizer.model_max_length, model.config.text.max_positions)
    for count, questions in clips.questions.groupby(clips.questions["options"].map(len), sort=False):
        for start in range(0, len(questions), batch_size):
            some = questions.iloc[start : start + batch_size]
            pairs = zip(some["question"], some["options"], strict=True)
            texts = [f"{text} {option}".strip() for text, options in pairs for option in options]
            encoded = encode_batch(tokenizer, texts, length, clean=model.config.clean_captions, pad_to=1)
            ids_BOL, mask_BOL = (x_XL.to(device).unflatten(0, (len(some), int(count))) for x_XL in encoded)
            clip_B = torch.tensor(some["row"].to_numpy(), device=device)
            scores_BO = score_choices(
                model, clips.patches_RVP[clip_B], clips.visible_1V, ids_BOL, mask_BOL, choice.pool, choice.match_share
            )
            own = scores_BO.double().cpu().numpy()
            yield some["question_id"].tolist(), np.pad(own, ((0, 0), (0, most - int(count))), constant_values=-np.inf)


def _share(
    workers: Workers[tuple[Model, PreTrainedTokenizerFast]],
    questions: pd.DataFrame,
    score: _Score[Model, Scores],
    load: ClipLoader,
    config: QuestionTest,
    title: str,
) -> tuple[tuple[str, ...], list[Scores], dict[str, str]]:
    """Score questions in all processes; return the ids of those whose clip could be read, their scores, and failed clips."""
    threads, precision = workers.threads(config.workers), work_precision(config)
    run = functools.partial(_score_batches, score, load, config.batch_size, threads, precision)
    found = workers.share(run, _batches(questions, config.batch_size), title, "question")
    failures = {video_id: reason for part in found for video_id, reason in part.failures.items()}
    for video_id, reason in failures.items():
        logger.warning("%s: questions about video %s count as wrong: %s", title, video_id, reason)
    question_ids = tuple(question_id for part in found for question_id in part.question_ids)
    return question_ids, [scores for part in found for scores in part.scores], failures


@torch.inference_mode()
def _score_batches(
    score: _Score[Model, Scores],
    load: ClipLoader,
    batch_size: int,
    threads: int,
    precision: Precision,
    loaded: tuple[Model, PreTrainedTokenizerFast],
    batches: Sequence[pd.DataFrame],
    tick: Tick,
) -> Scored[list[Scores]]:
    """Score questions about ``batch_size`` clips each, about fewer in the last batch; clips are decoded ahead of time."""
    device, (model, tokenizer) = default_device(), loaded
    model = model.to(device).eval()
    vision = model.config.vision
    view = view_of(vision)
    question_ids: list[str] = []
    parts: list[Scores] = []
    failures: dict[str, str] = {}
    video_ids = [video_id for batch in batches for video_id in batch["video_id"].unique()]
    decoded = decoded_batches(video_ids, [view], load, batch_size, threads)
    for batch, (found, frames, failed) in zip(batches, decoded, strict=True):
        failures |= failed
        if found:
            row_of = {video_id: row for row, video_id in enumerate(found)}
            about = batch[batch["video_id"].isin(found)]
            about = about.assign(row=about["video_id"].map(row_of))
            clips = _Clips(about, *all_patches(torch.from_numpy(frames[view]).to(device), vision))
            with autocast(precision, device):
                for ids, scores in score(model, tokenizer, clips):
                    question_ids += ids
                    parts.append(scores)
        tick(len(batch))
    return Scored(tuple(question_ids), parts, failures)


def chance(questions: pd.DataFrame) -> float:
    """Return the percent that drawing lots among the options would get right."""
    return 100.0 * float(np.mean([1.0 / len(options) for options in questions["options"]]))


def _batches(questions: pd.DataFrame, clips: int) -> list[pd.DataFrame]:
    """Cut questions into those about so many clips each; clips come in order of appearance, with all of their questions."""
    if questions.empty:
        return []
    number_Q = pd.factorize(questions["video_id"])[0]
    return [part for _, part in questions.iloc[number_Q.argsort(kind="stable")].groupby(np.sort(number_Q) // clips)]


def _most_common(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
