"""What a model folder of each kind says of a table of videos and texts; registered models do nothing else.

==================  ===================================  ==============================================================
kind                reads the columns                    gives the columns, a row for each row
==================  ===================================  ==============================================================
teacher, stage1     video                                embedding
stage2, retrieval   video or text                        embedding: unit vectors, whose products are cosines
stage2, retrieval   video and text                       match (logit of the matching head), cosine
classification      video                                of each label task TASK: TASK, TASK_probability,
                                                         TASK_probabilities (label to probability)
question_answering  video, text (the question)           answer, log_probability
detection           video, timestamp_s, x1, y1, x2, y2   action, probability, probabilities (action to probability)
==================  ===================================  ==============================================================

Videos are paths of files. A list of strings is a column of videos.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
from torch import Tensor

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.evaluation.encoders import ClipEncoder, TeacherEncoder, VideoEncoder
from umt_pipeline.evaluation.workers import Workers, default_device
from umt_pipeline.models.folders import CONFIG_FILE
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.vision import load_vision
from umt_pipeline.serving.files import load_frames, require_all, video_table
from umt_pipeline.serving.models import encode_files, load
from umt_pipeline.tasks.classification.model import load_classes, load_classifier
from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.tasks.classification.testing import predict as classify
from umt_pipeline.tasks.detection.boxes import BOX, FRAME
from umt_pipeline.tasks.detection.model import load_actions, load_detector
from umt_pipeline.tasks.detection.testing import DetectionTest
from umt_pipeline.tasks.detection.testing import predict as detect
from umt_pipeline.tasks.detection.training import DetectionRecipe
from umt_pipeline.tasks.question_answering.answering import make_answer_list
from umt_pipeline.tasks.question_answering.model import load_question_answering
from umt_pipeline.tasks.question_answering.testing import QuestionTest, answer_questions
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.views import ViewConfig

VIDEO, TEXT = "video", "text"
Loaded = TypeVar("Loaded")
Data = pd.DataFrame | Sequence[str]


class Predictor(ABC):
    """A model folder, loaded.

    Attributes:
        columns: that it reads, and whether each has to be there.
    """

    columns: ClassVar[Mapping[str, bool]] = {VIDEO: True}

    @abstractmethod
    def predict(self, data: Data) -> pd.DataFrame:
        """Return what the model says, a row for each row of ``data``, with its index.

        Raises:
            ConfigError: a column or a cell is missing.
            VideoError: files cannot be read; they are named, and nothing is said of the others.
        """


class Nothing(Config):
    """Settings of a kind that has none: all that it needs is in its folder."""


class VideoTextPredictor(Predictor):
    """Stage 2 and retrieval."""

    columns: ClassVar[Mapping[str, bool]] = {VIDEO: False, TEXT: False}

    def __init__(self, folder: Path, settings: Nothing, precision: AskedPrecision) -> None:
        self.embedder = load(folder, precision)

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        if not {VIDEO, TEXT} & set(table.columns):
            raise ConfigError(f"expected columns {VIDEO}, {TEXT} or both, found {', '.join(map(str, table.columns)) or 'none'}")
        videos, texts = _given(table, VIDEO), _given(table, TEXT)
        if len(videos) == len(texts) == len(table):
            return self._pairs(table)
        for row, name in enumerate(table.index):
            if (row in videos) == (row in texts):
                raise ConfigError(
                    f"row {name!r}: expected a {VIDEO} and a {TEXT} in each row (pairs), or one of them in each row "
                    f"(embeddings); found {'both, but not in each row' if row in videos else 'neither'}"
                )
        vectors = self._embedded(videos, self.embedder.embed_videos) | self._embedded(texts, self.embedder.embed_texts)
        return pd.DataFrame({"embedding": pd.Series([vectors[row] for row in range(len(table))], table.index)})

    @staticmethod
    def _embedded(given: Mapping[int, str], embed: Callable[[list[str]], Tensor]) -> dict[int, list[float]]:
        return dict(zip(given, embed(list(given.values())).tolist(), strict=True)) if given else {}

    def _pairs(self, table: pd.DataFrame) -> pd.DataFrame:
        videos, texts = cells(table, VIDEO), cells(table, TEXT)
        cosines = (self.embedder.embed_videos(videos) * self.embedder.embed_texts(texts)).sum(dim=1)
        match = self.embedder.match(videos, texts)
        return pd.DataFrame({"match": match.tolist(), "cosine": cosines.tolist()}, index=table.index)


class _EmbeddingPredictor(Predictor):
    """Embeddings of videos.

    Args:
        encoder: on its device.
        feature: which of what it gives.
    """

    def __init__(self, encoder: ClipEncoder, feature: str) -> None:
        self.encoder, self.feature = encoder, feature

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        embeddings = encode_files(self.encoder, cells(table, VIDEO), self.feature)
        return pd.DataFrame({"embedding": pd.Series(embeddings.tolist(), table.index)})


class StudentPredictor(_EmbeddingPredictor):
    """Stage 1: the mean of all tokens after the final norm."""

    def __init__(self, folder: Path, settings: Nothing, precision: AskedPrecision) -> None:
        device = default_device()
        vision = load_vision(folder)[0].to(device)
        super().__init__(VideoEncoder("model", vision, precision=resolve_precision(precision, device)), "model")


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


class TeacherPredictor(_EmbeddingPredictor):
    """The teacher: the mean of its own unit-length image embeddings over the frames of a clip."""

    def __init__(self, folder: Path, settings: TeacherSettings, precision: AskedPrecision) -> None:
        device = default_device()
        config = settings.teacher.model_copy(update={"layers": 1})
        teacher = load_teacher(folder, config, settings.grid).to(device)
        encoder = TeacherEncoder(teacher, settings.view, precision=resolve_precision(precision, device))
        super().__init__(encoder, "teacher_cls")


class ClassificationSettings(Config):
    """How a video is shown to classifiers: as in their test.

    Attributes:
        clip: frames, their size, and how they are sampled.
        test: views of a video.
    """

    clip: ClipConfig
    test: MultiViewTest = MultiViewTest()


class ClassificationPredictor(Predictor):
    """The classifiers of all label tasks."""

    def __init__(self, folder: Path, settings: ClassificationSettings, precision: AskedPrecision) -> None:
        parts = sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))
        if not parts:
            raise CheckpointError(f"{folder}: expected a folder with a classifier for each label task, found none")
        self.clip, self.test = settings.clip, settings.test.model_copy(update={"precision": precision, "nproc": 1})
        self.parts = {part.name: (load_classes(part), load_classifier(part)) for part in parts}

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        videos = cells(table, VIDEO)
        clips = video_table(videos)
        found: dict[str, Any] = {}
        for task, (classes, model) in self.parts.items():
            with Workers(functools.partial(_itself, model)) as workers:
                said = classify(workers, clips, Path(), self.clip, self.test, task)
            require_all(said.failures)
            of_video = dict(zip(said.video_ids, said.probabilities_SC.tolist(), strict=True))
            shares = [dict(zip(classes, of_video[video], strict=True)) for video in videos]
            best = [max(share, key=share.__getitem__) for share in shares]
            found[task] = best
            found[f"{task}_probability"] = [share[label] for share, label in zip(shares, best, strict=True)]
            found[f"{task}_probabilities"] = shares
        return pd.DataFrame(found, index=table.index)


class QuestionSettings(Config):
    """How questions are asked: as in their test.

    Attributes:
        answers: the list to choose from.
        max_question_length: longest question in tokens.
        test: candidates.
    """

    answers: tuple[str, ...]
    max_question_length: int
    test: QuestionTest = QuestionTest()


class QuestionPredictor(Predictor):
    """Question answering: the likeliest answer of the list."""

    columns: ClassVar[Mapping[str, bool]] = {VIDEO: True, TEXT: True}

    def __init__(self, folder: Path, settings: QuestionSettings, precision: AskedPrecision) -> None:
        self.model, self.tokenizer = load_question_answering(folder)
        self.length = settings.max_question_length
        self.test = settings.test.model_copy(update={"precision": precision, "nproc": 1})
        positions = self.model.config.text.max_positions
        self.answers = make_answer_list(self.tokenizer, settings.answers, positions, parity=self.test.parity)

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        videos, texts = cells(table, VIDEO), cells(table, TEXT)
        rows = [str(number) for number in range(len(table))]
        questions = pd.DataFrame({"question_id": rows, "video_id": videos, "question": texts})
        with Workers(functools.partial(_itself, (self.model, self.tokenizer))) as workers:
            said = answer_questions(workers, questions, self.answers, load_frames, self.length, self.test, "answers")
        require_all(said.failures)
        best = {
            name: (self.answers.texts[index_K[score_K.argmax()]], float(score_K.max()))
            for name, index_K, score_K in zip(said.question_ids, said.scores.index_QK, said.scores.score_QK, strict=True)
        }
        found = [best[row] for row in rows]
        return pd.DataFrame(found, columns=["answer", "log_probability"], index=table.index)


class DetectionSettings(Config):
    """How key frames are shown: as in their test.

    Attributes:
        recipe: frames around a key frame, their size, and where in the film files begin.
        test: by how much boxes are widened.
    """

    recipe: DetectionRecipe
    test: DetectionTest = DetectionTest()


class DetectionPredictor(Predictor):
    """Detection: what the person within a box does at a time; nobody is detected here."""

    columns: ClassVar[Mapping[str, bool]] = dict.fromkeys((*FRAME, *BOX), True)

    def __init__(self, folder: Path, settings: DetectionSettings, precision: AskedPrecision) -> None:
        self.model, self.actions = load_detector(folder), load_actions(folder)
        self.recipe = settings.recipe
        self.test = settings.test.model_copy(update={"precision": precision, "nproc": 1})

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        videos = cells(table, VIDEO)
        numbers = _numbers(table, [*FRAME[1:], *BOX])
        boxes = numbers.assign(video=videos, source=self.test.source, score=1.0)
        with Workers(functools.partial(_itself, self.model)) as workers:
            said = detect(workers, self.actions, video_table(videos), boxes, Path(), self.recipe, self.test)
        require_all({f"{video} at {at} s": reason for (video, at), reason in said.failures.items()})
        keys = said.table[[*FRAME, *BOX]].itertuples(index=False, name=None)
        shares: dict[tuple[Any, ...], dict[str, float]] = {}
        for key, action, share in zip(keys, said.table["label"], said.table["score"], strict=True):
            shares.setdefault(key, {})[action] = float(share)
        found = [shares[key] for key in boxes[[*FRAME, *BOX]].itertuples(index=False, name=None)]
        best = [max(share, key=share.__getitem__) for share in found]
        probability = [share[action] for share, action in zip(found, best, strict=True)]
        return pd.DataFrame({"action": best, "probability": probability, "probabilities": found}, index=table.index)


# Kind of model -> its settings, and what is made of it.
KINDS: dict[str, tuple[type[Config], type[Any]]] = {
    "teacher": (TeacherSettings, TeacherPredictor),
    "stage1": (Nothing, StudentPredictor),
    "stage2": (Nothing, VideoTextPredictor),
    "retrieval": (Nothing, VideoTextPredictor),
    "classification": (ClassificationSettings, ClassificationPredictor),
    "question_answering": (QuestionSettings, QuestionPredictor),
    "detection": (DetectionSettings, DetectionPredictor),
}


def load_predictor(kind: str, folder: Path, settings: Mapping[str, Any], precision: AskedPrecision = "auto") -> Predictor:
    """Load a model folder, onto the GPU if there is one.

    Args:
        kind: one of :data:`KINDS`.
        folder: of the model.
        settings: of its kind, as JSON values.
        precision: what it runs in; ``auto``: bf16 where it is measured to pay on this device.

    Raises:
        CheckpointError: the folder is no complete model of this kind.
        ConfigError: the kind is not known, or its settings are not as expected.
    """
    if kind not in KINDS:
        raise ConfigError(f"models of kind {kind!r} do not predict: expected one of {', '.join(KINDS)}")
    expected, predictor = KINDS[kind]
    try:
        values = expected.model_validate(settings)
    except ValueError as error:
        raise ConfigError(f"settings of a model of kind {kind!r}: {error}") from error
    loaded: Predictor = predictor(folder, values, precision)
    return loaded


def _itself(loaded: Loaded) -> Loaded:
    """Return what is loaded already, as :class:`Workers` wants it."""
    return loaded


def as_table(data: Data) -> pd.DataFrame:
    """Return data as a table; strings without columns are paths of videos.

    Raises:
        ConfigError: there is no row.
    """
    table = data if isinstance(data, pd.DataFrame) else pd.DataFrame(list(data))
    if table.empty:
        raise ConfigError("expected at least one row, found none")
    return table.rename(columns={0: VIDEO})


def cells(table: pd.DataFrame, name: str) -> list[str]:
    """Return a column of texts.

    Raises:
        ConfigError: the column is missing, or a cell is no text.
    """
    if name not in table:
        raise ConfigError(f"expected a column {name!r}, found {', '.join(map(str, table.columns)) or 'none'}")
    found = table[name].tolist()
    for row, value in zip(table.index, found, strict=True):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"row {row!r}, column {name!r}: expected a text, found {value!r}")
    return found


def _given(table: pd.DataFrame, name: str) -> dict[int, str]:
    """Return the cells of a column, by row number, that are not empty."""
    found: Iterable[Any] = table.get(name, [])
    return {row: str(value) for row, value in enumerate(found) if not pd.isna(value)}


def _numbers(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    if missing := [name for name in names if name not in table]:
        raise ConfigError(f"expected columns {', '.join(names)}; missing: {', '.join(missing)}")
    found = table[names].apply(pd.to_numeric, errors="coerce").astype(float).reset_index(drop=True)
    if found.isna().to_numpy().any():
        row, column = next(zip(*found.isna().to_numpy().nonzero(), strict=True))
        raise ConfigError(f"row {table.index[row]!r}, column {names[column]!r}: expected a number")
    return found
