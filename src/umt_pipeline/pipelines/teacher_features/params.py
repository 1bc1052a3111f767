"""Parameters of the pipeline ``teacher_features``."""

from __future__ import annotations

from umt_pipeline.features.extract import FeatureConfig
from umt_pipeline.training.small_teacher import SmallClipConfig


class TeacherFeaturesParams(FeatureConfig):
    """What is extracted, and how a small teacher is trained where ``teacher.source`` is ``train_small``."""

    train_small: SmallClipConfig | None = None
