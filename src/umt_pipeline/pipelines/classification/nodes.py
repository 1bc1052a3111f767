"""Nodes that fine-tune classifiers, train their control from scratch, and test both."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline import __version__
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.workers import Workers, require_devices
from umt_pipeline.exchange.convert import load_vision
from umt_pipeline.models.folders import SKIPPED_FILE, load_weights, weights_sha256
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.pipelines.classification.params import ClassificationParams
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table
from umt_pipeline.tasks.classification.figures import Confusion, confusion_svg
from umt_pipeline.tasks.classification.model import Classifier, load_classes, load_classifier, save_classifier
from umt_pipeline.tasks.classification.testing import Scores, predict, prediction_table, score
from umt_pipeline.tasks.classification.training import class_names, labelled_clips

TrainedModels = tuple[Path, pd.DataFrame, dict[str, Any]]
FACTORY = "umt_pipeline.tasks.classification.training:make_task"


@dataclass(frozen=True)
class TaskData:
    """One label task.

    Attributes:
        train: labelled clips trained on, as is ``test`` tested on.
        train_table: the same as a file.
        key: fingerprint of its content.
        unlabelled: training videos that are left out, since they have no label.
        test: labelled clips tested on.
        classes: labels in the head's order.
    """

    train: pd.DataFrame
    train_table: Path
    key: str
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

    tasks: Mapping[str, TaskData]
    start: Path | None
    size: ViTConfig
    media: Path


def gather_tasks(
    params: ClassificationParams,
    videos: pd.DataFrame,
    labels: pd.DataFrame,
    raw_media: Path,
    stage1_model: Path,
    stage2_model: Path,
    workspace: Path,
) -> ClassificationData:
    """Check everything that training and test need, before anything is trained.

    Args:
        params: tasks, splits, what to start from.
        videos: the clean video table.
        labels: the clean label table.
        raw_media: folder of the video files.
        stage1_model: what ``start: stage1`` means; its encoder's size is that of ``start: scratch``.
        stage2_model: what ``start: stage2`` means.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: a task or split is not in the tables, or has fewer than two classes in training; or the test wants more
            CUDA devices than there are.
        EvaluationError: a test video has no label.
        CheckpointError: the model to start from is not complete.
    """
    require_devices(params.test.nproc, "classification.test.nproc")
    tasks = {}
    for task in params.tasks:
        train_clips, unlabelled = labelled_clips(videos, labels, task, params.train_split)
        test, missing = labelled_clips(videos, labels, task, params.test_split)
        if missing:
            raise EvaluationError(
                f"classification: {missing} of {missing + len(test)} videos of split {params.test_split!r} have no label of "
                f"task {task!r}; label them or move them to another split"
            )
        classes = class_names(train_clips, task)
        table, key = write_table(workspace, f"classification-{task}", train_clips)
        tasks[task] = TaskData(train_clips, table, key, unlabelled, test, classes)
    folder = stage2_model if params.start == "stage2" else stage1_model
    size = load_vision(folder)[0].config
    return ClassificationData(tasks, None if params.start == "scratch" else folder, size, raw_media)


def fine_tune(params: ClassificationParams, seed: int, data: ClassificationData, workspace: Path) -> TrainedModels:
    """Train a classifier for each task from what ``params.start`` says.

    Args:
        params: model, augmentation and loop.
        seed: of weights, order and mixing.
        data: from :func:`gather_tasks`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        A folder with a model folder for each task, the histories of the runs with a column ``task``, and their summaries.

    Raises:
        TrainingError: training failed.
    """
    return _train_all("classification", data.start, params, seed, data, workspace)


def train_control(params: ClassificationParams, seed: int, data: ClassificationData, workspace: Path) -> TrainedModels:
    """Train the same classifiers with the same budget from scratch; see :func:`fine_tune`.

    With ``control: false`` nothing is trained, and the folder says so.
    """
    if not params.control:
        folder = fresh_folder(workspace, "classification_control_model")
        write_json(folder / SKIPPED_FILE, {"reason": "classification.control is false"})
        return folder, pd.DataFrame({"task": pd.Series(dtype=str), "step": pd.Series(dtype="int64")}), {}
    return _train_all("classification_control", None, params, seed, data, workspace)


def evaluate_classifiers(
    params: ClassificationParams,
    seed: int,
    data: ClassificationData,
    model: Path,
    summary: dict[str, Any],
    control_model: Path,
    control_summary: dict[str, Any],
) -> tuple[dict[str, Any], list[dict[str, Any]], pd.DataFrame, str]:
    """Test the classifiers on all videos of the test split.

    Args:
        params: the views of the test.
        seed: of the run, for the records.
        data: from :func:`gather_tasks`.
        model: from :func:`fine_tune`.
        summary: likewise.
        control_model: from :func:`train_control`.
        control_summary: likewise.

    Returns:
        Metrics with the summaries of training, records with their protocols, predictions per video, and the confusion
        matrices as one SVG.

    Raises:
        EvaluationError: scores from which no honest number can be computed, or a process ended.
    """
    folders: dict[str, Path] = {params.start: model}
    if not (control_model / SKIPPED_FILE).is_file():
        folders["control"] = control_model
    records: list[Record] = []
    tables: list[pd.DataFrame] = []
    figures: list[Confusion] = []
    values: dict[str, Any] = {}
    per_class: dict[str, Any] = {}
    for task, rows in data.tasks.items():
        truth = dict(zip(rows.test["video_id"], rows.test["label"], strict=True))
        for name, parent in folders.items():
            load, classes = functools.partial(load_classifier, parent / task), load_classes(parent / task)
            title = f"classification/{task}/{name}"
            with Workers(load(), load, params.test.nproc) as workers:
                predictions = predict(workers, rows.test, data.media, params.fine_tuning.clip, params.test, title)
            scores = score(predictions, truth, classes)
            sha256 = weights_sha256(parent / task)
            records.append(_record(title, params, seed, rows, scores, tuple(predictions.failures), sha256))
            table = prediction_table(predictions, truth, classes)
            table.insert(0, "model", name)
            table.insert(0, "task", task)
            tables.append(table)
            figures.append(Confusion(f"{task}, {name}", scores.labels, scores.confusion_LL))
            values.setdefault(task, {})[name] = scores.values
            per_class.setdefault(task, {})[name] = scores.per_class
    metrics = {
        "test": values,
        "per_class": per_class,
        "unlabelled_training_videos": {task: rows.unlabelled for task, rows in data.tasks.items()},
        "training": {params.start: summary, "control": control_summary},
    }
    return metrics, [record.model_dump(mode="json") for record in records], pd.concat(tables), confusion_svg(figures)


def _train_all(
    name: str, start: Path | None, params: ClassificationParams, seed: int, data: ClassificationData, workspace: Path
) -> TrainedModels:
    folder = fresh_folder(workspace, f"{name}_model")
    histories, summaries = [], {}
    for task, rows in data.tasks.items():
        config = params.fine_tuning.model_for(data.size, len(rows.classes), interpolate=start is not None)
        arguments = {
            "model": config.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "classes": list(rows.classes),
            "head_map": params.head_map if start is not None else None,
            "config": params.fine_tuning.recipe().model_dump(mode="json"),
            "clips": str(rows.train_table),
            "media_root": str(data.media),
        }
        start_key = "" if start is None else weights_sha256(start)
        run = f"{name}_{task}"
        finished = train(run, FACTORY, arguments, [rows.key, start_key], params.fine_tuning.train, seed, workspace)
        classifier = Classifier(config)
        load_weights(classifier, finished.weights(), source=str(finished.folder))
        (folder / task).mkdir()
        facts = {"task": task, "steps": finished.steps, "seed": seed, "start_sha256": start_key}
        save_classifier(folder / task, classifier, rows.classes, facts)
        histories.append(pd.concat({task: finished.history}, names=["task"]).reset_index(level="task"))
        summaries[task] = finished.summary()
    return folder, pd.concat(histories, ignore_index=True), summaries


def _record(
    title: str,
    params: ClassificationParams,
    seed: int,
    rows: TaskData,
    scores: Scores,
    failures: tuple[str, ...],
    sha256: str,
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
        task=title,
        values=scores.values,
        protocol=Protocol(
            split=params.test_split,
            annotation_sha256=rows_sha256(annotations),
            clips=len(rows.test),
            failures=failures,
            frames=clip.frames,
            views=test.clips * test.crops,
            resolution=clip.size,
            settings={
                "clips": test.clips,
                "crops": test.crops,
                "sampling": clip.sampling,
                "stride": clip.stride,
                "classes": len(rows.classes),
                "labels_unseen_in_training": ", ".join(unseen) or None,
            },
            model=title.rpartition("/")[2],
            checkpoint_sha256=sha256,
            seed=seed,
            version=__version__,
        ),
    )
