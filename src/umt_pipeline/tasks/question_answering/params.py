"""Parameters of the question-answering pipeline."""

from __future__ import annotations

from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.tasks.question_answering.testing import ChoiceConfig, QuestionTest
from umt_pipeline.tasks.question_answering.training import QuestionAnsweringTraining


class QuestionAnsweringParams(Config):
    """Parameters ``question_answering``.

    Attributes:
        train_split: its open questions are trained on.
        test_splits: reported on, each by itself; nothing is chosen by them.
        control: also fine-tune from the ``stage2_control_model``, with the same budget, and let it choose captions too.
        answers: JSON file with the list of answers to choose from, such as the ``answers.json`` of ``umt tables read``; None:
            all answers to the training questions.
        fine_tuning: clips, lengths, loop.
        choice: how captions are chosen.
        test: candidates, batches.
    """

    train_split: str = "train"
    test_splits: tuple[str, ...] = Field(("test",), min_length=1)
    control: bool = True
    answers: str | None = None
    fine_tuning: QuestionAnsweringTraining
    choice: ChoiceConfig = ChoiceConfig()
    test: QuestionTest = QuestionTest()

    @model_validator(mode="after")
    def _check(self) -> QuestionAnsweringParams:
        if self.train_split in self.test_splits:
            raise ValueError(f"`test_splits` names `train_split` {self.train_split!r}: a test is of other videos")
        if len(set(self.test_splits)) != len(self.test_splits):
            raise ValueError(f"`test_splits` names one more than once: {', '.join(self.test_splits)}")
        return self
