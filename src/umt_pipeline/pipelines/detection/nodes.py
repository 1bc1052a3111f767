"""Nodes that gather key frames, fine-tune a detector of actions, and train its control from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.workers import require_devices
from umt_pipeline.exchange.convert import load_vision
from umt_pipeline.models.folders import SKIPPED_FILE, load_weights, weights_sha256
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.pipelines.detection.box_table import listed_actions
from umt_pipeline.pipelines.detection.params import DetectionParams
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table
from umt_pipeline.tasks.detection.model import Detector, save_detector
from umt_pipeline.tasks.detection.training import action_names, key_frames

TrainedModel = tuple[Path, pd.DataFrame, dict[str, Any]]
FACTORY = "umt_pipeline.tasks.detection.training:make_task"


@dataclass(frozen=True)
class DetectionData:
    """What the detector and its control are trained and tested on.

    Attributes:
        videos: rows of the video table, of test videos in which people drew a box.
        boxes: their boxes, annotated and detected, ``video`` being the path of the video table.
        start: model folder to start from, None for scratch.
        size: of its encoder, or of the stage-1 encoder for ``start: scratch``.
        media: folder of the video files.
        train: key frames trained on; empty where nothing is trained, as is all that follows.
        train_table: the same as a file.
        key: fingerprint of its content.
        classes: actions in the head's order.
        evaluated: actions that count.
        unseen: those of them that training never saw: their average precision is 0.
        groups: evaluated actions by the name of a group.
    """

    videos: pd.DataFrame
    boxes: pd.DataFrame
    start: Path | None
    size: ViTConfig
    media: Path
    train: pd.DataFrame = field(default_factory=pd.DataFrame)
    train_table: Path | None = None
    key: str = ""
    classes: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def gather_key_frames(
    params: DetectionParams,
    boxes: pd.DataFrame,
    videos: pd.DataFrame,
    raw_media: Path,
    stage1_model: Path,
    stage2_model: Path,
    workspace: Path,
) -> DetectionData:
    """Check everything that training and test need, before anything is trained.

    Args:
        params: splits, actions, what to start from.
        boxes: the clean box table. Without annotated boxes nothing is trained.
        videos: the clean video table.
        raw_media: folder of the video files.
        stage1_model: what ``start: stage1`` means; its encoder's size is that of ``start: scratch``.
        stage2_model: what ``start: stage2`` means.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: annotated boxes of only one of training and test, a list of actions that is none, one that names an
            action that is not told, or more processes for the test than devices.
        EvaluationError: the test has no box of ``params.test.source``.
        CheckpointError: the model to start from is not complete.
    """
    clips = videos[videos["media"] == "video"]
    paths = dict(zip(clips["video_id"], clips["path"], strict=True))
    own = boxes.assign(video=boxes["video_id"].map(paths).astype(object)).drop(columns="video_id")
    drawn = set(own.loc[own["source"] == "annotated", "video"])
    test = clips[(clips["split"] == params.test_split) & clips["path"].isin(drawn)].reset_index(drop=True)
    tested = own[own["video"].isin(test["path"])].reset_index(drop=True)
    trained = int(clips.loc[clips["split"] == params.train_split, "path"].isin(drawn).sum())
    folder = stage2_model if params.start == "stage2" else stage1_model
    start = None if params.start == "scratch" else folder
    nothing = DetectionData(test, tested, start, load_vision(folder)[0].config, raw_media)
    if not trained and test.empty:
        return nothing
    _require_boxes(params, trained, test, tested)
    require_devices(params.test.nproc, "detection.test.nproc")
    train_frames = key_frames(clips, own, params.train_split, params.fine_tuning.recipe())
    classes = listed_actions(params.actions, "detection.actions") or action_names(train_frames)
    evaluated, unseen = _evaluated(params, classes, tested)
    groups = _groups(params, evaluated)
    table, key = write_table(workspace, "detection-frames", train_frames)
    learnt = replace(nothing, train=train_frames, train_table=table, key=key, classes=classes)
    return replace(learnt, evaluated=evaluated, unseen=unseen, groups=groups)


def fine_tune(params: DetectionParams, seed: int, detection_data: DetectionData, workspace: Path) -> TrainedModel:
    """Train a detector from what ``params.start`` says.

    Args:
        params: frames, augmentation and loop.
        seed: of weights and order.
        detection_data: from :func:`gather_key_frames`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder, the history of the run, and its summary. Without boxes nothing is trained, and the folder says so.

    Raises:
        TrainingError: training failed.
    """
    return _train("detection", detection_data.start, None, params, seed, detection_data, workspace)


def train_control(params: DetectionParams, seed: int, detection_data: DetectionData, workspace: Path) -> TrainedModel:
    """Train the same detector with the same budget from scratch, if ``control`` wants it; see :func:`fine_tune`."""
    skipped = None if params.control else "detection.control is false"
    return _train("detection_control", None, skipped, params, seed, detection_data, workspace)


def _train(
    name: str,
    start: Path | None,
    skipped: str | None,
    params: DetectionParams,
    seed: int,
    data: DetectionData,
    workspace: Path,
) -> TrainedModel:
    folder = fresh_folder(workspace, f"{name}_model")
    reason = "the project has no boxes to train on" if data.train.empty else skipped
    if reason is not None:
        write_json(folder / SKIPPED_FILE, {"reason": reason})
        return folder, pd.DataFrame({"step": pd.Series(dtype="int64"), "loss": pd.Series(dtype=float)}), {}
    tuning = params.fine_tuning
    config = tuning.model_for(data.size, len(data.classes), interpolate=start is not None)
    arguments = {
        "model": config.model_dump(mode="json"),
        "start": None if start is None else str(start),
        "classes": list(data.classes),
        "config": tuning.recipe().model_dump(mode="json"),
        "frames": str(data.train_table),
        "media_root": str(data.media),
    }
    start_key = "" if start is None else weights_sha256(start)
    finished = train(name, FACTORY, arguments, [data.key, start_key], tuning.train, seed, workspace)
    detector = Detector(config)
    load_weights(detector, finished.weights(), source=str(finished.folder))
    save_detector(folder, detector, data.classes, {"steps": finished.steps, "seed": seed, "start_sha256": start_key})
    return folder, finished.history, finished.summary()


def _require_boxes(params: DetectionParams, trained: int, test: pd.DataFrame, tested: pd.DataFrame) -> None:
    if not trained or test.empty:
        raise ConfigError(
            f"detection: expected annotated boxes in train_split and in test_split, or in neither, found them in {trained} "
            f"videos of {params.train_split} and {len(test)} of {params.test_split}. Change detection.train_split or "
            "test_split, or add boxes"
        )
    if (tested.loc[tested["source"] == "annotated", "label"] == "").all():
        raise EvaluationError(
            f"detection: expected actions in the annotated boxes of {params.test_split}, found boxes without any; name the "
            "actions in the column label"
        )
    source, lowest = params.test.source, params.test.score
    if not ((tested["source"] == source) & (tested["score"] >= lowest)).any():
        raise EvaluationError(
            f"detection: expected {source} boxes with a score of at least {lowest} in the {len(test)} annotated videos of "
            f"{params.test_split}, found none; set detection.test.source to annotated, or add a person detector's boxes"
        )


def _evaluated(
    params: DetectionParams, classes: tuple[str, ...], tested: pd.DataFrame
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the actions that count, and those of them that occur in the test and that the detector does not tell."""
    there = tested.loc[(tested["source"] == "annotated") & (tested["label"] != ""), "label"]
    listed = listed_actions(params.evaluated, "detection.evaluated")
    if listed is None:
        unseen = tuple(sorted(set(there) - set(classes)))
        return (*classes, *unseen), unseen
    unseen = tuple(name for name in listed if name not in classes)
    strange = [name for name in unseen if name not in set(there)]
    if strange:
        raise ConfigError(
            f"detection.evaluated: {len(strange)} of {len(listed)} actions occur neither in training nor in the test, such as "
            f"{strange[0]!r}; expected names as in the box table, such as {classes[0]!r}"
        )
    return listed, unseen


def _groups(params: DetectionParams, evaluated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    groups = params.groups or {}
    for name, actions in groups.items():
        strange = [action for action in actions if action not in evaluated]
        if strange:
            raise ConfigError(
                f"detection.groups.{name}: {strange[0]!r} is not among the {len(evaluated)} evaluated actions, such as "
                f"{evaluated[0]!r}"
            )
    return groups
