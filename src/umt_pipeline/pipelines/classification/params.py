"""Parameters of the classification pipeline."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.tasks.classification.testing import MultiViewConfig
from umt_pipeline.tasks.classification.training import ClassificationConfig


class ClassificationParams(Config):
    """Parameters ``classification``.

    Attributes:
        tasks: label tasks; each gets a classifier of its own.
        start: whose video encoder training begins with: the ``stage1_model`` or ``stage2_model`` of the catalog (which may be
            any model folder with a video encoder), or ``scratch``.
        control: also train the same classifier from scratch with the same budget.
        head_map: null: a fresh head. Else ``start`` is a classifier whose head is taken over by labels: our label -> its
            label, for those that are called differently there.
        train_split: trained on.
        test_split: reported on, once; nothing is chosen by it.
        fine_tuning: clips, augmentation, mixing, loop.
        test: views of the test.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    start: Literal["stage1", "stage2", "scratch"]
    control: bool = True
    head_map: dict[str, str] | None = None
    train_split: str = "train"
    test_split: str = "test"
    fine_tuning: ClassificationConfig
    test: MultiViewConfig = MultiViewConfig()

    @model_validator(mode="after")
    def _check(self) -> ClassificationParams:
        if self.start == "scratch" and self.control:
            raise ValueError("`control` is training from scratch, which `start: scratch` is already; set control to false")
        if self.start == "scratch" and self.head_map is not None:
            raise ValueError("`head_map` takes over a classifier's head, but `start` is scratch; set it to null")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"`tasks` names one more than once: {', '.join(self.tasks)}")
        unusable = [task for task in self.tasks if not re.fullmatch(r"\w[\w .-]*", task)]
        if unusable:
            raise ValueError(f"`tasks`: {unusable[0]!r} cannot be a folder's name; rename it in the label table")
        if self.train_split == self.test_split:
            raise ValueError(f"`train_split` and `test_split` are both {self.test_split!r}: a test is of other videos")
        return self
