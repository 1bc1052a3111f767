"""Parameters of the detection pipeline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.tasks.detection.testing import PeopleConfig
from umt_pipeline.tasks.detection.training import DetectionConfig


class DetectionParams(Config):
    """Parameters ``detection``.

    Attributes:
        start: whose video encoder training begins with: the ``stage1_model`` or ``stage2_model`` of the catalog (which may be
            any model folder with a video encoder), or ``scratch``.
        control: also train the same detector from scratch with the same budget.
        train_split: its annotated boxes are trained on.
        test_split: reported on, once; nothing is chosen by it.
        actions: JSON file with the list of actions that the detector tells; boxes of others are rejected. None: all actions of
            the training boxes.
        evaluated: JSON file with the list of actions that count in the test, such as AVA's 60 of 80; None: all.
        groups: actions by the name of a group; the mean of each group's average precisions is reported too. None: no groups.
        per_frame: so many of a key frame's detections count, those with the highest scores, as in AVA's own script, which
            takes 50; None: all, as published.
        fine_tuning: frames, augmentation, loop.
        test: whose actions are asked for.
    """

    start: Literal["stage1", "stage2", "scratch"]
    control: bool = True
    train_split: str = "train"
    test_split: str = "test"
    actions: str | None = None
    evaluated: str | None = None
    groups: dict[str, tuple[str, ...]] | None = None
    per_frame: int | None = Field(None, ge=1)
    fine_tuning: DetectionConfig
    test: PeopleConfig = PeopleConfig()

    @model_validator(mode="after")
    def _check(self) -> DetectionParams:
        if self.start == "scratch" and self.control:
            raise ValueError("`control` is training from scratch, which `start: scratch` is already; set control to false")
        if self.train_split == self.test_split:
            raise ValueError(f"`train_split` and `test_split` are both {self.test_split!r}: a test is of other videos")
        empty = [name for name, actions in (self.groups or {}).items() if not actions]
        if empty:
            raise ValueError(f"`groups`: expected at least one action in each, found none in {empty[0]!r}")
        return self
