"""What a model is, read from its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables
from tests.serving.folders import write_clip, write_folder
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.serving.describing import describe
from umt_pipeline.serving.sources import find


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train",))


def test_a_model_is_described_by_its_files(tmp_path: Path) -> None:
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=1, heads=2)
    student = untrained_student(StudentConfig(vision=vision, align_layers=1, target_dim=8), seed=0)
    save_model(tmp_path, student, student.config, KIND, {"steps": 30, "store": {"views": 4}})
    told = describe(find(tmp_path, {}))
    (part,) = told.parts.values()
    assert part.sha256 == sha256_file(tmp_path / "model.safetensors")
    assert part.parameters == sum(parameter.numel() for parameter in student.parameters())
    assert (told.kind, told.frames, told.size) == ("stage1", 2, 32)
    assert part.training == {"steps": 30, "store": {"views": 4}}
    assert json.loads(json.dumps(told.to_json()))["parts"][""]["sizes"]["vision"]["dim"] == 16
    lines = "\n".join(told.lines())
    for words in ("stage1", "2 frames of 32 x 32 pixels", "vision.depth", "store.views", part.sha256, "fine-tuned"):
        assert words in lines


def test_classifiers_are_described_one_by_one(tmp_path: Path, tables: Tables) -> None:
    told = describe(find(write_folder("classification", tmp_path / "model", tables), {}))
    assert list(told.parts) == ["motion", "shape"]
    assert told.parts["shape"].sizes["classes"] == 3
    assert told.abilities == ("classify",)
    assert "label task shape" in list(told.lines())


def test_a_clip_is_described_by_its_configuration(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    told = describe(find(f"open_clip:local-dir:{folder}", {}))
    assert (told.kind, told.size) == ("open_clip", 32)
    assert set(told.abilities) == umt.load(folder, frames=1).abilities
    assert told.parts[""].sizes["model_cfg"]["embed_dim"] == 16


def test_a_folder_for_boxes_says_so(tmp_path: Path, tables: Tables) -> None:
    lines = "\n".join(describe(find(write_folder("detection", tmp_path / "model", tables), {})).lines())
    assert "nothing without boxes of people" in lines


def test_damaged_weights_are_named(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("stage1", tmp_path / "model", tables)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        describe(find(folder, {}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        describe(find(folder, {}))
