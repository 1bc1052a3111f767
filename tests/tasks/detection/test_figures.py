"""The picture of detected actions: what is drawn, what is left out, the same bytes again."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tests.features.tiny import make_corpus
from umt_pipeline.tasks.detection.figures import (
    FRAMES,
    ShownBox,
    ShownFrame,
    boxes_on_frame,
    corner_names,
    detection_svg,
    shown_frames,
)  # fmt: skip

LEFT, RIGHT = (0.2, 0.1, 0.5, 0.9), (0.5, 0.1, 0.9, 0.9)
COLUMNS = ["video", "timestamp_s", "x1", "y1", "x2", "y2", "label"]
VALUES = {"stage2": {"run": 90.0, "sit": 10.0}, "control": {"run": 20.0, "sit": 0.0}}


def test_key_frames_show_the_boxes_of_people_and_the_detectors_best_actions(tmp_path: Path) -> None:
    videos = make_corpus(tmp_path, ("test",) * 8).assign(fps=10.0)
    truth = [(f"clip{number}.mp4", 0.1, *LEFT, action) for number in range(8) for action in ("run", "walk")]
    found = [("clip0.mp4", 0.1, *LEFT, name, value) for name, value in zip("abcd", (0.1, 0.4, 0.3, 0.2), strict=True)]
    found += [("clip0.mp4", 0.1, *RIGHT, "a", 0.05), ("clip0.mp4", 0.2, *RIGHT, "a", 0.9)]
    (tmp_path / "clip7.mp4").unlink()
    tables = pd.DataFrame(found, columns=[*COLUMNS, "score"]), pd.DataFrame(truth, columns=COLUMNS)
    shown = shown_frames(*tables, tmp_path, videos, 0.0)
    assert len(shown) == FRAMES - 1, "the last one cannot be read"
    assert shown[0].title == "clip0.mp4, 0.1 s"
    assert shown[0].boxes == (
        ShownBox(LEFT, "run, walk", True), ShownBox(LEFT, "b 0.40, c 0.30, d 0.20", False), ShownBox(RIGHT, "a 0.05", False),
    )  # fmt: skip
    assert shown[1].boxes == (ShownBox(LEFT, "run, walk", True),)
    svg = detection_svg(VALUES, shown)
    assert svg == detection_svg(VALUES, shown)
    for text in ("true: run, walk", "1: b 0.40, c 0.30, d 0.20", "stage2, mean 50.0", "control, mean 10.0", "sit"):
        assert text in svg
    assert svg.count("<image") == len(shown)


def test_pixels_are_those_of_the_key_frame() -> None:
    frame = np.zeros((20, 30, 3), dtype=np.uint8)
    frame[:, 15:] = (10, 200, 30)
    svg = detection_svg(VALUES, [ShownFrame("a", frame, ())])
    (picture,) = re.findall(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)\"", svg)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} >= {(0, 0, 0), (10, 200, 30)}


def test_many_actions_and_none() -> None:
    many = {"stage2": {f"action{number}": 50.0 for number in range(200)}}
    assert "mean average precision of 200 actions: stage2 50.0" in detection_svg(many, [])
    assert "no boxes to test on" in detection_svg({}, [])


def test_boxes_are_drawn_where_they_are() -> None:
    frame = boxes_on_frame(np.full((32, 64, 3), 90, np.uint8), [(0.0, 0.0, 0.25, 0.5)], [(0.5, 0.25, 1.0, 1.0)])
    assert frame.shape == (256, 512, 3), "large enough for lines and names"
    assert frame[64, 131].tolist() == [255, 255, 255]
    assert frame[128, 256].tolist() == [255, 59, 212]
    assert frame[32, 400].tolist() == [90, 90, 90]
    assert (corner_names(28)[0], corner_names(28)[-2:]) == ("A", ["A2", "B2"])
