"""Answers to questions about videos, chosen from a list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.encoders import view_of
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.serving.files import require_all
from umt_pipeline.serving.inputs import Video, clip_of, require_texts
from umt_pipeline.tasks.question_answering.answering import AnswerList
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel
from umt_pipeline.tasks.question_answering.testing import QuestionTest, answer_questions
from umt_pipeline.video.views import ViewConfig

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Answer:
    """An answer of the list.

    Attributes:
        text: of the answer.
        log_probability: natural logarithm of the probability that the model says exactly this.
    """

    text: str
    log_probability: float

    @property
    def probability(self) -> float:
        """The probability that the model says exactly this; those of a list sum to less than one."""
        return math.exp(self.log_probability)


@dataclass(frozen=True)
class Answered:
    """What a model answers to questions.

    Attributes:
        answers: to each question the likeliest of the list, best first; none where its video could not be read.
        failures: number of a question, from 0, to why its video could not be read.
    """

    answers: tuple[tuple[Answer, ...], ...]
    failures: Mapping[int, str]

    def all(self) -> tuple[tuple[Answer, ...], ...]:
        """Return the answers to all questions.

        Raises:
            VideoError: some videos could not be read; they are named.
        """
        require_all({f"video {number}": reason for number, reason in self.failures.items()})
        return self.answers


@dataclass(frozen=True)
class Answerer:
    """A model that answers questions, asked as in its test.

    Args:
        model: in eval mode.
        tokenizer: of the questions.
        answers: the list that it chooses from.
        length: longest question in tokens; a longer one is cut.
        test: candidates, and the precision.
    """

    model: QuestionAnsweringModel
    tokenizer: PreTrainedTokenizerFast
    answers: AnswerList
    length: int
    test: QuestionTest

    @property
    def view(self) -> ViewConfig:
        """The number and size of frames that it reads of a clip."""
        return view_of(self.model.config.vision)

    def answer(self, videos: Sequence[Video], questions: Sequence[str]) -> Answered:
        """Answer questions; question i is about video i, and a video is read once however many follow each other.

        Raises:
            ConfigError: a question is blank.
            ValueError: there are not as many questions as videos.
        """
        if len(videos) != len(questions):
            raise ValueError(f"expected a question for each video, found {len(questions)} for {len(videos)}")
        require_texts(questions, "question")
        keys = [str(video) if isinstance(video, str | Path) else f"video {number}" for number, video in enumerate(videos)]
        video_of = dict(zip(keys, videos, strict=True))
        rows = [str(number) for number in range(len(questions))]
        table = pd.DataFrame({"question_id": rows, "video_id": keys, "question": list(questions)})

        def load(key: str, view: ViewConfig) -> np.ndarray:
            return clip_of(video_of[key], view)

        with Workers(lambda: (self.model, self.tokenizer)) as workers:
            said = answer_questions(workers, table, self.answers, load, self.length, self.test, "answers")
        ranked = dict(zip(said.question_ids, zip(said.scores.index_QK, said.scores.score_QK, strict=True), strict=True))
        failures = {number: said.failures[key] for number, key in enumerate(keys) if key in said.failures}
        return Answered(tuple(self._best(*ranked[row]) if row in ranked else () for row in rows), failures)

    def _best(self, index_K: np.ndarray, score_K: np.ndarray) -> tuple[Answer, ...]:
        order = np.argsort(-score_K, kind="stable")
        return tuple(Answer(self.answers.texts[index_K[place]], float(score_K[place])) for place in order)
