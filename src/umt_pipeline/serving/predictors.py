"""What a model folder of each kind says of a table of videos and texts; registered models do nothing else.

==================  ===================================  ==============================================================
kind                reads the columns                    gives the columns, a row for each row
==================  ===================================  ==============================================================
teacher, stage1     video                                embedding: unit vectors, whose products are cosines
stage2, retrieval   video or text                        the same
stage2, retrieval   video and text                       match (logit of the matching head), cosine
classification      video                                of each label task TASK: TASK, TASK_probability,
                                                         TASK_probabilities (label to probability)
question_answering  video, text (the question)           answer, log_probability
detection           video, timestamp_s, x1, y1, x2, y2   action, probability, probabilities (action to probability)
==================  ===================================  ==============================================================

Videos are paths of files. A list of strings is a column of videos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.serving.files import require_all, video_table
from umt_pipeline.serving.loading import checked_settings, load_found
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.settings import DetectionSettings
from umt_pipeline.serving.sources import Found
from umt_pipeline.tasks.detection.boxes import BOX, FRAME
from umt_pipeline.tasks.detection.model import load_actions, load_detector
from umt_pipeline.tasks.detection.testing import predict as detect

VIDEO, TEXT = "video", "text"
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


class _ModelPredictor(Predictor):
    """Says in columns what a model says.

    Args:
        model: loaded.
    """

    def __init__(self, model: Model) -> None:
        self.model = model


class EmbeddingPredictor(_ModelPredictor):
    """Teacher and stage 1."""

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        vectors = self.model.embed_videos(cells(table, VIDEO)).all()
        return pd.DataFrame({"embedding": pd.Series(vectors.tolist(), table.index)})


class VideoTextPredictor(_ModelPredictor):
    """Stage 2 and retrieval."""

    columns: ClassVar[Mapping[str, bool]] = {VIDEO: False, TEXT: False}

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
        vectors = self._embedded(videos, self._embed_videos) | self._embedded(texts, self.model.embed_texts)
        return pd.DataFrame({"embedding": pd.Series([vectors[row] for row in range(len(table))], table.index)})

    def _embed_videos(self, videos: list[str]) -> Tensor:
        return self.model.embed_videos(videos).all()

    @staticmethod
    def _embedded(given: Mapping[int, str], embed: Callable[[list[str]], Tensor]) -> dict[int, list[float]]:
        return dict(zip(given, embed(list(given.values())).tolist(), strict=True)) if given else {}

    def _pairs(self, table: pd.DataFrame) -> pd.DataFrame:
        videos, texts = cells(table, VIDEO), cells(table, TEXT)
        cosines = (self._embed_videos(videos) * self.model.embed_texts(texts)).sum(dim=1)
        match = self.model.match(videos, texts)
        return pd.DataFrame({"match": match.tolist(), "cosine": cosines.tolist()}, index=table.index)


class ClassificationPredictor(_ModelPredictor):
    """The classifiers of all label tasks."""

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        videos = cells(table, VIDEO)
        different = list(dict.fromkeys(videos))
        said = self.model.classify(different)
        found: dict[str, Any] = {}
        for task, shares_SC in said.all().items():
            of_video = dict(zip(different, shares_SC.tolist(), strict=True))
            shares = [dict(zip(said.classes[task], of_video[video], strict=True)) for video in videos]
            best = [max(share, key=share.__getitem__) for share in shares]
            found[task] = best
            found[f"{task}_probability"] = [share[label] for share, label in zip(shares, best, strict=True)]
            found[f"{task}_probabilities"] = shares
        return pd.DataFrame(found, index=table.index)


class QuestionPredictor(_ModelPredictor):
    """Question answering: the likeliest answer of the list."""

    columns: ClassVar[Mapping[str, bool]] = {VIDEO: True, TEXT: True}

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        assert self.model.answerer is not None, "a model of this kind has one"
        answers = self.model.answerer.answer(cells(table, VIDEO), cells(table, TEXT)).all()
        best = [(said[0].text, said[0].log_probability) for said in answers]
        return pd.DataFrame(best, columns=["answer", "log_probability"], index=table.index)


class DetectionPredictor(Predictor):
    """Detection: what the person within a box does at a time; nobody is detected here."""

    columns: ClassVar[Mapping[str, bool]] = dict.fromkeys((*FRAME, *BOX), True)

    def __init__(self, folder: Path, settings: DetectionSettings, precision: AskedPrecision) -> None:
        self.detector, self.actions = load_detector(folder), load_actions(folder)
        self.recipe = settings.recipe
        self.test = settings.test.model_copy(update={"precision": precision, "nproc": 1})

    def predict(self, data: Data) -> pd.DataFrame:
        table = as_table(data)
        videos = cells(table, VIDEO)
        numbers = _numbers(table, [*FRAME[1:], *BOX])
        boxes = numbers.assign(video=videos, source=self.test.source, score=1.0)
        with Workers(lambda: self.detector) as workers:
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


# Kind of model -> what reads and gives its columns.
KINDS: dict[str, type[Predictor]] = {
    "teacher": EmbeddingPredictor,
    "stage1": EmbeddingPredictor,
    "stage2": VideoTextPredictor,
    "retrieval": VideoTextPredictor,
    "classification": ClassificationPredictor,
    "question_answering": QuestionPredictor,
    "detection": DetectionPredictor,
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
    predictor = KINDS.get(kind)
    if predictor is None:
        raise ConfigError(f"models of kind {kind!r} do not predict: expected one of {', '.join(KINDS)}")
    if issubclass(predictor, _ModelPredictor):
        return predictor(load_found(Found(kind, folder, str(folder)), settings, precision))
    checked = checked_settings(kind, settings)
    assert isinstance(checked, DetectionSettings), kind
    return DetectionPredictor(folder, checked, precision)


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
