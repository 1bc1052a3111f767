"""Parameters of the detection."""

from __future__ import annotations

from pydantic import Field, model_validator

from umt_pipeline.tasks.detection.testing import DetectionTest
from umt_pipeline.tasks.detection.training import DetectionConfig
from umt_pipeline.tasks.task import EncoderTaskParams


class DetectionParams(EncoderTaskParams):
    """Parameters ``detection``.

    Attributes:
        actions: JSON file with the list of actions that the detector predicts; boxes of others are left out. None: all those of
            the training boxes.
        evaluated: JSON file with the list of actions that count in the test, such as AVA's 60 of 80; None: all.
        groups: actions by the name of a group; the mean of each group's average precisions is reported too. None: no groups.
        per_frame: so many of a key frame's detections count, those with the highest scores, as in AVA's own script, which
            takes 50; None: all, as published.
        fine_tuning: frames, augmentation, loop.
        test: whose actions are predicted.
    """

    actions: str | None = None
    evaluated: str | None = None
    groups: dict[str, tuple[str, ...]] | None = None
    per_frame: int | None = Field(None, ge=1)
    fine_tuning: DetectionConfig
    test: DetectionTest = DetectionTest()

    @model_validator(mode="after")
    def _check(self) -> DetectionParams:
        empty = [name for name, actions in (self.groups or {}).items() if not actions]
        if empty:
            raise ValueError(f"`groups`: expected at least one action in each, found none in {empty[0]!r}")
        return self
