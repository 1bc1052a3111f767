"""Detection as a downstream task: what each person in a key frame does, against a control and against chance."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.evidence import aggregate, joined
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.workers import Workers, work_precision
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.reports.page import Page
from umt_pipeline.tasks.detection.boxes import BOX, FRAME
from umt_pipeline.tasks.detection.data import DetectionData, gather_key_frames
from umt_pipeline.tasks.detection.figures import detection_svg, shown_frames
from umt_pipeline.tasks.detection.model import load_actions, load_detector
from umt_pipeline.tasks.detection.page import Actions, detection_page
from umt_pipeline.tasks.detection.params import DetectionParams
from umt_pipeline.tasks.detection.scoring import MIN_IOU, DetectionScores, action_evidence, score
from umt_pipeline.tasks.detection.testing import DetectedActions, predict, prediction_table
from umt_pipeline.tasks.detection.training import DetectionSpec, locate
from umt_pipeline.tasks.task import DownstreamTask, Plan, Runs, Shown, Skipped, Tested
from umt_pipeline.video.reader import read_frames

CHANCE = "chance"
ANNOTATION = [*FRAME, *BOX, "label", "score", "source"]
BOX_INDEX = [*FRAME, *BOX]


class Detection(DownstreamTask[DetectionParams, DetectionData]):
    """Fine-tuning for action detection."""

    name = "detection"
    params = DetectionParams
    tables = ("videos", "boxes", "raw_media", "stage1_model", "stage2_model")
    headline: ClassVar = {"map": "detection/*/{model}/map"}
    has_picture = True

    def gather(self, params: DetectionParams, tables: Mapping[str, Any], workspace: Path) -> DetectionData:
        return gather_key_frames(params, tables, workspace)

    def runs(self, params: DetectionParams, seed: int, data: DetectionData) -> Plan:
        if data.train.empty:
            nothing = Skipped("the project has no boxes to train on")
            return Plan(nothing, nothing)

        def runs(start: Path | None) -> Runs:
            spec = DetectionSpec(
                model=params.fine_tuning.model_for(data.size, len(data.classes), interpolate=start is not None),
                start=start,
                classes=data.classes,
                recipe=params.fine_tuning.recipe(),
                frames=data.train_table,
                media_root=data.media,
                train=params.fine_tuning.train,
                seed=seed,
            )
            return {"": spec}

        return Plan(runs(data.start), runs(None) if params.control else Skipped("detection.control is false"))

    def test(
        self, params: DetectionParams, seed: int, data: DetectionData, models: Mapping[str, Path], workspace: Path
    ) -> Tested:
        """Test on all key frames of the test split in which there are boxes of ``params.test.source``.

        Beside the models stands ``chance``: the same boxes with their confidence, all actions equally likely in each.
        """
        truth = data.boxes[data.boxes["source"] == "annotated"]
        found = {name: _predict(params, data, folder) for name, folder in models.items()}
        if found:
            first = next(iter(found.values()))
            found[CHANCE] = DetectedActions(_with_confidence(first.table, data.boxes, params), first.failures)
        scores = {
            name: score(
                actions.table, truth, data.evaluated, failures=actions.failed_videos(), per_frame=params.per_frame
            )
            for name, actions in found.items()
        }  # fmt: skip
        video_ids = dict(zip(data.videos["path"], data.videos["video_id"], strict=True))
        tasks = {name: f"detection/{params.test_split}/{name}" for name in found}
        evidence = joined(
            action_evidence(tasks[name], actions.table, truth, data.evaluated, video_ids) for name, actions in found.items()
        )
        values = {
            name: {**_values(result, data), "top1": aggregate(evidence, f"{tasks[name]}/top1")}
            for name, result in scores.items()
        }
        weights = {name: weights_sha256(folder) for name, folder in models.items()}
        records = [_record(params, seed, data, name, values[name], found[name], weights.get(name)) for name in scores]
        tables = [prediction_table(found[name], truth, data.classes).assign(model=name) for name in models]
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"video": pd.Series(dtype=str)})
        table.insert(0, "model", table.pop("model") if tables else "")
        metrics = {"test": values, **_about(data, found, scores)}
        frames = []
        if found:
            start_s = params.fine_tuning.start_s
            frames = shown_frames(found[self.model_name(params)].table, truth, data.media, data.videos, start_s)
        picture = detection_svg({name: result.per_class for name, result in scores.items()}, frames)
        return Tested(metrics, records, table, evidence, picture)

    def page(self, shown: Shown[DetectionParams, DetectionData]) -> Page:
        """Show numbers, curves, actions, and key frames with their boxes."""
        params, data = shown.params, shown.data
        people = data.train["labels"] if len(data.train) else ()
        actions = Actions(
            truth=data.boxes[data.boxes["source"] == "annotated"],
            trained=Counter(action for labels in people for own in labels for action in own),
            groups=data.groups,
        )

        by_path = data.videos.set_index("path")

        def read(video: str, timestamp_s: float) -> np.ndarray:
            frame = pd.DataFrame({"video": [video], "timestamp_s": [timestamp_s]})
            key = int(locate(frame, by_path, params.fine_tuning.start_s)["key"].iloc[0])
            return read_frames(data.media / video, [key])[0]

        return detection_page(shown, actions, _notes(params, data, shown.metrics), read)


def _with_confidence(table: pd.DataFrame, boxes: pd.DataFrame, params: DetectionParams) -> pd.DataFrame:
    """Return detections whose score is the box's own: what is known of a box before its actions are."""
    people = boxes[boxes["source"] == params.test.source].drop_duplicates(BOX_INDEX)
    return table.drop(columns="score").merge(people[[*BOX_INDEX, "score"]], on=BOX_INDEX, how="left", validate="many_to_one")


