"""What the detector and its control are trained and tested on, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_text_list
from umt_pipeline.data.mapped import write_table
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.workers import require_devices
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.detection.params import DetectionParams
from umt_pipeline.tasks.detection.training import action_names, key_frames, key_numbers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DetectionData:
    """What the detector and its control are trained and tested on.

    Attributes:
        videos: rows of the video table, of test videos in which people drew a box.
        boxes: their boxes, annotated and detected, ``video`` being the path of the video table.
        start: model folder to start from, None for scratch.
        size: of its encoder, or of the stage-1 encoder for ``start: scratch``.
        media: folder of the video files.
        left_out: rows of the box table that are not used, by reason.
        test_videos_without_box: videos of the test split in which people drew no box.
        train: key frames trained on; empty where nothing is trained, as is all that follows.
        train_table: the same as a file.
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
    left_out: Mapping[str, int]
    test_videos_without_box: int
    train: pd.DataFrame = field(default_factory=pd.DataFrame)
    train_table: Path = Path()
    classes: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def gather_key_frames(params: DetectionParams, tables: Mapping[str, Any], workspace: Path) -> DetectionData:
    """Check everything that training and test need.

    Args:
        params: splits, actions, what to start from.
        tables: ``boxes`` (without annotated ones nothing is trained), ``videos``, ``raw_media``, ``stage1_model`` (whose
            encoder's size is that of ``start: scratch``), ``stage2_model``.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: annotated boxes of only one of training and test, a list of actions that is none, one that names an
            action that is not told, or more processes for the test than devices.
        EvaluationError: the test has no box of ``params.test.source``.
        CheckpointError: the model to start from is not complete.
    """
    videos, boxes = tables["videos"], tables["boxes"]
    clips = videos[videos["media"] == "video"]
    paths = dict(zip(clips["video_id"], clips["path"], strict=True))
    told = listed_actions(params.actions, "detection.actions")
    own, left_out = _usable(boxes.assign(video=boxes["video_id"].map(paths).astype(object)), clips, told, params)
    drawn = set(own.loc[own["source"] == "annotated", "video"])
    of_test = clips[clips["split"] == params.test_split]
    test = of_test[of_test["path"].isin(drawn)].reset_index(drop=True)
    tested = own[own["video"].isin(test["path"])].reset_index(drop=True)
    trained = int(clips.loc[clips["split"] == params.train_split, "path"].isin(drawn).sum())
    start, sized = params.start_folders(tables)
    size = load_vision(sized)[0].config
    nothing = DetectionData(test, tested, start, size, tables["raw_media"], left_out, len(of_test) - len(test))
    if not trained and test.empty:
        return nothing
    _require_boxes(params, trained, test, tested)
    require_devices(params.test.nproc, "detection.test.nproc")
    train_frames = key_frames(clips, own, params.train_split, params.fine_tuning.recipe())
    classes = told or action_names(train_frames)
    evaluated, unseen = _evaluated(params, classes, tested)
    table = write_table(workspace, "detection-frames", train_frames)
    learnt = replace(nothing, train=train_frames, train_table=table, classes=classes)
    return replace(learnt, evaluated=evaluated, unseen=unseen, groups=_groups(params, evaluated))


def _usable(
    boxes: pd.DataFrame, clips: pd.DataFrame, told: tuple[str, ...] | None, params: DetectionParams
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Leave out boxes at times that are not in their file, and annotated ones of actions that the detector does not tell."""
    by_path = clips.set_index("path")
    fps, frames = (boxes["video"].map(by_path[name]).astype(np.float64) for name in ("fps", "num_frames"))
    key = key_numbers(boxes["timestamp_s"], fps, params.fine_tuning.start_s)
    outside = (key < 0) | (key >= frames)
    strange = pd.Series(False, index=boxes.index)
    if told is not None:
        strange = ~outside & (boxes["source"] == "annotated") & (boxes["label"] != "") & ~boxes["label"].isin(told)
    left_out = {"outside_video": int(outside.sum()), "unknown_action": int(strange.sum())}
    for reason, count in left_out.items():
        if count:
            first = boxes[outside if reason == "outside_video" else strange].iloc[0]
            logger.warning(
                "detection: %d of %d boxes are left out: %s, the first at %s s of %s with label %r (the files begin at %s s)",
                count,
                len(boxes),
                reason,
                first["timestamp_s"],
                first["video"],
                first["label"],
                params.fine_tuning.start_s,
            )
    kept = boxes[~outside & ~strange]
    if len(boxes) and kept.empty:
        raise ConfigError(
            f"detection: none of {len(boxes)} boxes can be used: {left_out}. Check detection.actions, and "
            f"detection.fine_tuning.start_s, which is {params.fine_tuning.start_s}"
        )
    return kept.drop(columns="video_id"), left_out


def listed_actions(path: str | None, parameter: str) -> tuple[str, ...] | None:
    """Read a JSON list of actions, which a parameter names; None where there is no file.

    Raises:
        ConfigError: it is not a list of different texts.
    """
    if path is None:
        return None
    found = read_text_list(Path(path), parameter)
    if len(set(found)) != len(found):
        raise ConfigError(f"{parameter}: expected different actions in {path}, found one twice")
    return found


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
