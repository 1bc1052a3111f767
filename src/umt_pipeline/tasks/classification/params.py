"""Parameters of the classification."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.tasks.classification.training import ClassificationConfig
from umt_pipeline.tasks.task import EncoderTaskParams


class ClassificationParams(EncoderTaskParams):
    """Parameters ``classification``.

    Attributes:
        tasks: label tasks; each gets a classifier of its own.
        head_map: null: a fresh head. Else ``start`` is a classifier whose head is taken over by labels: our label -> its
            label, for those that are called differently there.
        fine_tuning: clips, augmentation, mixing, loop.
        test: views of the test.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    head_map: dict[str, str] | None = None
    fine_tuning: ClassificationConfig
    test: MultiViewTest = MultiViewTest()

    @model_validator(mode="after")
    def _check(self) -> ClassificationParams:
        if self.start == "scratch" and self.head_map is not None:
            raise ValueError("`head_map` takes over a classifier's head, but `start` is scratch; set it to null")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"`tasks` names one more than once: {', '.join(self.tasks)}")
        unusable = [task for task in self.tasks if not re.fullmatch(r"\w[\w .-]*", task)]
        if unusable:
            raise ValueError(f"`tasks`: {unusable[0]!r} cannot be a folder's name; rename it in the label table")
        return self
