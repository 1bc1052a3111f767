from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError
from umt_pipeline.evaluation.params import KnnConfig, LinearConfig
from umt_pipeline.evaluation.probes import Labelled, knn_probe, linear_probe


def blobs(clips: int, seed: int, classes: int = 4, width: int = 16, spread: float = 1.0) -> Labelled[np.ndarray]:
    centres = np.random.default_rng(0).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, clips)
    features = centres[target] + spread * rng.normal(size=(clips, width))
    return Labelled(features.astype(np.float32), np.array([f"class {number}" for number in target]))


EMPTY = Labelled(np.zeros((0, 1), dtype=np.float32), np.array([], dtype=str))


@given(st.integers(0, 100), st.sampled_from([1, 3, 7]))
@settings(max_examples=15, deadline=None)
def test_knn_equals_scikit_learn(seed: int, k: int) -> None:
    train, test = blobs(60, seed), blobs(30, seed + 1000)
    result = knn_probe(train, EMPTY, test, KnnConfig(k=(k,)))
    other = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = other.fit(train.inputs, train.labels).score(test.inputs, test.labels)
    assert result.accuracy == pytest.approx(100 * expected)


def test_linear_is_as_good_as_a_converged_fit() -> None:
    train, validation, test = blobs(300, 1, spread=2.0), blobs(80, 2, spread=2.0), blobs(200, 3, spread=2.0)
    result = linear_probe(train, validation, test, LinearConfig())
    mean, std = train.inputs.mean(0), train.inputs.std(0)
    other = LogisticRegression(C=result.setting, max_iter=5000, tol=1e-8)
    other.fit((train.inputs - mean) / std, train.labels)
    assert result.accuracy == pytest.approx(100 * other.score((test.inputs - mean) / std, test.labels), abs=1.0)


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_the_setting_is_chosen_on_validation_alone(probe) -> None:  # type: ignore[no-untyped-def]
    config = KnnConfig() if probe is knn_probe else LinearConfig()
    train, validation, test = blobs(200, 1, spread=3.0), blobs(100, 2, spread=3.0), blobs(100, 3, spread=3.0)
    shuffled = dataclasses.replace(test, labels=np.roll(test.labels, 1))
    one, other = probe(train, validation, test, config), probe(train, validation, shuffled, config)
    assert (one.setting, one.validation_accuracy) == (other.setting, other.validation_accuracy)
    assert one.accuracy > 2 * 25 > other.accuracy


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_small_data(probe) -> None:  # type: ignore[no-untyped-def]
    config = KnnConfig(k=(1, 50)) if probe is knn_probe else LinearConfig()
    rng = np.random.default_rng(0)
    train = Labelled(rng.normal(size=(3, 5)).astype(np.float32), np.array(["a", "a", "b"]))
    test = Labelled(train.inputs[[0, 2]], np.array(["a", "never seen"]), failures=2)
    result = probe(train, EMPTY, test, config)
    assert result.validation_accuracy is None
    assert result.accuracy <= 25.0
    assert result.classes == 2


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_nothing_to_measure(probe) -> None:  # type: ignore[no-untyped-def]
    config = KnnConfig() if probe is knn_probe else LinearConfig()
    train = blobs(20, 1)
    with pytest.raises(NoDataError, match="test clip"):
        probe(train, EMPTY, EMPTY, config)
    single = dataclasses.replace(train, labels=np.full(20, "only"))
    with pytest.raises(NoDataError, match="'only'"):
        probe(single, EMPTY, train, config)
    with pytest.raises(NoDataError, match="found none"):
        probe(EMPTY, EMPTY, train, config)


@pytest.mark.parametrize("probe", [knn_probe, linear_probe])
def test_broken_features_are_an_error(probe) -> None:  # type: ignore[no-untyped-def]
    config = KnnConfig() if probe is knn_probe else LinearConfig()
    train, test = blobs(20, 1), blobs(5, 2)
    test.inputs[3, 1] = np.nan
    with pytest.raises(EvaluationError, match="1 of 5 clips"):
        probe(train, EMPTY, test, config)


def test_constant_features_do_no_harm() -> None:
    train, test = blobs(100, 1), blobs(50, 2)
    wide_train, wide_test = (
        Labelled(np.c_[part.inputs, np.ones(len(part.labels), dtype=np.float32)], part.labels)
        for part in (train, test)
    )
    wide_test.inputs[:, -1] += 1e-3
    wide = linear_probe(wide_train, EMPTY, wide_test, LinearConfig())
    assert wide.accuracy == pytest.approx(linear_probe(train, EMPTY, test, LinearConfig()).accuracy)


def test_quick() -> None:
    train, validation, test = (
        blobs(clips, seed, classes=8, width=128, spread=4.0) for seed, clips in enumerate((1600, 200, 200))
    )
    started = time.perf_counter()
    knn_probe(train, validation, test, KnnConfig())
    linear_probe(train, validation, test, LinearConfig())
    # Twenty of these (four tasks, five encoders) are to take less than 15 s; slack for a busy machine.
    assert time.perf_counter() - started < 3.0
