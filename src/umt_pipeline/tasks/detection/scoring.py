"""Scoring action detection: PASCAL VOC's mean average precision over key frames, as AVA's official evaluation computes it.

In each key frame, and for each action by itself, a detection belongs to the ground truth box that it overlaps most (the first
of equals). It hits where their intersection over union is at least 0.5 and no detection of a higher score has that box already;
every other detection is a false alarm, also one in a frame without ground truth. Average precision is the area under the
curve of precision over recall, each precision replaced by the best one at the same or a higher recall; the mean is over the
evaluated actions that have ground truth. Ties are broken the pessimistic way: of equal scores false alarms come first.

Source: AVA's evaluation script, which takes PASCAL's from TensorFlow's object detection. That script keeps the 50 best
detections of a frame (``per_frame``), the code that Unmasked Teacher's numbers come from keeps all.

Average precision is no mean over boxes, so it cannot tell on which of them two detectors differ. :func:`action_evidence` can:
for each annotated action, how many wrong ones of the same person score as high.

Shapes: G ground truth rows, D detections, N pairs of a detection and a ground truth box of its frame and action, C actions, R
detected boxes, P annotated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.evidence import CLASS_RANK, evidence_rows
from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError, best_candidates
from umt_pipeline.tasks.detection.boxes import BOX, FRAME, best_overlaps
from umt_pipeline.video.box_views import box_iou

MIN_IOU = 0.5
NO_DETECTION = "no detection"
# Timestamps are compared as whole milliseconds, so that 902, 902.0 and what a CSV file makes of it are one frame.
_TICKS_PER_S = 1000
_COLUMNS = [*FRAME, *BOX, "label"]


@dataclass(frozen=True)
class DetectionScores:
    """How good detections are.

    Args:
        mean_ap: percent; the mean of ``per_class``.
        per_class: percent, average precision of each evaluated action that has ground truth.
        skipped: evaluated actions without ground truth.
        missing: videos with ground truth and without a detection, whose boxes all count as missed, with the reason.
    """

    mean_ap: float
    per_class: dict[str, float]
    skipped: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)


def score(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    classes: Sequence[str],
    *,
    failures: Mapping[str, str] | None = None,
    per_frame: int | None = None,
) -> DetectionScores:
    """Compare detected actions with those that people annotated.

    Args:
        detections: columns video, timestamp_s, x1, y1, x2, y2, label, score: one row per box and action.
        truth: the same columns without the score, such as the annotated rows of a table ``RawBoxes``.
        classes: the actions that are evaluated (60 of AVA's 80); rows of others are left out on both sides.
        failures: videos that could not be read, with the reason.
        per_frame: so many of a frame's detections count, those with the highest scores (the first of equals); None: all.

    Raises:
        EvaluationError: a score is not finite, a box has no area, a class is named twice, a video failed and has detections,
            or detections and ground truth have no video in common.
        NoDataError: there is no ground truth of the evaluated actions.
    """
    if len(set(classes)) != len(classes):
        raise EvaluationError(
            f"detection: expected different classes to evaluate, found {len(classes)} of which some are equal"
        )
    _require_valid(detections, "detections", [*_COLUMNS, "score"])
    _require_valid(truth, "ground truth", _COLUMNS)
    failures = dict(failures or {})
    _require_comparable(detections, truth, failures)
    known = truth[truth["label"].isin(list(classes))]
    found = detections[detections["label"].isin(list(classes))]
    frame_G, frame_D = _frames(known, found)
    if known.empty:
        raise NoDataError(f"detection: expected ground truth boxes of the {len(classes)} evaluated actions, found none")
    score_D = found["score"].to_numpy(np.float64)
    if per_frame is not None:
        best_D = _best(frame_D, score_D, per_frame)
        found, frame_D, score_D = found.iloc[best_D], frame_D[best_D], score_D[best_D]
    number = pd.Index(classes)
    label_G, label_D = (number.get_indexer(pd.Index(table["label"])).astype(np.int64) for table in (known, found))
    key_G, key_D = frame_G * len(classes) + label_G, frame_D * len(classes) + label_D
    hit_D = _hits(key_G, known[BOX].to_numpy(np.float64), key_D, found[BOX].to_numpy(np.float64), score_D)
    count_C = np.bincount(label_G, minlength=len(classes))
    ap_C = _average_precisions(label_D, score_D, hit_D, count_C)
    per_class = {name: 100.0 * float(ap_C[i]) for i, name in enumerate(classes) if count_C[i]}
    silent = sorted(set(known["video"].unique()) - set(detections["video"].unique()))
    return DetectionScores(
        mean_ap=float(np.mean(list(per_class.values()))),
        per_class=per_class,
        skipped=tuple(name for i, name in enumerate(classes) if not count_C[i]),
        missing={video: failures.get(video, NO_DETECTION) for video in silent},
    )


def action_evidence(
    task: str, detections: pd.DataFrame, truth: pd.DataFrame, classes: Sequence[str], video_ids: Mapping[str, str]
) -> pd.DataFrame:
    """Return the rank of each annotated action among the actions of the detected box that its box overlaps most.

    The rank is one more than the number of evaluated actions that the annotated box does not have and that score at least as
    high. It is the last one, C + 1, where no detected box overlaps by at least one half, the frame could not be read, or the
    detector does not tell the action. ``top1`` of it is the share of annotated actions that no wrong one outscores.

    Args:
        task: of the record.
        detections: as for :func:`score`, as are the next two; of a box and an action one row.
        truth: annotated boxes, of a box and an action one row.
        classes: the actions that are evaluated.
        video_ids: of each of the tables' videos.
    """
    number = pd.Index(classes)
    known = _in_ticks(truth[truth["label"].isin(list(classes))])
    found = _in_ticks(detections[detections["label"].isin(list(classes))])
    box_G, box_D = (table.groupby([*FRAME, *BOX], sort=False).ngroup().to_numpy(np.int64) for table in (known, found))
    label_G, label_D = (number.get_indexer(pd.Index(table["label"])) for table in (known, found))
    annotated, detected = (table[[*FRAME, *BOX]].drop_duplicates(ignore_index=True) for table in (known, found))
    # One row more, of scores of nothing, for boxes that nobody detected.
    score_RC = np.full((len(detected) + 1, len(classes)), -np.inf)
    score_RC[box_D, label_D] = found["score"].to_numpy(np.float64)
    true_PC = np.zeros((len(annotated), len(classes)), dtype=bool)
    true_PC[box_G, label_G] = True
    near = best_overlaps(annotated, detected.assign(detection=detected.index), MIN_IOU)
    detection_P = np.full(len(annotated), len(detected))
    detection_P[near["index"].to_numpy(np.int64)] = near["detection"].to_numpy(np.int64)
    score_GC, true_GC = score_RC[detection_P[box_G]], true_PC[box_G]
    own_G = score_GC[np.arange(len(known)), label_G]
    ahead_G = (~true_GC & (score_GC >= own_G[:, None])).sum(axis=1)
    rank_G = np.where(np.isneginf(own_G), len(classes) + 1, 1 + ahead_G)
    answer_G = np.array([*classes, None], dtype=object)[best_candidates(score_GC, true_GC)]
    video = known["video"].map(video_ids)
    corners = known[BOX].astype(str)
    box = corners["x1"] + "," + corners["y1"] + "," + corners["x2"] + "," + corners["y2"]
    item = video + " " + known["timestamp_s"].astype(str) + " s " + box + " " + known["label"]
    return evidence_rows(task, CLASS_RANK, item, video, rank_G, answer_G, known["label"])


def _in_ticks(table: pd.DataFrame) -> pd.DataFrame:
    """Round times, so that equal frames have equal ones."""
    time = (table["timestamp_s"].astype(np.float64) * _TICKS_PER_S).round() / _TICKS_PER_S
    return table.assign(timestamp_s=time, **{edge: table[edge].astype(np.float64) for edge in BOX})


def _require_valid(table: pd.DataFrame, name: str, columns: list[str]) -> None:
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise EvaluationError(f"{name}: expected columns {', '.join(columns)}, found none called {', '.join(absent)}")
    numbers = [column for column in columns if column not in ("video", "label")]
    values = table[numbers].to_numpy(np.float64)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if broken.size:
        row = table.iloc[broken[0]]
        raise EvaluationError(
            f"{name}: {broken.size} of {len(table)} rows hold NaN or infinity, the first is row {broken[0]} of video "
            f"{row['video']!r} at {row['timestamp_s']} s: {', '.join(f'{column} {row[column]}' for column in numbers[1:])}. "
            "Check the model's weights"
        )
    x1, y1, x2, y2 = (table[column].to_numpy(np.float64) for column in BOX)
    flat = np.flatnonzero((x1 >= x2) | (y1 >= y2))
    if flat.size:
        row = table.iloc[flat[0]]
        raise EvaluationError(
            f"{name}: expected x1 < x2 and y1 < y2, found {flat.size} boxes without area, the first is row {flat[0]} of video "
            f"{row['video']!r} at {row['timestamp_s']} s: {[float(row[edge]) for edge in BOX]}"
        )


def _require_comparable(detections: pd.DataFrame, truth: pd.DataFrame, failures: Mapping[str, str]) -> None:
    detected = set(detections["video"].unique())
    both = sorted(detected & set(failures))
    if both:
        raise EvaluationError(f"detection: {len(both)} videos are named as unreadable and have detections: {both[0]!r}")
    if detected and len(truth) and detected.isdisjoint(truth["video"].unique()):
        raise EvaluationError(
            f"detections and ground truth have no video in common: the first are {min(detected)!r} and "
            f"{min(truth['video'])!r}. Give both the same names"
        )


def _frames(*tables: pd.DataFrame) -> list[np.ndarray]:
    """Return the number of each row's key frame, for each table."""
    video = pd.factorize(np.concatenate([table["video"].to_numpy(object) for table in tables]))[0]
    time = np.concatenate([table["timestamp_s"].to_numpy(np.float64) for table in tables])
    tick = np.rint(time * _TICKS_PER_S).astype(np.int64)
    frame = video * (tick.max(initial=0) + 1) + tick
    return np.split(frame, np.cumsum([len(table) for table in tables])[:-1])


def _best(frame_D: np.ndarray, score_D: np.ndarray, count: int) -> np.ndarray:
    """Return the rows, ascending, of the ``count`` highest scores of each frame."""
    order_D = np.lexsort((-score_D, frame_D))
    sorted_D = frame_D[order_D]
    rank_D = np.arange(len(order_D)) - np.searchsorted(sorted_D, sorted_D)
    return np.sort(order_D[rank_D < count])


def _hits(key_G: np.ndarray, box_G4: np.ndarray, key_D: np.ndarray, box_D4: np.ndarray, score_D: np.ndarray) -> np.ndarray:
    """Return which detections hit a ground truth box, bool [D]; a key tells frame and action."""
    order_G = np.argsort(key_G, kind="stable")
    sorted_G = key_G[order_G]
    first_D = np.searchsorted(sorted_G, key_D)
    count_D = np.searchsorted(sorted_G, key_D, side="right") - first_D
    # Detections with a candidate, and the pairs of each, side by side.
    some = np.flatnonzero(count_D)
    hit_D = np.zeros(len(key_D), dtype=bool)
    if not some.size:
        return hit_D
    count, start = count_D[some], np.cumsum(count_D[some]) - count_D[some]
    rank_N = np.arange(count.sum()) - np.repeat(start, count)
    truth_N = order_G[np.repeat(first_D[some], count) + rank_N]
    iou_N = box_iou(box_D4[np.repeat(some, count)], box_G4[truth_N])
    best = np.maximum.reduceat(iou_N, start)
    rank = np.minimum.reduceat(np.where(iou_N == np.repeat(best, count), rank_N, len(rank_N)), start)
    near = best >= MIN_IOU
    some, truth = some[near], truth_N[(start + rank)[near]]
    # The highest score at each ground truth box; of equal ones any, because they stand together in the curve.
    order = np.lexsort((-score_D[some], truth))
    _, firsts = np.unique(truth[order], return_index=True)
    hit_D[some[order[firsts]]] = True
    return hit_D


def _average_precisions(label_D: np.ndarray, score_D: np.ndarray, hit_D: np.ndarray, count_C: np.ndarray) -> np.ndarray:
    """Return the average precision of each action, float64 [C]; 0 where there is no ground truth."""
    # False before true: of equal scores false alarms come first.
    order_D = np.lexsort((hit_D, -score_D, label_D))
    ends_C = np.searchsorted(label_D[order_D], np.arange(len(count_C) + 1))
    ap_C = np.zeros(len(count_C))
    for label, count in enumerate(count_C):
        hits = hit_D[order_D[ends_C[label] : ends_C[label + 1]]]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        # Recall rises by 1 / count at each hit and nowhere else.
        ap_C[label] = envelope[hits].sum() / count if count else 0.0
    return ap_C
