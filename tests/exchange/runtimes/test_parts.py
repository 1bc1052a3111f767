"""Networks that are exported compute what the package computes, and hold no other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables
from tests.serving.folders import write_folder
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.exchange.runtimes.parts import load_parts, run
from umt_pipeline.models.encoder import KIND as ENCODER
from umt_pipeline.serving.files import load_frames

TEXTS = ("A disc, moving!", "a star 3 goes up and then left again and again")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test"))


def clips_of(tables: Tables) -> list[Path]:
    return [tables.media_root / path for path in tables.videos[tables.videos["media"] == "video"]["path"]]


@pytest.mark.parametrize("kind", ["stage1", "stage2"])
def test_parts_give_the_embeddings_of_the_package(tmp_path: Path, tables: Tables, kind: str) -> None:
    folder = write_folder(kind, tmp_path / kind, tables)
    known, model = umt.load(folder, "fp32"), load_parts(folder)
    clips = clips_of(tables)
    frames = torch.from_numpy(np.stack([load_frames(path, model.view) for path in clips]))
    found = {part.name: run(part, *model.inputs(part, frames, TEXTS)) for part in model.parts}
    torch.testing.assert_close(found["video"], known.embed_videos(clips).all())
    if kind == "stage2":
        torch.testing.assert_close(found["text"], known.embed_texts(TEXTS))
    else:
        assert model.kind == ENCODER, "of a student its encoder goes out"
        assert list(found) == ["video"]


def test_parts_hold_the_weights_that_they_use(tmp_path: Path, tables: Tables) -> None:
    model = load_parts(write_folder("stage2", tmp_path / "stage2", tables))
    whole = set(model.model.state_dict())
    video, text = (set(part.network.model.state_dict()) for part in model.parts)  # type: ignore[union-attr, operator]
    assert video == {name for name in whole if name.startswith(("vision.", "pool_norm.", "vision_proj."))}
    assert text == {name for name in whole if name.startswith(("text.embeddings.", "text.layers.0.", "text_proj."))}
    assert set(model.model.state_dict()) == whole, "the model itself stays as it is"


def test_classifiers_give_logits(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("classification", tmp_path / "classification", tables) / "shape"
    model = load_parts(folder)
    frames = torch.randint(0, 256, (3, 2, 32, 32, 3), dtype=torch.uint8)
    assert run(model.parts[0], frames).shape == (3, 3)
    assert model.classes == ("disc", "ring", "star")
    (folder / "classes.json").unlink()
    assert load_parts(folder).classes is None, "an imported classifier may not know its labels"


@pytest.mark.parametrize("kind", ["detection", "question_answering", "teacher"])
def test_kinds_of_which_nothing_is_exported_are_refused(tmp_path: Path, tables: Tables, kind: str) -> None:
    folder = write_folder(kind, tmp_path / kind, tables)
    with pytest.raises(CheckpointError, match=r"a model of kind '\w+', of which nothing is exported: the models of stage 1"):
        load_parts(folder)


def test_folders_without_a_model_are_refused(tmp_path: Path, tables: Tables) -> None:
    several = write_folder("classification", tmp_path / "classification", tables)
    with pytest.raises(CheckpointError, match="holds 2 models, motion, shape: export one of these folders"):
        load_parts(several)
    with pytest.raises(CheckpointError, match=r"is no model folder: config\.json is missing"):
        load_parts(tmp_path / "nowhere")
    stage2 = write_folder("stage2", tmp_path / "stage2", tables)
    (stage2 / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_parts(stage2)
    write_json(stage2 / "config.json", {"kind": "umt_seventh", "model": {}, "extra": {}})
    with pytest.raises(CheckpointError, match="kind 'umt_seventh', of which nothing is exported"):
        load_parts(stage2)
