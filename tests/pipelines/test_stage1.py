"""The stage-1 node looks at the store before it trains."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.features.tiny import make_config, make_corpus, make_teacher_folder
from umt_pipeline.core.errors import StoreError
from umt_pipeline.features.codecs import Int8
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.pipelines.sources import RecordedViews, gather_views
from umt_pipeline.pipelines.stage1.nodes import plan_student, train_student
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage1 import Stage1Config, StudentSize
from umt_pipeline.training.task import TrainConfig

SEED = 0
PARAMS = Stage1Config(
    student=StudentSize(dim=24, depth=3, heads=2), train=TrainConfig(steps=1, batch_size=2, lr=1e-3, device="cpu")
)


@pytest.fixture
def views(tmp_path: Path) -> RecordedViews:
    """Two clips, their store, and parameters that fit."""
    videos = make_corpus(tmp_path / "media", ["train", "train"])
    teacher = make_teacher_folder(tmp_path / "teacher")
    config = make_config()
    tower = load_teacher(teacher, TeacherConfig(layers=2), 4)
    extract(config, tower, plan_extraction(config, tower, videos), tmp_path / "media", tmp_path / "store")
    return gather_views(
        TeacherFeaturesParams(**dict(config)), teacher, videos, tmp_path / "media", feature_store=tmp_path / "store"
    )


def refused(views: RecordedViews, workspace: Path, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        plan_student(PARAMS, SEED, views, workspace)
    assert not (workspace / "stage1").exists(), "nothing was trained"


def test_a_sample_of_the_store_is_verified_before_training(
    views: RecordedViews, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        train_student(plan_student(PARAMS, SEED, views, tmp_path), tmp_path)
    assert "2 of 6 rows verified in" in caplog.text, "one of each shard"


def test_a_store_of_another_codec_is_refused(views: RecordedViews, tmp_path: Path) -> None:
    features = views.features.model_copy(update={"codec": Int8()})
    refused(replace(views, features=features), tmp_path, 'codec.kind: the parameters say "int8", the store has "fp16"')


def test_a_store_of_another_teacher_is_refused(views: RecordedViews, tmp_path: Path) -> None:
    teacher = make_teacher_folder(tmp_path / "other", seed=1)
    refused(replace(views, teacher=teacher), tmp_path, r"with weights \w{12}…, found weights \w{12}…")


def test_a_store_that_does_not_hold_what_the_videos_give_is_refused_unless_verify_is_0(
    views: RecordedViews, tmp_path: Path
) -> None:
    path = views.stores["video"] / "shards/00001/pixels.npy"
    np.save(path, 255 - np.load(path))
    refused(views, tmp_path, r"row 5 \(shard 1, clip 'clip1', view 2\).*pixels differ in \d+ of 1536 bytes")
    unverified = PARAMS.model_copy(update={"verify": 0.0})
    assert train_student(plan_student(unverified, SEED, views, tmp_path), tmp_path)[2]["steps"] == 1
