"""What models of each kind need besides their folders to predict as in their test: from the parameters and the clean tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, typed_parameters
from umt_pipeline.serving.settings import (
    SETTINGS,
    ClassificationSettings,
    DetectionSettings,
    Nothing,
    QuestionSettings,
    TeacherSettings,
)
from umt_pipeline.tasks.classification.params import ClassificationParams
from umt_pipeline.tasks.detection.params import DetectionParams
from umt_pipeline.tasks.question_answering.data import training_answers
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams


def serving_settings(kind: str, project: Path, loader: ProjectConfigLoader) -> Config:
    """Return the settings of a kind of model (:mod:`umt_pipeline.serving.settings`).

    Args:
        kind: of the model, a key of ``SETTINGS`` there.
        project: the project's folder.
        loader: the corpus' configuration.

    Raises:
        ConfigError: parameters are not as expected, or a table that they come from is not here.
    """
    assert kind in SETTINGS, kind
    make = _SETTINGS.get(kind)
    return Nothing() if make is None else make(project, loader)


def _teacher(_: Path, loader: ProjectConfigLoader) -> TeacherSettings:
    params = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    return TeacherSettings(teacher=params.teacher, view=params.view, grid=params.grid)


def _classification(_: Path, loader: ProjectConfigLoader) -> ClassificationSettings:
    params = typed_parameters(loader, "classification", ClassificationParams)
    return ClassificationSettings(clip=params.fine_tuning.clip, test=params.test)


def _questions(project: Path, loader: ProjectConfigLoader) -> QuestionSettings:
    params = typed_parameters(loader, "question_answering", QuestionAnsweringParams)
    if params.answers is not None:
        params = params.model_copy(update={"answers": str(project / params.answers)})
    paths = [catalog_path(project, loader, name) for name in ("questions", "videos")]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise ConfigError(f"{', '.join(missing)}: expected tables, found nothing. Fetch them: dvc pull {' '.join(missing)}.")
    questions, videos = (TableDataset(str(path), clean=True).load() for path in paths)
    return QuestionSettings(
        answers=training_answers(params, questions, videos),
        max_question_length=params.fine_tuning.max_question_length,
        test=params.test,
    )


def _detection(_: Path, loader: ProjectConfigLoader) -> DetectionSettings:
    params = typed_parameters(loader, "detection", DetectionParams)
    return DetectionSettings(recipe=params.fine_tuning.recipe(), test=params.test)


_SETTINGS: dict[str, Callable[[Path, ProjectConfigLoader], Config]] = {
    "teacher": _teacher,
    "classification": _classification,
    "question_answering": _questions,
    "detection": _detection,
}
