"""Testing classifiers: several views of each video, and numbers that cannot flatter.

A video's probabilities are the mean over its views' softmax. Ties are broken the pessimistic way: the true class ranks last
among equals. A video that cannot be read counts as wrong and is named; a class that training never saw counts as wrong too.

Source: the published test (4 clips x 3 crops for Kinetics, 2 x 3 for SSv2), without its replacement of unreadable videos.

Shapes: S videos, C classes of the head, L labels (those of the head, then others of the test), K best classes.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.evidence import CLASS_RANK, evidence_rows
from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError, best_candidates, retrieval_ranks
from umt_pipeline.evaluation.params import WorkParams
from umt_pipeline.evaluation.workers import Tick, Workers, default_device, work_precision
from umt_pipeline.tasks.classification.model import Classifier
from umt_pipeline.video.action_views import ClipConfig, evaluation_views
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import load_views

logger = logging.getLogger(__name__)

TOP = 5
UNREADABLE = "(unreadable)"


class MultiViewTest(WorkParams):
    """What a test sees of a video, and how the work is divided.

    Attributes:
        clips: choices of frames.
        crops: squares along the longer side.
        batch_size: counts views here; a video's views stay together.
    """

    clips: int = Field(4, ge=1)
    crops: int = Field(3, ge=1)
    batch_size: int = Field(48, ge=1)


@dataclass(frozen=True)
class Predictions:
    """What a classifier said.

    Args:
        video_ids: S videos that could be read, in the order that was asked for.
        probabilities_SC: float64; one row sums to one.
        failures: videos that could not be read, with the reason.
    """

    video_ids: tuple[str, ...]
    probabilities_SC: np.ndarray
    failures: Mapping[str, str]


@dataclass(frozen=True)
class Scores:
    """How right a classifier was.

    Args:
        values: percent: ``top1``, ``top5`` (where the head has more than five classes) and ``mean_class``, the mean of
            ``per_class``.
        per_class: percent of the videos of each label that occurs in the test.
        labels: the head's classes, then labels of the test that training never saw.
        confusion_LL: int64, a row per true label, a column per answer; the last column counts unreadable videos.
    """

    values: dict[str, float]
    per_class: dict[str, float]
    labels: tuple[str, ...]
    confusion_LL: np.ndarray


def predict(
    workers: Workers[Classifier],
    clips: pd.DataFrame,
    media_root: Path,
    clip: ClipConfig,
    config: MultiViewTest,
    title: str = "test",
) -> Predictions:
    """Run a classifier on all views of all videos.

    Args:
        workers: hold the classifier, and share the videos; each puts it on its GPU if it has one, and in eval mode.
        clips: columns video_id, path, num_frames, height and width.
        media_root: the paths are relative to it.
        clip: frames and their sampling.
        config: the views, and the precision.
        title: for the progress bar.

    Raises:
        EvaluationError: the model gave NaN or infinity for a video, or a process ended.
    """
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in clips.to_dict("records")]
    videos = max(1, config.batch_size // (config.clips * config.crops))
    batches = [rows[start : start + videos] for start in range(0, len(rows), videos)]
    load = functools.partial(_load, media_root, clip, config)
    run = functools.partial(_predict, load, videos, workers.threads(config.workers), work_precision(config))
    parts = workers.share(run, batches, title, "video")
    failures = {video_id: reason for part in parts for video_id, reason in part.failures.items()}
    for video_id, reason in failures.items():
        logger.warning("classification: video %s counts as wrong: %s", video_id, reason)
    kept = tuple(video_id for part in parts for video_id in part.video_ids)
    return Predictions(kept, np.concatenate([part.probabilities_SC for part in parts]), failures)


def _load(media_root: Path, clip: ClipConfig, config: MultiViewTest, row: Mapping[str, Any]) -> np.ndarray:
    size = int(row["num_frames"]), int(row["height"]), int(row["width"])
    return load_views(media_root / row["path"], evaluation_views(clip, config.clips, config.crops, *size))


def _predict(
    load: Callable[[Mapping[str, Any]], np.ndarray],
    videos: int,
    threads: int,
    precision: Precision,
    model: Classifier,
    batches: Sequence[Sequence[Mapping[str, Any]]],
    tick: Tick,
) -> Predictions:
    device = default_device()
    model = model.to(device).eval()
    rows = {str(row["video_id"]): row for batch in batches for row in batch}
    kept: list[str] = []
    parts = [np.empty((0, model.config.classes))]
    failures: dict[str, str] = {}
    for good, failed in decoded(list(rows), lambda video_id: load(rows[video_id]), videos, threads):
        failures |= failed
        if good:
            with autocast(precision, device):
                parts.append(_mean_softmax(model, good, device))
            kept += good
        tick(len(good) + len(failed))
    return Predictions(tuple(kept), np.concatenate(parts), failures)


def score(predictions: Predictions, truth: Mapping[str, str], classes: Sequence[str]) -> Scores:
    """Compare predictions with labels.

    Args:
        predictions: of all videos of the test, failed ones included.
        truth: video -> label, of exactly these videos.
        classes: C labels in the head's order.

    Raises:
        EvaluationError: a video has no label or no prediction, or a score is not finite.
        NoDataError: there is no video.
    """
    seen = [*predictions.video_ids, *predictions.failures]
    if len(seen) != len(set(seen)):
        raise EvaluationError(f"classification: {len(seen) - len(set(seen))} videos were predicted twice")
    _require_same(set(seen), set(truth))
    if not seen:
        raise NoDataError("classification: expected at least one labelled test video, found none")
    scores_SC = predictions.probabilities_SC
    if scores_SC.shape != (len(predictions.video_ids), len(classes)):
        raise EvaluationError(
            f"classification: expected scores [{len(predictions.video_ids)}, {len(classes)}], found {scores_SC.shape}"
        )
    broken_S = np.flatnonzero(~np.isfinite(scores_SC).all(axis=1))
    if broken_S.size:
        raise EvaluationError(
            f"classification: the scores of {broken_S.size} videos hold NaN or infinity, the first is "
            f"{predictions.video_ids[broken_S[0]]!r}: check the model's weights"
        )
    labels = (*classes, *sorted(set(truth.values()) - set(classes)))
    number = {name: index for index, name in enumerate(labels)}
    true_S = np.array([number[truth[video_id]] for video_id in predictions.video_ids], dtype=np.int64)
    rank_S = _ranks(scores_SC, true_S)
    confusion_LL = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    np.add.at(confusion_LL, (true_S, best_candidates(scores_SC, _truth(scores_SC, true_S))), 1)
    np.add.at(confusion_LL, ([number[truth[video_id]] for video_id in predictions.failures], len(labels)), 1)
    count_L, right_L = confusion_LL.sum(axis=1), confusion_LL.diagonal()
    per_class = {name: 100.0 * float(right_L[i] / count_L[i]) for name, i in number.items() if count_L[i]}
    values = {f"top{k}": 100.0 * float((rank_S <= k).sum()) / len(seen) for k in (1, TOP) if k == 1 or len(classes) > k}
    values["mean_class"] = float(np.mean(list(per_class.values())))
    return Scores(values, per_class, labels, confusion_LL)


def prediction_table(predictions: Predictions, truth: Mapping[str, str], classes: Sequence[str]) -> pd.DataFrame:
    """Return a row per video: video_id, label, failure, and the best five classes with their scores, best first."""
    top = min(TOP, len(classes))
    order_SK = np.argsort(-predictions.probabilities_SC, axis=1, kind="stable")[:, :top]
    rows: list[dict[str, Any]] = []
    for video_id, order_K, scores_C in zip(predictions.video_ids, order_SK, predictions.probabilities_SC, strict=True):
        best = {f"top{rank}": classes[index] for rank, index in enumerate(order_K, start=1)}
        shares = {f"score{rank}": round(float(scores_C[index]), 6) for rank, index in enumerate(order_K, start=1)}
        rows.append({"video_id": video_id, "label": truth[video_id], "failure": "", **best, **shares})
    rows += [{"video_id": name, "label": truth[name], "failure": reason} for name, reason in predictions.failures.items()]
    columns = [f"{name}{rank}" for name in ("top", "score") for rank in range(1, top + 1)]
    return pd.DataFrame(rows, columns=["video_id", "label", "failure", *columns]).sort_values("video_id", ignore_index=True)


def class_evidence(task: str, predictions: Predictions, truth: Mapping[str, str], classes: Sequence[str]) -> pd.DataFrame:
    """Return the rank of each video's true class, which the values of :func:`score` are made of.

    A video that could not be read, and one of a class that the head does not have, rank behind all classes.

    Args:
        task: of the record.
        predictions: as for :func:`score`, as are the others.
        truth: video -> label.
        classes: C labels.
    """
    number = {name: index for index, name in enumerate(classes)}
    scores_SC = predictions.probabilities_SC
    true_S = np.array([number.get(truth[video_id], len(classes)) for video_id in predictions.video_ids], dtype=np.int64)
    answer_S = np.array(classes, dtype=object)[best_candidates(scores_SC, _truth(scores_SC, true_S))]
    unread = len(predictions.failures)
    videos = [*predictions.video_ids, *predictions.failures]
    ranks = np.concatenate([_ranks(scores_SC, true_S), np.full(unread, len(classes) + 1)])
    answers = np.concatenate([answer_S, np.full(unread, None, dtype=object)])
    rows = evidence_rows(task, CLASS_RANK, videos, videos, ranks, answers, [truth[video_id] for video_id in videos])
    return rows.sort_values("item", ignore_index=True)


def _ranks(scores_SC: np.ndarray, true_S: np.ndarray) -> np.ndarray:
    """Return the rank of each video's true class, int64 [S]; beyond the last one where the head does not have it."""
    classes = scores_SC.shape[1]
    rank_S = np.full(len(true_S), classes + 1, dtype=np.int64)
    known_S = true_S < classes
    rank_S[known_S] = retrieval_ranks(scores_SC[known_S], _truth(scores_SC, true_S)[known_S])
    return rank_S


