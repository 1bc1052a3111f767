"""What models of each kind need to know, beside their folders, to be asked as in their test.

A registered version keeps it in ``serving.json``, from the project's parameters. Of a plain folder it is what its
``config.json`` says and what the caller adds.
"""

from __future__ import annotations

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.models.teacher import TeacherConfig
from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.tasks.detection.testing import DetectionTest
from umt_pipeline.tasks.detection.training import DetectionRecipe
from umt_pipeline.tasks.question_answering.testing import QuestionTest
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.views import ViewConfig


class Nothing(Config):
    """Settings of a kind that has none: all that it needs is in its folder."""


class TeacherSettings(Config):
    """How a teacher is shown videos.

    Attributes:
        teacher: how it is read; layers do not count here.
        view: frames and their size.
        grid: patches along a side, which its positions are fitted to.
    """

    teacher: TeacherConfig
    view: ViewConfig
    grid: int


class ClassificationSettings(Config):
    """How a video is shown to classifiers: as in their test.

    Attributes:
        clip: frames, their size, and how they are sampled.
        test: views of a video.
    """

    clip: ClipConfig
    test: MultiViewTest = MultiViewTest()


class QuestionSettings(Config):
    """How questions are asked: as in their test.

    Attributes:
        answers: the list to choose from.
        max_question_length: longest question in tokens.
        test: candidates.
    """

    answers: tuple[str, ...] = Field(min_length=1)
    max_question_length: int = Field(ge=3)
    test: QuestionTest = QuestionTest()


class DetectionSettings(Config):
    """How key frames are shown: as in their test.

    Attributes:
        recipe: frames around a key frame, their size, and where in the film files begin.
        test: by how much boxes are widened.
    """

    recipe: DetectionRecipe
    test: DetectionTest = DetectionTest()


# Kind of model -> its settings.
SETTINGS: dict[str, type[Config]] = {
    "teacher": TeacherSettings,
    "stage1": Nothing,
    "stage2": Nothing,
    "retrieval": Nothing,
    "classification": ClassificationSettings,
    "question_answering": QuestionSettings,
    "detection": DetectionSettings,
}
