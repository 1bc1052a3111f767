"""Asking models the questions of a table: open ones and captions to choose from; what counts as true, and as a baseline.

A clip is decoded and looked at once, however many questions it has. One that cannot be read makes its questions wrong.

Shapes: Q questions, B questions of a batch, R clips of a batch, O options, L text length.
"""

from __future__ import annotations

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
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from umt_pipeline.config import Config
from umt_pipeline.evaluation.answering import (
    CANDIDATES,
    MATCH_SHARE,
    AnswerList,
    RankedAnswers,
    rank_answers,
    score_choices,
)
from umt_pipeline.evaluation.encoders import ClipLoader, all_patches, decoded_batches, default_device, view_of
from umt_pipeline.evaluation.params import PoolRule
from umt_pipeline.models.question_answering import QuestionAnsweringModel
from umt_pipeline.models.tokenizer import clean_caption, encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import ViTConfig

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
    """How a test asks.

    Attributes:
        k: answers whose likelihood is computed in full, those whose first token is likeliest; beyond the list it means all.
        parity: write and score answers as the published code does; see :mod:`umt_pipeline.evaluation.answering`.
        types: what questions are counted by: their ``text``, once cleaned, or its ``first_word`` (what, who, where, ...).
        batch_size: clips per batch.
        workers: decoding threads; null: one per core.
    """

    k: int = Field(CANDIDATES, ge=1)
    parity: bool = False
    types: TypeRule = "first_word"
    batch_size: int = Field(32, ge=1)
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

    What a model must beat that looks at clips. Of equally frequent answers the first of the alphabet is taken.

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


@torch.inference_mode()
def answer_questions(
    model: QuestionAnsweringModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: pd.DataFrame,
    answers: AnswerList,
    load: ClipLoader,
    max_length: int,
    config: AskingConfig,
    title: str,
) -> Answered:
    """Rank the answers of a list for open questions.

    Args:
        model: it is put on the GPU if there is one, and in eval mode.
        tokenizer: the model's.
        questions: columns question_id, video_id and question.
        answers: the list.
        load: reads clips.
        max_length: longest question in tokens, as in training.
        config: candidates and batches.
        title: for the progress bar.
    """
    device = default_device()
    model, answers = model.to(device).eval(), answers.to(device)
    places = _by_clip(questions)
    texts = questions["question"].tolist()
    asked: list[int] = []
    parts: list[RankedAnswers] = []
    failures: dict[str, str] = {}
    for clips, patches_RVP, visible_RV in _clips(list(places), model.config.vision, load, config, title, failures):
        tokens_RVW = model.look(patches_RVP, visible_RV)
        pairs = [(row, place) for row, clip in enumerate(clips) for place in places[clip]]
        for start in range(0, len(pairs), QUESTIONS_PER_PASS):
            rows, chosen = zip(*pairs[start : start + QUESTIONS_PER_PASS], strict=True)
            ids_BL, mask_BL = encode_batch(tokenizer, [texts[place] for place in chosen], max_length)
            question = model.ask(tokens_RVW, ids_BL.to(device), mask_BL.to(device), torch.tensor(rows, device=device))
            parts.append(rank_answers(model, question, answers, config.k))
            asked += chosen
    nothing = RankedAnswers(np.empty((0, 1), dtype=np.int64), np.empty((0, 1)))
    ids = questions["question_id"].to_numpy()
    return Answered(tuple(ids[asked].tolist()), RankedAnswers.join(parts) if parts else nothing, failures)


@torch.inference_mode()
def choose_options(
    model: VideoTextModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: pd.DataFrame,
    load: ClipLoader,
    choice: ChoiceConfig,
    config: AskingConfig,
    title: str,
) -> Chosen:
    """Score the options of multiple-choice questions; an option is read behind the question's text, if it has one.

    Args:
        model: it is put on the GPU if there is one, and in eval mode.
        tokenizer: the model's.
        questions: columns question_id, video_id, question and options.
        load: reads clips.
        choice: the scores.
        config: batches.
        title: for the progress bar.
    """
    device = default_device()
    model = model.to(device).eval()
    places = _by_clip(questions)
    texts = [[f"{text} {option}".strip() for option in options] for text, options in _choices(questions)]
    widest = max(map(len, texts), default=1)
    scores_QO = np.full((len(questions), widest), -np.inf)
    asked: list[int] = []
    failures: dict[str, str] = {}
    for clips, patches_RVP, visible_RV in _clips(list(places), model.config.vision, load, config, title, failures):
        by_width: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, clip in enumerate(clips):
            for place in places[clip]:
                by_width[len(texts[place])].append((row, place))
        for width, pairs in by_width.items():
            for start in range(0, len(pairs), config.batch_size):
                rows, chosen = zip(*pairs[start : start + config.batch_size], strict=True)
                ids_XL, mask_XL = _encode_options(model, tokenizer, [text for place in chosen for text in texts[place]])
                ids_BOL, mask_BOL = (x.to(device).unflatten(0, (len(chosen), width)) for x in (ids_XL, mask_XL))
                clip_B = torch.tensor(rows, device=device)
                scores_BO = score_choices(
                    model, patches_RVP[clip_B], visible_RV[clip_B], ids_BOL, mask_BOL, choice.pool, choice.match_share
                )
                scores_QO[list(chosen), :width] = scores_BO.double().cpu().numpy()
                asked += chosen
    ids = questions["question_id"].to_numpy()
    return Chosen(tuple(ids[asked].tolist()), scores_QO[asked], failures)


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


def _choices(questions: pd.DataFrame) -> list[tuple[str, list[str]]]:
    return [(text, list(options)) for text, options in zip(questions["question"], questions["options"], strict=True)]


def _by_clip(questions: pd.DataFrame) -> dict[str, list[int]]:
    """Return the places of each clip's questions, clips in order of appearance."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, video_id in enumerate(questions["video_id"]):
        places[video_id].append(place)
    return dict(places)


def _most_common(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _clips(
    video_ids: Sequence[str], vision: ViTConfig, load: ClipLoader, config: AskingConfig, title: str, failures: dict[str, str]
) -> Iterator[tuple[Sequence[str], Tensor, Tensor]]:
    """Decode clips ahead of time.

    Args:
        video_ids: the clips.
        vision: the encoder that looks at them.
        load: reads clips.
        config: batches.
        title: for the progress bar.
        failures: gets the clips that could not be read, with the reason.

    Yields:
        Names of the clips of a batch that could be read, their patches [R, V, P] on the device, and the positions [R, V].
    """
    view, device = view_of(vision), default_device()
    batches = decoded_batches(video_ids, [view], load, config.batch_size, config.workers)
    count = -(-len(video_ids) // config.batch_size)
    for clips, frames, failed in tqdm(batches, total=count, desc=title, unit="batch", disable=None, leave=False):
        failures |= failed
        if clips:
            yield clips, *all_patches(torch.from_numpy(frames[view]).to(device), vision)
    for video_id, reason in failures.items():
        logger.warning("%s: questions about video %s count as wrong: %s", title, video_id, reason)
