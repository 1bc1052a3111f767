"""Testing action detectors: what the people do whom a person detector found in key frames.

Whole frames are shown, not crops. A box is widened for the detector, and returned as it was found. The score of an
action is its probability times the confidence of the person detector.

Source: the published test on AVA: boxes of confidence 0.8 and more, widened by 10 % of their width and 5 % of their height
at each edge.

Shapes: B key frames of one batch, T H W their clips, M boxes of one of them, R boxes of all of them, C actions, D = R * C.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.params import WorkParams
from umt_pipeline.evaluation.workers import Tick, Workers, default_device, work_precision
from umt_pipeline.tasks.detection.boxes import BOX, FRAME, best_overlaps
from umt_pipeline.tasks.detection.model import Detector
from umt_pipeline.tasks.detection.scoring import MIN_IOU
from umt_pipeline.tasks.detection.training import DetectionRecipe, locate
from umt_pipeline.video.box_views import KeyFrameClip, key_frame_indices, load_whole, whole_size, widened
from umt_pipeline.video.pixels import normalise_patches, patchify

logger = logging.getLogger(__name__)

# Actions of a box in the table for people.
SHOWN = 5


class DetectionTest(WorkParams):
    """Whose actions are predicted, and how the work is divided.

    Attributes:
        source: ``detected``, a person detector's boxes, as published; ``annotated``: those that people drew, whose confidence
            is 1, which tells the detector of actions from that of persons.
        score: lowest confidence.
        widen: by how much each edge moves out, as shares of the box's width and height.
        batch_size: counts key frames here.
    """

    source: Literal["detected", "annotated"] = "detected"
    score: float = Field(0.8, ge=0, le=1)
    widen: tuple[float, float] = (0.1, 0.05)
    batch_size: int = Field(8, ge=1)


@dataclass(frozen=True)
class DetectedActions:
    """What a detector said.

    Args:
        table: columns video, timestamp_s, x1, y1, x2, y2, label, score: one row per box and action.
        failures: (video, timestamp) of key frames that could not be read, with the reason; their boxes count as missed.
    """

    table: pd.DataFrame
    failures: Mapping[tuple[str, float], str]

    def failed_videos(self) -> dict[str, str]:
        """Return the videos of which no key frame could be read, with the first reason."""
        read = set(self.table["video"].unique())
        reasons = {video: reason for (video, _), reason in reversed(list(self.failures.items()))}
        return {video: reason for video, reason in reasons.items() if video not in read}


def predict(
    workers: Workers[Detector],
    classes: Sequence[str],
    videos: pd.DataFrame,
    boxes: pd.DataFrame,
    media_root: Path,
    recipe: DetectionRecipe,
    config: DetectionTest,
) -> DetectedActions:
    """Run a detector on all people of all key frames.

    Args:
        workers: hold the detector, and share the key frames; each puts it on its GPU if it has one, and in eval mode.
        classes: C actions in the head's order.
        videos: rows of the clean video table, those of the test.
        boxes: a table ``RawBoxes``, whose ``video`` is the video table's ``path``; rows of other videos do not count.
        media_root: the paths are relative to it.
        recipe: of the training: frames and size of a clip, and where in the film the media files begin.
        config: whose boxes.

    Raises:
        EvaluationError: there is no such box, the model gave NaN or infinity for a key frame, or a process ended.
        TableError: a key frame lies outside its file.
    """
    frames = _frames(videos.set_index("path"), boxes, config, recipe.start_s)
    batches = _batches(frames, workers.here.config.vision.patch_size, recipe.clip, config.batch_size)
    load = functools.partial(_load, media_root, recipe.clip)
    run = functools.partial(_predict, load, tuple(classes), config, workers.threads(config.workers), work_precision(config))
    parts = workers.share(run, batches, "key frames", "frame")
    failures = {frame: reason for part in parts for frame, reason in part.failures.items()}
    for (video, at), reason in failures.items():
        logger.warning("detection: the people of %s at %s s count as missed: %s", video, at, reason)
    tables = [part.table for part in parts if len(part.table)]
    table = pd.concat(tables).sort_values(FRAME, kind="stable", ignore_index=True) if tables else parts[0].table
    return DetectedActions(table, failures)


def _batches(frames: pd.DataFrame, patch: int, clip: KeyFrameClip, batch_size: int) -> list[list[dict[str, Any]]]:
    """Cut key frames into batches of one shape each."""
    sizes = [whole_size(clip, patch, *size) for size in frames[["height", "width"]].to_numpy(int).tolist()]
    frames = frames.assign(
        video_id=frames.index.astype(str), tall=[size[0] for size in sizes], wide=[size[1] for size in sizes]
    )
    batches = []
    for _, group in frames.groupby(["tall", "wide"], sort=True):
        rows = [{str(name): value for name, value in row.items()} for row in group.to_dict("records")]
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return batches


def _load(media_root: Path, clip: KeyFrameClip, row: Mapping[str, Any]) -> np.ndarray:
    indices = key_frame_indices(clip, row["key"], row["num_frames"])
    return load_whole(media_root / row["path"], indices, row["tall"], row["wide"])


def _predict(
    load: Callable[[Mapping[str, Any]], np.ndarray],
    classes: tuple[str, ...],
    config: DetectionTest,
    threads: int,
    precision: Precision,
    model: Detector,
    batches: Sequence[Sequence[dict[str, Any]]],
    tick: Tick,
) -> DetectedActions:
    device = default_device()
    model = model.to(device).eval()
    rows = {str(row["video_id"]): row for batch in batches for row in batch}
    parts: list[pd.DataFrame] = []
    failures: dict[tuple[str, float], str] = {}
    for _, run in itertools.groupby(batches, key=lambda batch: (batch[0]["tall"], batch[0]["wide"])):
        names = [str(row["video_id"]) for batch in run for row in batch]
        # Only the last batch of a shape may be smaller: cut again, these are the same batches.
        for good, failed in decoded(names, lambda name: load(rows[name]), config.batch_size, threads):
            failures |= {(rows[name]["path"], rows[name]["timestamp_s"]): reason for name, reason in failed.items()}
            if good:
                people = [rows[name] for name in good]
                with autocast(precision, device):
                    parts.append(_scored(model, classes, people, np.stack(list(good.values())), config, device))
            tick(len(good) + len(failed))
    empty = pd.DataFrame(columns=[*FRAME, *BOX, "label", "score"])
    return DetectedActions(pd.concat(parts, ignore_index=True) if parts else empty, failures)


def _frames(videos: pd.DataFrame, boxes: pd.DataFrame, config: DetectionTest, start_s: float) -> pd.DataFrame:
    """Return a row per key frame with its boxes and their confidences, as lists."""
    wanted = boxes["video"].isin(videos.index) & (boxes["source"] == config.source) & (boxes["score"] >= config.score)
    people = boxes[wanted].drop_duplicates([*FRAME, *BOX]).reset_index(drop=True)
    if people.empty:
        raise EvaluationError(
            f"table boxes: expected {config.source} boxes of the {len(videos)} test videos with a score of at least "
            f"{config.score}, found none among {len(boxes)} rows"
        )
    people = people.assign(boxes=pd.Series(people[BOX].to_numpy(np.float64).tolist(), index=people.index))
    frames = people.groupby(FRAME)[["boxes", "score"]].agg(list).reset_index()
    return locate(frames, videos, start_s)


@torch.inference_mode()
def _scored(
    model: Detector,
    classes: Sequence[str],
    rows: Sequence[dict[str, Any]],
    frames_BTHWC: np.ndarray,
    config: DetectionTest,
    device: torch.device,
) -> pd.DataFrame:
    """Return a row per box and action of these key frames."""
    patch = model.config.vision.patch_size
    counts = [len(row["boxes"]) for row in rows]
    boxes_BM4 = np.tile(np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32), (len(rows), max(counts), 1))
    for index, row in enumerate(rows):
        boxes_BM4[index, : counts[index]] = widened(np.array(row["boxes"]), *config.widen)
    patches_BVP = normalise_patches(patchify(torch.from_numpy(frames_BTHWC).to(device), patch))
    grid = (frames_BTHWC.shape[2] // patch, frames_BTHWC.shape[3] // patch)
    logits_BMC: Tensor = model(patches_BVP, torch.from_numpy(boxes_BM4).to(device), grid)
    probabilities_BMC = logits_BMC.double().sigmoid().cpu().numpy()
    found_RC = np.concatenate([probabilities_BMC[index, :count] for index, count in enumerate(counts)])
    frame_R = np.repeat(np.arange(len(rows)), counts)
    broken_R = np.flatnonzero(~np.isfinite(found_RC).all(axis=1))
    if broken_R.size:
        bad = rows[frame_R[broken_R[0]]]
        raise EvaluationError(
            f"the detector gave NaN or infinity for {bad['path']!r} at {bad['timestamp_s']} s: check its weights"
        )
    confidence_R = np.concatenate([np.array(row["score"], dtype=np.float64) for row in rows])
    box_R4 = np.concatenate([np.array(row["boxes"], dtype=np.float64) for row in rows])
    row_D = np.repeat(np.arange(len(box_R4)), len(classes))
    return pd.DataFrame(
        {
            "video": np.array([row["path"] for row in rows], dtype=object)[frame_R[row_D]],
            "timestamp_s": np.array([row["timestamp_s"] for row in rows])[frame_R[row_D]],
            **{edge: box_R4[row_D, index] for index, edge in enumerate(BOX)},
            "label": np.tile(np.array(classes, dtype=object), len(box_R4)),
            "score": (found_RC * confidence_R[:, None]).ravel(),
        }
    )


def prediction_table(found: DetectedActions, truth: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return what a detector said as a table for people: a row per box, its best :data:`SHOWN` actions side by side.

    Args:
        found: from :func:`predict` with the same ``classes``.
        truth: annotated boxes; ``true`` names the actions of the one that a box overlaps most, by at least one half.
        classes: C actions in the head's order.

    Returns:
        Columns video, timestamp_s, x1, y1, x2, y2, true, failure, action1, score1, action2, …; key frames that could not be
        read come last, with the reason in ``failure``.
    """
    best = min(SHOWN, len(classes))
    names = np.array(classes, dtype=object)
    # All actions of a box stand together, in the head's order.
    scores_RC = found.table["score"].to_numpy(np.float64).reshape(-1, len(classes))
    order_RC = np.argsort(-scores_RC, axis=1, kind="stable")[:, :best]
    table = found.table[[*FRAME, *BOX]].iloc[:: len(classes)].reset_index(drop=True)
    table["true"] = true_actions(table, truth)
    table["failure"] = ""
    for rank in range(best):
        table[f"action{rank + 1}"] = names[order_RC[:, rank]]
        table[f"score{rank + 1}"] = scores_RC[np.arange(len(table)), order_RC[:, rank]]
    # In order: threads find them in any.
    failures = [(*frame, reason) for frame, reason in sorted(found.failures.items())]
    failed = pd.DataFrame(failures, columns=[*FRAME, "failure"])
    if failed.empty:
        return table
    both = pd.concat([table, failed], ignore_index=True) if len(table) else failed.reindex(columns=table.columns)
    texts = ["true", *(f"action{rank + 1}" for rank in range(best))]
    return both.assign(**{name: both[name].fillna("") for name in texts})


def true_actions(boxes: pd.DataFrame, truth: pd.DataFrame) -> pd.Series:
    """Return the actions, joined by ``; ``, of the annotated box that each box overlaps most, empty below one half.

    Args:
        boxes: columns video, timestamp_s, x1, y1, x2, y2, a row per box, rows numbered from 0.
        truth: the same and ``label``, a row per box and action.
    """
    labels = truth.groupby([*FRAME, *BOX], sort=False)["label"]
    people = labels.agg(lambda names: "; ".join(filter(None, names))).reset_index()
    near = best_overlaps(boxes, people, MIN_IOU)
    return near.set_index("index")["label"].reindex(boxes.index).fillna("").astype(object)
