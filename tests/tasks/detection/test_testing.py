"""Testing detectors: what is looked at, what is returned, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.features.tiny import make_corpus
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.schemas import RawBoxes
from umt_pipeline.tasks.detection.model import Detector, DetectorConfig
from umt_pipeline.tasks.detection.scoring import score
from umt_pipeline.tasks.detection.testing import DetectedActions, DetectionTest, predict, prediction_table
from umt_pipeline.tasks.detection.training import DetectionRecipe
from umt_pipeline.video.box_views import KeyFrameClip, key_frame_indices, load_whole, whole_size
from umt_pipeline.video.pixels import normalise_patches, patchify

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=2, heads=2)
CLIP = KeyFrameClip(frames=2, stride=2, size=32, short_side=40)
RECIPE = DetectionRecipe(clip=CLIP)
CLASSES = ("run", "sit", "walk")
LEFT, RIGHT, WEAK = (0.2, 0.1, 0.5, 0.9), (0.5, 0.1, 0.9, 0.9), (0.0, 0.0, 0.1, 0.1)
COLUMNS = ["video", "timestamp_s", "x1", "y1", "x2", "y2", "label", "score"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("detected")
    videos = make_corpus(folder, ("test",) * 4).assign(fps=10.0)
    rows = [("clip0.mp4", 0.1, *LEFT, "", "", 0.9, "detected"), ("clip0.mp4", 0.1, *RIGHT, "", "", 0.95, "detected")]
    rows += [("clip0.mp4", 0.1, *WEAK, "", "", 0.5, "detected"), ("clip1.mp4", 0.2, *LEFT, "walk", "", 0.8, "detected")]
    rows += [("clip1.mp4", 0.2, *LEFT, "run", "", 0.8, "detected"), ("clip2.mp4", 0.3, *RIGHT, "", "", 1.0, "detected")]
    rows += [("clip2.mp4", 0.4, *RIGHT, "", "", 1.0, "detected"), ("other.mp4", 0.1, *LEFT, "", "", 1.0, "detected")]
    rows += [("clip0.mp4", 0.1, *LEFT, "run", "", 1.0, "annotated"), ("clip1.mp4", 0.2, *LEFT, "walk", "", 1.0, "annotated")]
    return videos, RawBoxes.validate(pd.DataFrame(rows, columns=list(RawBoxes.to_schema().columns))), folder


def detector() -> Detector:
    torch.manual_seed(0)
    model = Detector(DetectorConfig(vision=VISION, classes=3))
    torch.nn.init.normal_(model.head.weight)
    return model


def test_defaults_are_the_published_ones() -> None:
    config = DetectionTest()
    assert (config.source, config.score, config.widen) == ("detected", 0.8, (0.1, 0.05))
    assert whole_size(KeyFrameClip(), 16, 360, 640) == (256, 448)
    assert whole_size(KeyFrameClip(), 16, 640, 480) == (336, 256)


def test_scores_are_probability_times_confidence_on_whole_frames(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    videos, boxes, folder = corpus
    model = detector()
    found = predict(Workers(lambda: model), CLASSES, videos, boxes, folder, RECIPE, DetectionTest(workers=1))
    assert list(found.table.columns) == COLUMNS
    assert found.failures == {}
    assert len(found.table) == 5 * 3, "five sure boxes, each once"
    assert set(found.table["video"]) == {"clip0.mp4", "clip1.mp4", "clip2.mp4"}
    first = found.table[found.table["video"] == "clip0.mp4"]
    assert first[["x1", "y1", "x2", "y2"]].drop_duplicates().to_numpy().tolist() == [list(LEFT), list(RIGHT)]
    assert first["label"].tolist() == [*CLASSES, *CLASSES]
    # 40 x 56 pixels: 5 x 7 patches, nothing cut off; the right box is 0.4 x 0.8 and grows by 0.04 and 0.04.
    frames = load_whole(folder / "clip0.mp4", key_frame_indices(CLIP, 1, 3), 40, 56)
    patches = normalise_patches(patchify(torch.from_numpy(frames[None]), 8))
    wide = torch.tensor([[[0.46, 0.06, 0.94, 0.94]]])
    with torch.inference_mode():
        expected = 0.95 * model(patches, wide, (5, 7)).sigmoid()[0, 0]
    np.testing.assert_allclose(first["score"].to_numpy()[3:], expected, atol=1e-5)
    single = DetectionTest(batch_size=1, workers=2)
    alone = predict(Workers(lambda: model), CLASSES, videos, boxes, folder, RECIPE, single).table
    pd.testing.assert_frame_equal(alone, found.table, atol=1e-5)


@pytest.mark.slow
def test_processes_share_key_frames_and_find_the_same(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    """Files of two shapes and one that is gone; two processes, each with a detector that it loaded itself."""
    videos, boxes, folder = corpus
    wide = videos["path"] == "clip2.mp4"
    paths = videos["path"].replace("clip1.mp4", "gone.mp4")
    videos = videos.assign(path=paths, width=videos["width"].where(~wide, 2 * videos["width"]))
    boxes = boxes.assign(video=boxes["video"].replace("clip1.mp4", "gone.mp4"))
    arguments = CLASSES, videos, boxes, folder, RECIPE, DetectionTest(batch_size=1, workers=1)
    alone = predict(Workers(detector), *arguments)
    assert alone.table.groupby(["video", "timestamp_s"]).ngroups == 3
    with Workers(detector, 2) as workers:
        shared = predict(workers, *arguments)
    pd.testing.assert_frame_equal(shared.table, alone.table, check_exact=True)
    assert shared.failures == alone.failures
    assert list(shared.failures) == [("gone.mp4", 0.2)]


def test_key_frames_that_cannot_be_read_are_missed_and_named(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    videos, boxes, folder = corpus
    truth = boxes[boxes["source"] == "annotated"]
    broken = videos.assign(path=videos["path"].replace("clip1.mp4", "gone.mp4"))
    renamed = boxes.assign(video=boxes["video"].replace("clip1.mp4", "gone.mp4"))
    found = predict(Workers(detector), CLASSES, broken, renamed, folder, RECIPE, DetectionTest())
    assert list(found.failures) == [("gone.mp4", 0.2)]
    assert "gone.mp4" in found.failed_videos()["gone.mp4"]
    scores = score(
        found.table,
        truth.assign(video=truth["video"].replace("clip1.mp4", "gone.mp4")),
        CLASSES,
        failures=found.failed_videos(),
    )
    assert scores.missing == found.failed_videos()
    assert scores.per_class["walk"] == 0.0
    assert scores.skipped == ("sit",)


def test_annotated_boxes_tell_the_two_detectors_apart(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    videos, boxes, folder = corpus
    found = predict(Workers(detector), CLASSES, videos, boxes, folder, RECIPE, DetectionTest(source="annotated")).table
    assert len(found) == 2 * 3
    scores = score(found, boxes[boxes["source"] == "annotated"], CLASSES)
    assert scores.missing == {}
    assert min(scores.per_class.values()) >= 50.0, "every box is found; at worst the other person ranks before"


def test_refusals(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    videos, boxes, folder = corpus
    with pytest.raises(EvaluationError, match=r"expected annotated boxes of the 1 test videos .* found none among 10 rows"):
        predict(Workers(detector), CLASSES, videos.iloc[2:3], boxes, folder, RECIPE, DetectionTest(source="annotated"))
    model = detector()
    torch.nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(EvaluationError, match=r"NaN or infinity for 'clip\d\.mp4' at 0\.\d s"):
        predict(Workers(lambda: model), CLASSES, videos, boxes, folder, RECIPE, DetectionTest())


def test_the_table_for_people_names_what_is_true_and_the_best_actions(corpus: tuple[pd.DataFrame, pd.DataFrame, Path]) -> None:
    boxes = corpus[1]
    truth = pd.concat([boxes[boxes["source"] == "annotated"], boxes[:1].assign(label="sit")], ignore_index=True)
    rows = [("clip0.mp4", 0.1, *LEFT), ("clip0.mp4", 0.1, *RIGHT), ("clip1.mp4", 0.2, 0.2, 0.1, 0.5, 0.5)]
    scores = np.array([[0.2, 0.9, 0.4], [0.5, 0.1, 0.5], [0.1, 0.2, 0.3]])
    table = pd.DataFrame([(*row, name, 0.0) for row in rows for name in CLASSES], columns=COLUMNS).assign(score=scores.ravel())
    found = prediction_table(DetectedActions(table, {("clip2.mp4", 0.3): "truncated"}), truth, CLASSES)
    assert found["true"].tolist() == ["run; sit", "", "walk", ""], "an overlap of one half is enough, none is none"
    assert found["action1"].tolist() == ["sit", "run", "walk", ""]
    assert found["score2"].tolist()[:3] == [0.4, 0.5, 0.2]
    assert found["failure"].tolist() == ["", "", "", "truncated"]
    assert list(found.columns[:8]) == ["video", "timestamp_s", "x1", "y1", "x2", "y2", "true", "failure"]
    nothing = prediction_table(DetectedActions(table.iloc[:0], {("clip2.mp4", 0.3): "truncated"}), truth, CLASSES)
    assert nothing[["video", "failure", "action3"]].to_numpy().tolist() == [["clip2.mp4", "truncated", ""]]
