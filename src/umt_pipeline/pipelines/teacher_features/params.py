"""Parameters of the pipeline ``teacher_features``."""

from __future__ import annotations

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.features.extract import FeatureConfig
from umt_pipeline.models.teacher import TRAIN_SMALL
from umt_pipeline.training.small_teacher import SmallClipConfig


class TeacherFeaturesParams(FeatureConfig):
    """What is extracted, and how a small teacher is trained where ``teacher.source`` is ``train_small``."""

    train_small: SmallClipConfig | None = None

    def check_inputs(self) -> None:
        if self.small_clip() is None:
            # Imported where it is needed: open_clip and timm take seconds.
            from umt_pipeline.models.teacher_sources import check_source

            check_source(self.teacher.source)

    def small_clip(self) -> SmallClipConfig | None:
        """Return the small CLIP to train, or None where ``teacher.source`` names a published teacher.

        Raises:
            ConfigError: a small one is to be trained, but ``train_small`` does not say how.
        """
        if self.teacher.source != TRAIN_SMALL:
            return None
        if self.train_small is None:
            raise ConfigError(
                f"teacher_features.teacher.source is {TRAIN_SMALL!r}, but teacher_features.train_small is missing"
            )
        return self.train_small
