"""From a model's files to a :class:`~umt_pipeline.serving.models.Model`, on the GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.evaluation.encoders import TeacherEncoder, VideoEncoder, VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.models.teacher import load_teacher
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.models.vision import load_vision
from umt_pipeline.serving.answering import Answerer
from umt_pipeline.serving.classifying import Classifiers
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.settings import SETTINGS, ClassificationSettings, Nothing, QuestionSettings, TeacherSettings
from umt_pipeline.serving.sources import OPEN_CLIP, Found, Options, classifier_folders, find, folder_settings
from umt_pipeline.tasks.classification.model import load_classes, load_classifier
from umt_pipeline.tasks.question_answering.answering import make_answer_list
from umt_pipeline.tasks.question_answering.model import load_question_answering

# What an encoder's own features are called; it is no part of anything that is kept.
_NAME = "model"


def load_source(source: str | Path, precision: AskedPrecision, options: Options) -> Model:
    """Load a model folder, a published checkpoint file or a model of open_clip.

    Raises:
        CheckpointError: there is no such model, or it is not complete.
        ConfigError: an option is missing, unknown or wrong.
    """
    found = find(source, options)
    return load_found(found, folder_settings(found, options), precision)


def load_found(found: Found, settings: Mapping[str, Any], precision: AskedPrecision = "auto") -> Model:
    """Load a model.

    Args:
        found: its files.
        settings: of its kind (:mod:`umt_pipeline.serving.settings`), as JSON values.
        precision: what it runs in; ``auto``: bf16 where it is measured to pay on this device.

    Raises:
        CheckpointError: the folder is no complete model of this kind.
        ConfigError: the precision or the settings are not as expected, or models of this kind do nothing by themselves.
    """
    if precision not in get_args(AskedPrecision):
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(get_args(AskedPrecision))}")
    if found.kind not in _LOADERS:
        raise ConfigError(
            f"{found.source} is a model of kind {found.kind!r}, which says nothing of a video alone: it needs boxes of people. "
            "Register it, and let MLflow load it (docs/experiments.md)"
        )
    return _LOADERS[found.kind](found, checked_settings(found.kind, settings), precision)


def checked_settings(kind: str, settings: Mapping[str, Any]) -> Config:
    """Return the settings of a kind of model.

    Raises:
        ConfigError: they are not as expected.
    """
    expected = TeacherSettings if kind == OPEN_CLIP else SETTINGS.get(kind, Nothing)
    try:
        return expected.model_validate(settings)
    except ValueError as error:
        raise ConfigError(f"settings of a model of kind {kind!r}: {error}") from error


def _video_text(found: Found, settings: Any, precision: AskedPrecision) -> Model:
    device = default_device()
    model, tokenizer = load_video_text(found.folder)
    encoder = VideoTextEncoder(_NAME, model.to(device), tokenizer, precision=resolve_precision(precision, device))
    return Model(found.kind, found.source, Embedder(found.kind, encoder, f"{_NAME}/embedding"))


def _vision(found: Found, settings: Any, precision: AskedPrecision) -> Model:
    device = default_device()
    vision = load_vision(found.folder)[0].to(device)
    encoder = VideoEncoder(_NAME, vision, precision=resolve_precision(precision, device))
    return Model(found.kind, found.source, Embedder(found.kind, encoder, _NAME))


def _teacher(found: Found, settings: TeacherSettings, precision: AskedPrecision) -> Model:
    device = default_device()
    config = settings.teacher.model_copy(update={"layers": 1})
    teacher = load_teacher(found.folder, config, settings.grid, text=True).to(device)
    encoder = TeacherEncoder(teacher, settings.view, precision=resolve_precision(precision, device))
    return Model(found.kind, found.source, Embedder(found.kind, encoder, "teacher_cls"))


def _classifiers(found: Found, settings: ClassificationSettings, precision: AskedPrecision) -> Model:
    device = default_device()
    folders = classifier_folders(found.folder)
    if not folders:
        raise CheckpointError(f"{found.folder}: expected a folder with a classifier for each label task, found none")
    parts = {folder.name: (load_classes(folder), load_classifier(folder).to(device)) for folder in folders}
    known = Classifiers(parts, settings.clip, settings.test, resolve_precision(precision, device))
    return Model(found.kind, found.source, classifiers=known)


def _answerer(found: Found, settings: QuestionSettings, precision: AskedPrecision) -> Model:
    model, tokenizer = load_question_answering(found.folder)
    test = settings.test.model_copy(update={"precision": resolve_precision(precision, default_device()), "nproc": 1})
    answers = make_answer_list(tokenizer, settings.answers, model.config.text.max_positions, parity=test.parity)
    answerer = Answerer(model.to(default_device()), tokenizer, answers, settings.max_question_length, test)
    return Model(found.kind, found.source, answerer=answerer)


_LOADERS: dict[str, Callable[[Found, Any, AskedPrecision], Model]] = {
    "teacher": _teacher,
    OPEN_CLIP: _teacher,
    "stage1": _vision,
    "encoder": _vision,
    "stage2": _video_text,
    "retrieval": _video_text,
    "classification": _classifiers,
    "question_answering": _answerer,
}
