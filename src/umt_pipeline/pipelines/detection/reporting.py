"""Node that shows what the test of the detectors found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.pipelines.detection.nodes import DetectionData
from umt_pipeline.pipelines.detection.params import DetectionParams
from umt_pipeline.reports.task import render_task_page, with_frames
from umt_pipeline.tasks.detection.figures import boxes_on_frame
from umt_pipeline.tasks.detection.page import DetectionResults, choose_frames, detection_page
from umt_pipeline.tasks.detection.training import locate
from umt_pipeline.tracking import page_provenance
from umt_pipeline.video.reader import read_frames


def report_detection(
    params: DetectionParams,
    detection_data: DetectionData,
    metrics: dict[str, Any],
    records: list[dict[str, Any]],
    predictions: pd.DataFrame,
    picture: str,
    history: pd.DataFrame,
    control_history: pd.DataFrame,
) -> str:
    """Return the page of the detection: numbers, curves, actions, and key frames with their boxes.

    Args:
        params: of the pipeline.
        detection_data: from :func:`gather_key_frames`.
        metrics: from :func:`evaluate_detectors`, as are the next three.
        records: each number with its protocol.
        predictions: a row per box and model.
        picture: SVG.
        history: rows of training, as is ``control_history``; without rows where nothing was trained.
        control_history: of the control.
    """
    data = detection_data
    people = data.train["labels"] if len(data.train) else ()
    results = DetectionResults(
        metrics=metrics,
        records=records,
        predictions=predictions,
        truth=data.boxes[data.boxes["source"] == "annotated"],
        trained=Counter(action for labels in people for own in labels for action in own),
        groups=data.groups,
        picture=picture,
        histories={params.start: history, "control": control_history},
        notes=_notes(params, metrics),
    )
    shown = choose_frames(results)
    page = detection_page(results, shown, page_provenance(records), params.model_dump(mode="json"))
    frames = pd.DataFrame([(frame.video, frame.timestamp_s) for frame in shown], columns=["video", "timestamp_s"])
    located = locate(frames, data.videos.set_index("path"), params.fine_tuning.start_s).to_dict("records")
    by_name = {frame.name: (frame, row) for frame, row in zip(shown, located, strict=True)}

    def load(name: str) -> np.ndarray:
        frame, row = by_name[name]
        pixels = read_frames(data.media / row["path"], [row["key"]])[0]
        return boxes_on_frame(pixels, [box for box, _ in frame.people], frame.found)[None]

    return render_task_page(with_frames(page, load))


def _notes(params: DetectionParams, metrics: dict[str, Any]) -> list[str]:
    """Say what was left out."""
    notes = []
    table = metrics["table"]
    if not metrics["test"]:
        notes.append("There are no boxes to learn from: nothing was trained, nothing tested.")
    elif not params.control:
        notes.append("There is no control: detection.control is false.")
    if table["rejected"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in table["reasons"].items())
        notes.append(f"{table['rejected']:,} of {table['rows_in']:,} rows of the box table were rejected: {reasons}.")
    empty = table["splits"].get(params.test_split, {}).get("videos_without_box", 0)
    if metrics["test"] and empty:
        notes.append(f"{empty:,} videos of {params.test_split} were left out, since people drew no box in them.")
    for name, told in (
        ("unseen_in_training", "never seen in training: their average precision is 0"),
        ("without_ground_truth", "not in the test: they do not count"),
    ):
        if actions := metrics["actions"][name]:
            notes.append(f"Evaluated actions that are {told}: {', '.join(actions)}.")
    return notes
