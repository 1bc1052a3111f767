"""The extraction node."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.features.tiny import make_config, make_corpus, make_teacher_folder
from umt_pipeline.errors import CheckpointError
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.files import move_folder
from umt_pipeline.pipelines.teacher_features.nodes import extract_features
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams


def test_extract_features_resumes_and_hands_over_a_whole_store(tmp_path: Path) -> None:
    videos = make_corpus(tmp_path / "media", ["train", "test", "train"])
    teacher = make_teacher_folder(tmp_path / "teacher")
    params = TeacherFeaturesParams(**dict(make_config()))
    folder, report = extract_features(params, teacher, tmp_path / "media", videos, tmp_path / "workspace")
    assert folder.parent == tmp_path / "workspace/features"
    assert report["rows"] == 6
    again, report = extract_features(params, teacher, tmp_path / "media", videos, tmp_path / "workspace")
    assert (again, report["rows_resumed"]) == (folder, 6)
    move_folder(folder, tmp_path / "store")
    FeatureStore(tmp_path / "store").verify()


def test_bad_parameters_and_a_missing_teacher_are_refused(tmp_path: Path) -> None:
    settings = dict(make_config())
    with pytest.raises(ValidationError, match="veiws"):
        TeacherFeaturesParams.model_validate({**settings, "veiws": 3})
    params = TeacherFeaturesParams(**settings)
    with pytest.raises(CheckpointError, match="is no teacher folder"):
        extract_features(params, tmp_path, tmp_path, make_corpus(tmp_path / "media", ["train"]), tmp_path)
