"""The stage-1 node looks at the store before it trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.features.tiny import make_config, make_corpus, make_teacher_folder
from umt_pipeline.core.errors import StoreError
from umt_pipeline.features.extract import extract, plan_extraction
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.pipelines.stage1.nodes import train_student
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage1 import Stage1Config, StudentSize
from umt_pipeline.training.task import TrainConfig

LOOP = TrainConfig(steps=1, batch_size=2, lr=1e-3, device="cpu")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    """The node's inputs: two clips, their store, and parameters that fit."""
    videos = make_corpus(tmp_path / "media", ["train", "train"])
    teacher = make_teacher_folder(tmp_path / "teacher")
    config = make_config()
    tower = load_teacher(teacher, TeacherConfig(layers=2), 4)
    extract(config, tower, plan_extraction(config, tower, videos), tmp_path / "media", tmp_path / "store")
    return {
        "params": Stage1Config(student=StudentSize(dim=24, depth=3, heads=2), train=LOOP),
        "features": TeacherFeaturesParams(**dict(config)),
        "seed": 0,
        "feature_store": tmp_path / "store",
        "teacher": teacher,
        "videos": videos,
        "raw_media": tmp_path / "media",
        "workspace": tmp_path / "workspace",
    }


def refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        train_student(**inputs)
    assert not (inputs["workspace"] / "stage1").exists(), "nothing was trained"


def test_a_sample_of_the_store_is_verified_before_training(
    inputs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train_student(**inputs)
    assert "2 of 6 rows verified in" in caplog.text, "one of each shard"


def test_a_store_of_another_codec_is_refused(inputs: dict[str, Any]) -> None:
    inputs["features"] = inputs["features"].model_copy(update={"codec": "int8"})
    refused(inputs, 'codec: the parameters say "int8", the store has "fp16"')


def test_a_store_of_another_teacher_is_refused(inputs: dict[str, Any], tmp_path: Path) -> None:
    inputs["teacher"] = make_teacher_folder(tmp_path / "other", seed=1)
    refused(inputs, r"with weights \w{12}…, found weights \w{12}…")


def test_a_store_that_does_not_hold_what_the_videos_give_is_refused_unless_verify_is_0(inputs: dict[str, Any]) -> None:
    path = inputs["feature_store"] / "shards/00001/pixels.npy"
    np.save(path, 255 - np.load(path))
    refused(inputs, r"row 5 \(shard 1, clip 'clip1', view 2\).*pixels differ in \d+ of 1536 bytes")
    inputs["params"] = inputs["params"].model_copy(update={"verify": 0.0})
    assert train_student(**inputs)[2]["steps"] == 1