def _truth(scores_SC: np.ndarray, true_S: np.ndarray) -> np.ndarray:
    """Return which class is true of each video, bool [S, C]."""
    return np.arange(scores_SC.shape[1]) == true_S[:, None]


def _require_same(predicted: set[str], labelled: set[str]) -> None:
    without_label, without_answer = sorted(predicted - labelled), sorted(labelled - predicted)
    if without_label:
        raise EvaluationError(
            f"classification: {len(without_label)} test videos have no label, the first is {without_label[0]!r}; label them or "
            "move them to another split"
        )
    if without_answer:
        raise EvaluationError(
            f"classification: {len(without_answer)} labelled test videos have no prediction, the first is {without_answer[0]!r}"
        )


@torch.inference_mode()
def _mean_softmax(model: Classifier, views: Mapping[str, np.ndarray], device: torch.device) -> np.ndarray:
    frames = torch.from_numpy(np.concatenate(list(views.values()))).to(device)
    logits: Tensor = model(normalise_patches(patchify(frames, model.config.vision.patch_size)))
    probabilities = logits.double().softmax(dim=-1).split([len(array) for array in views.values()])
    mean = torch.stack([part.mean(dim=0) for part in probabilities]).cpu().numpy()
    if not np.isfinite(mean).all():
        bad = list(views)[int(np.flatnonzero(~np.isfinite(mean).all(axis=1))[0])]
        raise EvaluationError(f"the classifier gave NaN or infinity for video {bad!r}: check its weights")
    return mean