def _predict(params: DetectionParams, data: DetectionData, folder: Path) -> DetectedActions:
    with Workers(functools.partial(load_detector, folder), params.test.nproc) as workers:
        return predict(workers, load_actions(folder), data.videos, data.boxes, data.media, params.fine_tuning, params.test)


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
    tested_boxes = data.boxes[(data.boxes["source"] == test.source) & (data.boxes["score"] >= test.score)]
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
            precision=work_precision(test),
            settings={
                "stride": clip.stride,
                "boxes": test.source,
                "lowest_confidence": test.score,
                "widen_x": test.widen[0],
                "widen_y": test.widen[1],
                "min_iou": MIN_IOU,
                "per_frame": params.per_frame,
                "key_frames": len(tested_boxes.drop_duplicates(FRAME)),
                "actions_evaluated": len(data.evaluated),
                "actions_unseen_in_training": ", ".join(data.unseen) or None,
            },
            model=name,
            checkpoint_sha256=sha256,
            seed=seed,
        ),
    )


def _notes(params: DetectionParams, data: DetectionData, metrics: Mapping[str, Any]) -> list[str]:
    """Say what was left out."""
    notes = []
    if not metrics["test"]:
        notes.append("There are no boxes to learn from: nothing was trained, nothing tested.")
    elif not params.control:
        notes.append("There is no control: detection.control is false.")
    if any(data.left_out.values()):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in data.left_out.items() if count)
        notes.append(f"{sum(data.left_out.values()):,} rows of the box table were left out: {reasons}.")
    if metrics["test"] and data.test_videos_without_box:
        empty = data.test_videos_without_box
        notes.append(f"{empty:,} videos of {params.test_split} were left out, since people drew no box in them.")
    for name, told in (
        ("unseen_in_training", "never seen in training: their average precision is 0"),
        ("without_ground_truth", "not in the test: they do not count"),
    ):
        if actions := metrics["actions"][name]:
            notes.append(f"Evaluated actions that are {told}: {', '.join(actions)}.")
    return notes


TASK = Detection()
