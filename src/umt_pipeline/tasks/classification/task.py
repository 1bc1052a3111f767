"""Classification as a downstream task: a classifier for each label task, its control from scratch, their test, its page."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from umt_pipeline.data.mapped import write_table
from umt_pipeline.evaluation.evidence import joined
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.workers import Workers, require_devices, work_precision
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.tables import keyed
from umt_pipeline.tasks.classification.figures import Confusion, confusion_svg
from umt_pipeline.tasks.classification.model import load_classes, load_classifier
from umt_pipeline.tasks.classification.page import classification_page
from umt_pipeline.tasks.classification.params import ClassificationParams
from umt_pipeline.tasks.classification.testing import (
    Predictions,
    Scores,
    class_evidence,
    predict,
    prediction_table,
    score,
)
from umt_pipeline.tasks.classification.training import ClassificationSpec, class_names, labelled_clips
from umt_pipeline.tasks.task import DownstreamTask, Plan, Runs, Shown, Skipped, Tested
from umt_pipeline.video.action_views import evaluation_views
from umt_pipeline.video.views import load_view


@dataclass(frozen=True)
class LabelTask:
    """The clips of one label task.

    Attributes:
        train: labelled clips trained on, as is ``test`` tested on.
        train_table: the same as a file.
        unlabelled: training videos that are left out, since they have no label.
        test: labelled clips tested on.
        classes: labels in the head's order.
    """

    train: pd.DataFrame
    train_table: Path
    unlabelled: int
    test: pd.DataFrame
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ClassificationData:
    """What the classifiers and their control are trained and tested on.

    Attributes:
        tasks: by name.
        start: model folder to start from, None for scratch.
        size: of its encoder, or of the stage-1 encoder for ``start: scratch``.
        media: folder of the video files.
    """

    tasks: Mapping[str, LabelTask]
    start: Path | None
    size: ViTConfig
    media: Path


class Classification(DownstreamTask[ClassificationParams, ClassificationData]):
    """Fine-tuning for action recognition."""

    name = "classification"
    params = ClassificationParams
    tables = ("videos", "labels", "raw_media", "stage1_model", "stage2_model")
    headline: ClassVar = {"top1": "classification/*/{model}/top1"}
    has_picture = True

    def gather(self, params: ClassificationParams, tables: Mapping[str, Any], workspace: Path) -> ClassificationData:
        require_devices(params.test.nproc, "classification.test.nproc")
        found = {}
        for task in params.tasks:
            clips = functools.partial(labelled_clips, tables["videos"], tables["labels"], task)
            train, unlabelled = clips(params.train_split)
            test, missing = clips(params.test_split)
            if missing:
                raise EvaluationError(
                    f"classification: {missing} of {missing + len(test)} videos of split {params.test_split!r} have no label "
                    f"of task {task!r}; label them or move them to another split"
                )
            table = write_table(workspace, f"classification-{task}", train)
            found[task] = LabelTask(train, table, unlabelled, test, class_names(train, task))
        start, sized = params.start_folders(tables)
        return ClassificationData(found, start, load_vision(sized)[0].config, tables["raw_media"])

    def runs(self, params: ClassificationParams, seed: int, data: ClassificationData) -> Plan:
        def runs(start: Path | None) -> Runs:
            return {
                task: ClassificationSpec(
                    model=params.fine_tuning.model_for(data.size, len(rows.classes), interpolate=start is not None),
                    start=start,
                    classes=rows.classes,
                    head_map=params.head_map if start is not None else None,
                    recipe=params.fine_tuning.recipe(),
                    clips=rows.train_table,
                    media_root=data.media,
                    train=params.fine_tuning.train,
                    seed=seed,
                )
                for task, rows in data.tasks.items()
            }

        return Plan(runs(data.start), runs(None) if params.control else Skipped("classification.control is false"))

    def test(
        self, params: ClassificationParams, seed: int, data: ClassificationData, models: Mapping[str, Path], workspace: Path
    ) -> Tested:
        records: list[Record] = []
        tables: list[pd.DataFrame] = []
        evidence: list[pd.DataFrame] = []
        figures: list[Confusion] = []
        values: dict[str, Any] = {task: {} for task in data.tasks}
        per_class: dict[str, Any] = {task: {} for task in data.tasks}
        for task, rows in data.tasks.items():
            truth = dict(zip(rows.test["video_id"], rows.test["label"], strict=True))
            for name, parent in models.items():
                folder = parent / task
                predictions = _predict(params, data, rows, folder, f"classification/{task}/{name}")
                classes = load_classes(folder)
                scores = score(predictions, truth, classes)
                records.append(_record(params, seed, rows, scores, predictions, folder, (task, name)))
                table = prediction_table(predictions, truth, classes)
                table.insert(0, "model", name)
                table.insert(0, "task", task)
                tables.append(table)
                evidence.append(class_evidence(records[-1].task, predictions, truth, classes))
                figures.append(Confusion(f"{task}, {name}", scores.labels, scores.confusion_LL))
                values[task][name], per_class[task][name] = scores.values, scores.per_class
        metrics = {
            "test": values,
            "per_class": per_class,
            "unlabelled_training_videos": {task: rows.unlabelled for task, rows in data.tasks.items()},
        }
        return Tested(metrics, records, pd.concat(tables), joined(evidence), confusion_svg(figures))

    def page(self, shown: Shown[ClassificationParams, ClassificationData]) -> Page:
        data, clip = shown.data, shown.params.fine_tuning.clip
        tested = keyed(pd.concat([rows.test for rows in data.tasks.values()]), "video_id")

        def load(video_id: str) -> np.ndarray:
            row = tested[video_id]
            size = int(row["num_frames"]), int(row["height"]), int(row["width"])
            return load_view(data.media / str(row["path"]), evaluation_views(clip, 1, 1, *size)[0])

        labels = {task: rows.train["label"].tolist() for task, rows in data.tasks.items()}
        return classification_page(shown, labels, load)


def _predict(params: ClassificationParams, data: ClassificationData, rows: LabelTask, folder: Path, title: str) -> Predictions:
    with Workers(functools.partial(load_classifier, folder), params.test.nproc) as workers:
        return predict(workers, rows.test, data.media, params.fine_tuning.clip, params.test, title)


def _record(
    params: ClassificationParams,
    seed: int,
    rows: LabelTask,
    scores: Scores,
    predictions: Predictions,
    folder: Path,
    names: tuple[str, str],
) -> Record:
    splits = ((params.train_split, rows.train), (params.test_split, rows.test))
    annotations = [
        {"split": split, "video_id": video_id, "label": label}
        for split, clips in splits
        for video_id, label in sorted(zip(clips["video_id"], clips["label"], strict=True))
    ]
    clip, test = params.fine_tuning.clip, params.test
    unseen = scores.labels[len(rows.classes) :]
    return Record(
        task=f"classification/{names[0]}/{names[1]}",
        values=scores.values,
        protocol=Protocol(
            split=params.test_split,
            annotation_sha256=rows_sha256(annotations),
            clips=len(rows.test),
            failures=tuple(predictions.failures),
            frames=clip.frames,
            views=test.clips * test.crops,
            resolution=clip.size,
            precision=work_precision(test),
            settings={
                "clips": test.clips,
                "crops": test.crops,
                "sampling": clip.sampling,
                "stride": clip.stride,
                "classes": len(rows.classes),
                "labels_unseen_in_training": ", ".join(unseen) or None,
            },
            model=names[1],
            checkpoint_sha256=weights_sha256(folder),
            seed=seed,
        ),
    )


TASK = Classification()
