"""Frozen-feature probes: weighted k-NN and a linear classifier.

Both are fitted on the features of the training clips. Their one free number (k, C) is chosen on the validation clips,
and the test clips are read once, to report. A test clip without features counts as wrong. The attentive probe, which
reads tokens, is in :mod:`umt_pipeline.evaluation.attentive` and chooses and reports likewise.

Shapes: S samples, R training samples, D feature width, C classes, K nearest neighbours.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError, accuracy
from umt_pipeline.evaluation.params import KnnConfig, LinearConfig

Inputs = TypeVar("Inputs")

# Multiply-adds of a pass below which one core is faster: several wait for each other. Three times as fast at 8 million.
MACS_WORTH_CORES = 100_000_000


@dataclass(frozen=True)
class Labelled(Generic[Inputs]):
    """What a probe reads of the clips of one split, and their labels for one task.

    Args:
        inputs: of S clips: features, float32 [S, D], or their tokens.
        labels: str [S].
        failures: labelled clips of the split that could not be read.
    """

    inputs: Inputs
    labels: np.ndarray
    failures: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Args:
        accuracy: on the test clips, in percent.
        predicted: labels of the S test clips with features.
        setting: the chosen k, C or learning rate.
        validation_accuracy: of the chosen setting, in percent; None if there was no validation clip to choose on.
        classes: classes seen in training.
    """

    accuracy: float
    predicted: tuple[str, ...]
    setting: float
    validation_accuracy: float | None
    classes: int


def knn_probe(
    train: Labelled[np.ndarray], validation: Labelled[np.ndarray], test: Labelled[np.ndarray], config: KnnConfig
) -> ProbeResult:
    """Classify by the weighted vote of the k nearest training clips, k chosen on the validation clips.

    Raises:
        NoDataError: fewer than two classes in training, or no test clip.
        EvaluationError: a feature is not finite.
    """
    classes, target_R = seen_classes(train, test)
    _require_finite(train, validation, test)
    one_hot_RC = np.eye(len(classes), dtype=np.float32)[target_R]
    train_RD = _unit(train.inputs)
    neighbours = sorted({min(k, len(train_RD)) for k in config.k})

    def predict(part: Labelled[np.ndarray]) -> list[np.ndarray]:
        if len(part.inputs) == 0:
            return [np.empty(0, dtype=classes.dtype)] * len(neighbours)
        similarity_SR = _unit(part.inputs) @ train_RD.T
        order_SK = np.argsort(-similarity_SR, axis=1, kind="stable")[:, : neighbours[-1]]
        near_SK = np.take_along_axis(similarity_SR, order_SK, axis=1)
        # Relative to the nearest neighbour, so that no weight overflows however small the temperature.
        weight_SK = np.exp((near_SK - near_SK[:, :1]) / config.temperature)
        votes_SKC = np.cumsum(weight_SK[:, :, None] * one_hot_RC[order_SK], axis=1)
        return [classes[votes_SKC[:, k - 1].argmax(axis=1)] for k in neighbours]

    return choose_and_report(predict, [float(k) for k in neighbours], len(classes), validation, test)


def linear_probe(
    train: Labelled[np.ndarray], validation: Labelled[np.ndarray], test: Labelled[np.ndarray], config: LinearConfig
) -> ProbeResult:
    """Classify by logistic regression on standardised features, C chosen on the validation clips.

    Raises:
        NoDataError: fewer than two classes in training, or no test clip.
        EvaluationError: a feature is not finite.
    """
    # Imported where it is needed: it takes a second.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    classes, target_R = seen_classes(train, test)
    _require_finite(train, validation, test)
    mean_D, std_D = train.inputs.mean(axis=0), train.inputs.std(axis=0)
    # A feature that is constant in training says nothing: leave it at zero rather than blow up its rounding errors.
    scale_D = np.where(std_D > 1e-6, 1.0 / np.maximum(std_D, 1e-6), 0.0)

    def standardise(features_SD: np.ndarray) -> np.ndarray:
        return ((features_SD - mean_D) * scale_D).astype(np.float32)

    strengths = sorted(set(config.c))
    train_RD = standardise(train.inputs)
    model = LogisticRegression(max_iter=config.max_iterations, warm_start=True)
    fitted: list[LogisticRegression] = []
    cores = None if train_RD.size * len(classes) >= MACS_WORTH_CORES else 1
    with warnings.catch_warnings(), threadpool_limits(cores, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probe is a fixed budget of steps
        for strength in strengths:
            # From strong to weak regularisation, each fit starting where the last one ended: a few steps each.
            model.set_params(C=strength)
            model.fit(train_RD, target_R)
            fitted.append(copy.deepcopy(model))

    def predict(part: Labelled[np.ndarray]) -> list[np.ndarray]:
        if len(part.inputs) == 0:
            return [np.empty(0, dtype=classes.dtype)] * len(fitted)
        standard_SD = standardise(part.inputs)
        return [classes[probe.predict(standard_SD)] for probe in fitted]

    return choose_and_report(predict, strengths, len(classes), validation, test)


def choose_and_report(
    predict: Callable[[Labelled[Inputs]], list[np.ndarray]],
    settings: Sequence[float],
    classes: int,
    validation: Labelled[Inputs],
    test: Labelled[Inputs],
) -> ProbeResult:
    """Choose the setting that is best on validation (the first of equals) and report it on test.

    ``predict`` returns the predicted labels [S] of a split with each setting; ``classes`` counts those of training.
    """
    # Without validation clips the middle setting is taken: any other choice would have to be made on the test clips.
    chosen, validation_accuracy = len(settings) // 2, None
    if len(validation.labels):
        scores = [accuracy(predicted, validation.labels) for predicted in predict(validation)]
        chosen = int(np.argmax(scores))
        validation_accuracy = scores[chosen]
    predicted = predict(test)[chosen]
    return ProbeResult(
        accuracy=accuracy(predicted, test.labels, test.failures),
        predicted=tuple(predicted.tolist()),
        setting=settings[chosen],
        validation_accuracy=validation_accuracy,
        classes=classes,
    )


def seen_classes(train: Labelled[Any], test: Labelled[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes of the training clips, and each clip's number among them.

    Raises:
        NoDataError: fewer than two classes, or no test clip.
    """
    classes, target_R = np.unique(train.labels, return_inverse=True)
    if len(classes) < 2:
        found = ", ".join(repr(str(name)) for name in classes) or "none"
        raise NoDataError(f"probe: expected at least two classes among the training clips, found {found}")
    if len(test.labels) + test.failures == 0:
        raise NoDataError("probe: expected at least one labelled test clip, found none")
    return classes, target_R


def _require_finite(*parts: Labelled[np.ndarray]) -> None:
    for part in parts:
        bad = int((~np.isfinite(part.inputs).all(axis=1)).sum()) if len(part.inputs) else 0
        if bad:
            raise EvaluationError(f"probe: the features of {bad} of {len(part.inputs)} clips hold NaN or infinity")


def _unit(features_SD: np.ndarray) -> np.ndarray:
    norms_S1 = np.linalg.norm(features_SD, axis=1, keepdims=True)
    return (features_SD / np.maximum(norms_S1, 1e-12)).astype(np.float32)
