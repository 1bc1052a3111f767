"""Parameters of the retrieval."""

from __future__ import annotations

from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.evaluation.params import SearchParams
from umt_pipeline.tasks.retrieval.training import RetrievalTraining


class RetrievalTest(SearchParams):
    """How both models are searched with.

    Attributes:
        sets: splits that are searched, each by itself.
        examples: queries per set that the page shows.
    """

    sets: tuple[str, ...] = Field(("test",), min_length=1)
    examples: int = Field(6, ge=0)


class RetrievalParams(Config):
    """Parameters ``retrieval``.

    Attributes:
        train_split: its captioned videos are trained on.
        fine_tuning: clips, captions, objectives, loop.
        test: reported on; nothing is chosen by it.
    """

    train_split: str = "train"
    fine_tuning: RetrievalTraining
    test: RetrievalTest = RetrievalTest()

    @model_validator(mode="after")
    def _check(self) -> RetrievalParams:
        self.test.require_unseen_validation({self.train_split, *self.test.sets})
        if self.train_split in self.test.sets:
            raise ValueError(f"`test.sets` names `train_split` {self.train_split!r}: a test is of other videos")
        if len(set(self.test.sets)) != len(self.test.sets):
            raise ValueError(f"`test.sets` names one more than once: {', '.join(self.test.sets)}")
        return self
