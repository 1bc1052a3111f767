"""Node that tests the detectors: what each box does, mean average precision, and a picture of both."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline import __version__
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.models.folders import SKIPPED_FILE, weights_sha256
from umt_pipeline.pipelines.detection.nodes import DetectionData
from umt_pipeline.pipelines.detection.params import DetectionParams
from umt_pipeline.tasks.detection.figures import detection_svg, shown_frames
from umt_pipeline.tasks.detection.model import load_actions, load_detector
from umt_pipeline.tasks.detection.scoring import BOX, MIN_IOU, DetectionScores, score
from umt_pipeline.tasks.detection.testing import DetectedActions, predict, prediction_table

CHANCE = "chance"
ANNOTATION = ["video", "timestamp_s", "x1", "y1", "x2", "y2", "label", "score", "source"]
Results = tuple[dict[str, Any], list[dict[str, Any]], pd.DataFrame, str]


def evaluate_detectors(
    params: DetectionParams,
    seed: int,
    detection_data: DetectionData,
    box_report: dict[str, Any],
    model: Path,
    summary: dict[str, Any],
    control_model: Path,
    control_summary: dict[str, Any],
) -> Results:
    """Test the detectors on all key frames of the test split in which there are boxes of ``params.test.source``.

    Beside the models stands ``chance``: the same boxes with their confidence, all actions equally likely in each.

    Args:
        params: whose boxes, which actions count.
        seed: of the run, for the records.
        detection_data: from :func:`gather_key_frames`.
        box_report: of the box table.
        model: from :func:`fine_tune`.
        summary: likewise.
        control_model: from :func:`train_control`.
        control_summary: likewise.

    Returns:
        Metrics with the summaries of training, records with their protocols, a row per box and model, and a picture (SVG).

    Raises:
        EvaluationError: scores from which no honest number can be computed, or a process ended.
    """
    data, tuning = detection_data, params.fine_tuning
    folders = {params.start: model, "control": control_model}
    trained = {name: folder for name, folder in folders.items() if not (folder / SKIPPED_FILE).is_file()}
    truth = data.boxes[data.boxes["source"] == "annotated"]
    found = {name: _predict(params, data, folder) for name, folder in trained.items()}
    if found:
        first = next(iter(found.values()))
        found[CHANCE] = DetectedActions(_with_confidence(first.table, data.boxes, params), first.failures)
    scores = {
        name: score(
            actions.table, truth, data.evaluated, failures=actions.failed_videos(), per_frame=params.per_frame
        )
        for name, actions in found.items()
    }  # fmt: skip
    values = {name: _values(result, data) for name, result in scores.items()}
    records = [
        _record(params, seed, data, name, values[name], found[name], weights_sha256(trained[name]) if name in trained else None)
        for name in scores
    ]
    tables = [prediction_table(found[name], truth, data.classes).assign(model=name) for name in trained]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"video": pd.Series(dtype=str)})
    table.insert(0, "model", table.pop("model") if tables else "")
    metrics = {
        "table": box_report,
        "test": values,
        **_about(data, found, scores),
        "training": {params.start: summary, "control": control_summary},
    }
    frames = shown_frames(found[params.start].table, truth, data.media, data.videos, tuning.start_s) if found else []
    picture = detection_svg({name: result.per_class for name, result in scores.items()}, frames)
    return metrics, [record.model_dump(mode="json") for record in records], table, picture


def _with_confidence(table: pd.DataFrame, boxes: pd.DataFrame, params: DetectionParams) -> pd.DataFrame:
    """Return detections whose score is the box's own: what is known of a box before anybody looks for actions in it."""
    place = ["video", "timestamp_s", *BOX]
    people = boxes[boxes["source"] == params.test.source].drop_duplicates(place)
    return table.drop(columns="score").merge(people[[*place, "score"]], on=place, how="left", validate="many_to_one")


def _predict(params: DetectionParams, data: DetectionData, folder: Path) -> DetectedActions:
    load = functools.partial(load_detector, folder)
    tuning = params.fine_tuning
    with Workers(load(), load, params.test.nproc) as workers:
        return predict(
            workers, load_actions(folder), data.videos, data.boxes, data.media, tuning.clip, params.test, tuning.start_s
        )


def _about(data: DetectionData, found: Mapping[str, DetectedActions], scores: Mapping[str, DetectionScores]) -> dict[str, Any]:
    """Return the average precision of each action, which actions there are, and what was missed whole."""
    return {
        "per_action": {
            action: {name: result.per_class[action] for name, result in scores.items() if action in result.per_class}
            for action in data.evaluated
        },
        "actions": {
            "told": len(data.classes),
            "evaluated": len(data.evaluated),
            "unseen_in_training": list(data.unseen),
            "without_ground_truth": list(next(iter(scores.values())).skipped) if scores else [],
        },
        "missed": {name: {"videos": result.missing, "frames": len(found[name].failures)} for name, result in scores.items()},
    }


def _values(scores: DetectionScores, data: DetectionData) -> dict[str, float]:
    """Return the mean average precision over all actions, and over each group's that have ground truth."""
    values = {"map": scores.mean_ap}
    for name, actions in data.groups.items():
        known = [scores.per_class[action] for action in actions if action in scores.per_class]
        if known:
            values[f"map_{name}"] = float(np.mean(known))
    return values


def _record(
    params: DetectionParams,
    seed: int,
    data: DetectionData,
    name: str,
    values: dict[str, float],
    found: DetectedActions,
    sha256: str | None,
) -> Record:
    trained = [
        {"video_id": row["video_id"], "timestamp_s": row["timestamp_s"], "boxes": row["boxes"], "labels": row["labels"]}
        for row in data.train.to_dict("records")
    ]
    tested = [{str(column): value for column, value in row.items()} for row in data.boxes[ANNOTATION].to_dict("records")]
    clip, test = params.fine_tuning.clip, params.test
    asked = data.boxes[(data.boxes["source"] == test.source) & (data.boxes["score"] >= test.score)]
    return Record(
        task=f"detection/{params.test_split}/{name}",
        values=values,
        protocol=Protocol(
            split=params.test_split,
            annotation_sha256=rows_sha256([*trained, *tested, {"evaluated": list(data.evaluated)}]),
            clips=len(data.videos),
            failures=tuple(sorted({f"{video}@{at}" for video, at in found.failures})),
            frames=clip.frames,
            resolution=clip.short_side,
            settings={
                "stride": clip.stride,
                "boxes": test.source,
                "lowest_confidence": test.score,
                "widen_x": test.widen[0],
                "widen_y": test.widen[1],
                "min_iou": MIN_IOU,
                "per_frame": params.per_frame,
                "key_frames": len(asked.drop_duplicates(["video", "timestamp_s"])),
                "actions_evaluated": len(data.evaluated),
                "actions_unseen_in_training": ", ".join(data.unseen) or None,
            },
            model=name,
            checkpoint_sha256=sha256,
            seed=seed,
            version=__version__,
        ),
    )
