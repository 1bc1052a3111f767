"""Boxes of the demo world: they hold the object's pixels as rendered, and drawing them changes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.demo_world.boxes import DETECTED_SCORE, make_boxes
from umt_pipeline.demo_world.corpus import DemoCorpusConfig, plan_corpus
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Appearance, Scene, object_boxes, render
from umt_pipeline.schemas import RawBoxes
from umt_pipeline.video.box_views import box_iou

SMALL = DemoCorpusConfig(train_clips=40, validation_clips=10, test_clips=20, motion_appearances=2)
TABLE = make_boxes(SMALL, 3)
CLIPS = {clip.name: clip for clip in plan_corpus(SMALL, 3)}
EDGES = ["x1", "y1", "x2", "y2"]
ANNOTATED, DETECTED = (TABLE[TABLE["source"] == source] for source in ("annotated", "detected"))


def object_pixels(scene: Scene, key: tuple[int, ...], frame: int) -> np.ndarray:
    """Where a frame changes with the object's colour, bool [H, W]: its dark and white parts do not, its outline does."""
    frames = [
        render(replace(scene, appearance=replace(scene.appearance, colour=colour)), np.random.default_rng(key))[frame]
        for colour in COLOURS
    ]
    stack = np.stack(frames).astype(int)
    return np.asarray((stack.max(axis=0) - stack.min(axis=0)).max(axis=-1) > 0)


def test_the_schema_holds_and_each_clip_has_one_object_with_three_actions() -> None:
    RawBoxes.validate(TABLE)
    objects = ANNOTATED.groupby(["video", "timestamp_s", *EDGES])["label"].agg(set).reset_index()
    assert sorted(objects["video"]) == sorted(CLIPS)
    for _, row in objects.iterrows():
        scene = CLIPS[row["video"]].scene
        assert row["label"] == {scene.motion, scene.appearance.shape, scene.appearance.colour}
    assert not set(MOTIONS) & set(SHAPES)
    assert not (set(MOTIONS) | set(SHAPES)) & set(COLOURS)


@pytest.mark.slow
def test_a_box_holds_the_objects_pixels_and_no_more_than_a_margin() -> None:
    loose = []
    for video, row in ANNOTATED.drop_duplicates("video").set_index("video").iterrows():
        clip = CLIPS[str(video)]
        frame = round(row["timestamp_s"] * clip.scene.fps)
        assert row["timestamp_s"] == pytest.approx(frame / clip.scene.fps, abs=1e-4)
        assert clip.scene.frames // 4 <= frame < clip.scene.frames - clip.scene.frames // 4
        rows, columns = np.nonzero(object_pixels(clip.scene, clip.key, frame))
        H, W = clip.scene.height, clip.scene.width
        inside = (row["x1"] * W - 0.01, row["y1"] * H - 0.01, row["x2"] * W + 0.01, row["y2"] * H + 0.01)
        assert inside[0] <= columns.min(), clip
        assert inside[1] <= rows.min(), clip
        assert columns.max() + 1 <= inside[2], clip
        assert rows.max() + 1 <= inside[3], clip
        tight = np.array([columns.min() / W, rows.min() / H, (columns.max() + 1) / W, (rows.max() + 1) / H])
        loose.append(float(box_iou(tight, row[EDGES].to_numpy(float))))
    assert np.median(loose) > 0.95
    assert min(loose) > 0.45, "half of some objects is white, whatever their colour"


@pytest.mark.parametrize("motion", MOTIONS)
def test_boxes_follow_the_motion(motion: str) -> None:
    scene = Scene(Appearance("circle", "red", "small"), motion, 16, 8, 80, 96)
    boxes = object_boxes(scene, np.random.default_rng(1), range(16))
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    size = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    moved = {"left": x[0] - x[-1], "right": x[-1] - x[0], "up": y[0] - y[-1], "down": y[-1] - y[0]}
    if motion in moved:
        assert moved[motion] > 0.3
    elif motion in ("growing", "shrinking"):
        assert size[-1] / size[0] > 2 if motion == "growing" else size[0] / size[-1] > 2
    elif motion != "stop_and_go":
        assert np.ptp(x) < 0.05 and np.ptp(size) < 0.05  # noqa: PT018


def test_a_detector_finds_the_object_and_something_else_in_clips_that_are_not_trained_on() -> None:
    assert set(DETECTED["video"]) == {name for name, clip in CLIPS.items() if clip.split != "train"}
    truth = ANNOTATED.drop_duplicates("video").set_index("video")[EDGES]
    for video, rows in DETECTED.groupby("video"):
        assert len(rows) == 2
        found, other = rows[EDGES].to_numpy(float)
        assert box_iou(found, truth.loc[str(video)].to_numpy(float)) > 0.5
        assert rows["score"].iloc[0] >= DETECTED_SCORE[0]
        assert not np.array_equal(found, other)


def test_the_same_seed_gives_the_same_boxes() -> None:
    pd.testing.assert_frame_equal(TABLE, make_boxes(SMALL, 3))
    assert not TABLE["timestamp_s"].equals(make_boxes(SMALL, 4)["timestamp_s"])


# The mean of the pixels of one scene per shape, before there were boxes.
MEANS = {
    "circle": 99.198, "bar": 101.617, "square": 64.328, "heart": 84.026, "triangle": 109.977,
    "arrow": 85.066, "star": 100.381, "crescent": 118.876, "cross": 72.944, "ring": 97.692,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_are_what_they_were_before_there_were_boxes(shape: str) -> None:
    """Boxes are computed from the same geometry, and results of the demo must stay comparable."""
    number = SHAPES.index(shape)
    look = Appearance(shape, list(COLOURS)[number % 4], list(SIZES)[number % 2])
    frames = render(Scene(look, MOTIONS[number % 9], 4, 8, 48, 56), np.random.default_rng(number))
    assert frames.mean() == pytest.approx(MEANS[shape], abs=0.002)
