"""Test accuracy: against scikit-learn, against brute force, and in the cases that would flatter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from tests.evaluation.tiny import VISION, make_tables
from umt_pipeline.evaluation.evidence import aggregate
from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.tasks.classification.figures import Confusion, confusion_svg
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig
from umt_pipeline.tasks.classification.testing import (
    MultiViewTest,
    Predictions,
    class_evidence,
    predict,
    prediction_table,
    score,
)
from umt_pipeline.video.action_views import ClipConfig, evaluation_views
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import load_view

NAMES = tuple("abcdefgh")
CLIP = ClipConfig(frames=2, size=32)


def predictions(scores_SC: np.ndarray, failures: Sequence[str] = ()) -> Predictions:
    ids = tuple(f"v{row}" for row in range(len(scores_SC)))
    return Predictions(ids, np.asarray(scores_SC, dtype=np.float64), dict.fromkeys(failures, "truncated"))


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 2**32))
def test_scores_are_scikit_learns_where_nothing_is_tied(samples: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores_SC = rng.permuted(np.tile(np.linspace(0.1, 1, classes), (samples, 1)), axis=1)
    true_S = rng.integers(0, classes, samples)
    truth = {f"v{row}": NAMES[index] for row, index in enumerate(true_S)}
    found = score(predictions(scores_SC), truth, NAMES[:classes])
    answers_S, labels = scores_SC.argmax(axis=1), np.arange(classes)
    for k in (1, 5) if classes > 5 else (1,):
        # For two classes scikit-learn takes one column of scores, that of the second, and compares it with one half.
        columns = scores_SC[:, 1] - scores_SC[:, 0] + 0.5 if classes == 2 else scores_SC
        expected = top_k_accuracy_score(true_S, columns, k=k, labels=labels)
        assert found.values[f"top{k}"] == pytest.approx(100 * expected)
    assert ("top5" in found.values) == (classes > 5)
    assert np.array_equal(found.confusion_LL[:, :-1], confusion_matrix(true_S, answers_S, labels=labels))
    assert not found.confusion_LL[:, -1].any()
    if len(set(true_S)) == len(set(true_S) | set(answers_S)):
        assert found.values["mean_class"] == pytest.approx(100 * balanced_accuracy_score(true_S, answers_S))


@given(st.data())
def test_ties_unseen_classes_and_failures_never_flatter(data: st.DataObject) -> None:
    classes = data.draw(st.integers(2, 7))
    rows = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=classes, max_size=classes), min_size=1, max_size=12))
    true_S = data.draw(st.lists(st.integers(0, classes), min_size=len(rows), max_size=len(rows)))
    failed = data.draw(st.lists(st.integers(0, classes), max_size=3))
    truth = {f"v{row}": NAMES[index] for row, index in enumerate(true_S)}
    truth |= {f"f{row}": NAMES[index] for row, index in enumerate(failed)}
    said = predictions(np.array(rows), [f"f{row}" for row in range(len(failed))])
    found = score(said, truth, NAMES[:classes])

    def right(row: list[int], true: int, k: int) -> bool:
        return true < classes and sum(value >= row[true] for index, value in enumerate(row) if index != true) < k

    hits = {k: [right(row, true, k) for row, true in zip(rows, true_S, strict=True)] + [False] * len(failed) for k in (1, 5)}
    assert found.values["top1"] == pytest.approx(100 * np.mean(hits[1]))
    if classes > 5:
        assert found.values["top5"] == pytest.approx(100 * np.mean(hits[5]))
    everything = np.array([*true_S, *failed])
    per_class = {NAMES[index]: 100 * np.mean(np.array(hits[1])[everything == index]) for index in set(everything)}
    assert found.per_class == pytest.approx(per_class)
    assert found.values["mean_class"] == pytest.approx(np.mean(list(per_class.values())))
    assert found.confusion_LL.sum() == len(truth)
    assert found.confusion_LL[:, -1].sum() == len(failed)
    assert found.confusion_LL.diagonal().sum() == sum(hits[1])
    evidence = class_evidence("test", said, truth, NAMES[:classes])
    assert {name: aggregate(evidence, f"test/{name}") for name in found.values} == pytest.approx(found.values)
    assert (evidence["value"].eq(1) == evidence["answer"].eq(evidence["truth"])).all()
    assert evidence.loc[evidence["item"].str.startswith("f"), ["value", "answer"]].to_numpy().tolist() == [
        [classes + 1, pytest.approx(np.nan, nan_ok=True)]
    ] * len(failed)


def test_a_constant_classifier_is_never_right() -> None:
    found = score(predictions(np.full((3, 6), 1 / 6)), {f"v{i}": "a" for i in range(3)}, NAMES[:6])
    assert found.values == {"top1": 0.0, "top5": 0.0, "mean_class": 0.0}
    assert found.confusion_LL[0].tolist() == [0, 3, 0, 0, 0, 0, 0], "the answer is the first class that is wrong"


def test_a_label_that_training_never_saw_is_wrong_and_named() -> None:
    found = score(predictions(np.array([[0.9, 0.1], [0.2, 0.8]])), {"v0": "a", "v1": "zebra"}, ("a", "b"))
    assert found.labels == ("a", "b", "zebra")
    assert found.per_class == {"a": 100.0, "zebra": 0.0}
    assert found.confusion_LL[2].tolist() == [0, 1, 0, 0]


def test_refusals() -> None:
    good = np.array([[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(EvaluationError, match=r"1 test videos have no label, the first is 'v1'; label them or move them"):
        score(predictions(good), {"v0": "a"}, ("a", "b"))
    with pytest.raises(EvaluationError, match="1 labelled test videos have no prediction, the first is 'v2'"):
        score(predictions(good), {"v0": "a", "v1": "a", "v2": "b"}, ("a", "b"))
    for value in (np.nan, np.inf):
        with pytest.raises(EvaluationError, match="scores of 1 videos hold NaN or infinity, the first is 'v1'"):
            score(predictions(np.array([[0.9, 0.1], [value, 0.8]])), {"v0": "a", "v1": "b"}, ("a", "b"))
    with pytest.raises(EvaluationError, match=r"expected scores \[2, 3\], found \(2, 2\)"):
        score(predictions(good), {"v0": "a", "v1": "b"}, ("a", "b", "c"))
    with pytest.raises(NoDataError, match="at least one labelled test video"):
        score(predictions(np.empty((0, 2))), {}, ("a", "b"))
    with pytest.raises(EvaluationError, match="1 videos were predicted twice"):
        score(predictions(good, ["v0"]), {"v0": "a", "v1": "b"}, ("a", "b"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    tables = make_tables(tmp_path_factory.mktemp("media"), ("test",) * 4)
    return tables.videos[tables.videos["media"] == "video"].reset_index(drop=True), tables.media_root


def test_a_videos_probabilities_are_the_mean_of_its_views_softmax(corpus: tuple[pd.DataFrame, Path]) -> None:
    clips, media = corpus
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(vision=VISION, classes=3, init_scale=30.0))
    found = {
        size: predict(Workers(lambda: model), clips, media, CLIP, MultiViewTest(clips=2, crops=3, batch_size=size, workers=2))
        for size in (1, 48)
    }
    assert found[48].video_ids == found[1].video_ids == tuple(clips["video_id"])
    np.testing.assert_allclose(found[1].probabilities_SC, found[48].probabilities_SC, atol=1e-6)
    np.testing.assert_allclose(found[1].probabilities_SC.sum(axis=1), 1.0)
    row = clips.iloc[1]
    views = evaluation_views(CLIP, 2, 3, row["num_frames"], row["height"], row["width"])
    with torch.inference_mode():
        alone = [
            model(normalise_patches(patchify(torch.from_numpy(load_view(media / row["path"], view))[None], 8))).softmax(-1)
            for view in views
        ]
    assert len(alone) == 6
    np.testing.assert_allclose(found[48].probabilities_SC[1], torch.cat(alone).mean(dim=0), atol=1e-5)


def test_a_video_that_cannot_be_read_is_a_failure_of_its_own(corpus: tuple[pd.DataFrame, Path]) -> None:
    clips, media = corpus
    broken = clips.assign(path=["clip0.mp4", "gone.mp4", "clip2.mp4", "clip3.mp4"])
    model = Classifier(ClassifierConfig(vision=VISION, classes=2))
    found = predict(Workers(lambda: model), broken, media, CLIP, MultiViewTest(clips=1, crops=1))
    assert found.video_ids == ("clip0", "clip2", "clip3")
    assert list(found.failures) == ["clip1"]
    assert "gone.mp4" in found.failures["clip1"]
    truth = dict.fromkeys(clips["video_id"], "a")
    table = prediction_table(found, truth, ("a", "b"))
    assert table["video_id"].tolist() == ["clip0", "clip1", "clip2", "clip3"]
    assert table.loc[1, "top1"] is None or pd.isna(table.loc[1, "top1"])
    assert set(table.columns) == {"video_id", "label", "failure", "top1", "top2", "score1", "score2"}
    assert (table["score1"].dropna() >= table["score2"].dropna()).all()
    nothing = predict(Workers(lambda: model), clips.assign(path="gone.mp4"), media, CLIP, MultiViewTest(clips=1, crops=1))
    assert score(nothing, truth, ("a", "b")).values == {"top1": 0.0, "mean_class": 0.0}


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(vision=VISION, classes=3, init_scale=30.0))


@pytest.mark.slow
def test_processes_share_videos_and_find_the_same(corpus: tuple[pd.DataFrame, Path]) -> None:
    clips, media = corpus
    clips = clips.assign(path=["clip0.mp4", "gone.mp4", "clip2.mp4", "clip3.mp4"])
    arguments = clips, media, CLIP, MultiViewTest(clips=1, crops=3, batch_size=3, workers=1)
    alone = predict(Workers(classifier), *arguments)
    with Workers(classifier, 2) as workers:
        shared = predict(workers, *arguments)
    assert (shared.video_ids, shared.failures) == (("clip0", "clip2", "clip3"), alone.failures)
    assert list(shared.failures) == ["clip1"]
    np.testing.assert_allclose(shared.probabilities_SC, alone.probabilities_SC, atol=1e-6)


def test_a_broken_model_is_an_error(corpus: tuple[pd.DataFrame, Path]) -> None:
    model = Classifier(ClassifierConfig(vision=VISION, classes=2))
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(EvaluationError, match="NaN or infinity for video 'clip0'"):
        predict(Workers(lambda: model), *corpus, CLIP, MultiViewTest(clips=1, crops=1))


def test_the_picture_is_the_same_every_time_and_names_what_was_unreadable() -> None:
    counts = np.array([[3, 1, 0], [0, 2, 0]])
    first = confusion_svg([Confusion("motion", ("left", "up"), counts)])
    assert first == confusion_svg([Confusion("motion", ("left", "up"), counts)])
    assert "left" in first
    assert "(unreadable)" not in first
    counts[1, 2] = 1
    assert "(unreadable)" in confusion_svg([Confusion("motion", ("left", "up"), counts)])
    many = tuple(f"label{index}" for index in range(40))
    assert "label3" not in confusion_svg([Confusion("many", many, np.eye(40, 41, dtype=np.int64))] * 2)
