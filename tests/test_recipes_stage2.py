"""The published stage-2 recipes, without data and without weights: values, model, corpora."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kedro.io import DataCatalog

from tests.published import block, differing, features, header, ingestion, loader, stage1
from tests.raw_tables import read_tables
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.training.stage2 import Stage2Config

STILLS = ("cc3m", "coco", "vg", "sbu", "cc12m")
CORPORA = {"5m": ("webvid_2m", "cc3m"), "17m": ("webvid_2m", *STILLS), "25m": ("webvid_10m", *STILLS)}


@dataclass(frozen=True)
class Size:
    """What the paper and its code say of one size; parameters in millions."""

    stage1: str
    teacher: str
    bert: str
    batch: int
    gpus: int
    embed_dim: int
    drop_path: float
    vision: float
    heads: float
    text: float
    total: float


B16 = Size("umt_b16", "ViT-B-16", "bert-base-uncased", 2048, 16, 512, 0.1, 85.64, 2.37, 116.6, 205.4)
L16 = Size("umt_l16", "ViT-L-14", "bert-large-uncased", 4096, 32, 768, 0.2, 303.07, 4.73, 356.2, 665.6)
RECIPES = {f"{size.stage1}_{name}": (size, corpora) for size in (B16, L16) for name, corpora in CORPORA.items()}


@pytest.fixture(params=RECIPES)
def env(request: pytest.FixtureRequest) -> str:
    return request.param


def stage2(env: str) -> Stage2Config:
    return block(env, "stage2", Stage2Config)


def test_stage_2_is_the_published_one(env: str) -> None:
    size, _ = RECIPES[env]
    params, training = features(env), stage2(env)
    assert ingestion(env).dataset_id == params.dataset_id == env
    assert not differing(
        params.teacher, {"source": f"open_clip:{size.teacher}/openai", "layers": 6, "normalisation": "student"}
    )
    images = params.image_config()
    assert (params.view.frames, params.view.size, params.view.flip, images.view.frames) == (4, 224, True, 1)
    masks = [config.mask.model_dump() for config in (params, images)]
    assert masks == [{"kind": "attention", "ratio": 0.8}, {"kind": "attention", "ratio": 0.5}]
    assert (params.views, images.views, params.splits, training.targets) == (0, 0, ("train",), "online")
    published: dict[str, Any] = {
        "text_pretraining": None,
        "embed_dim": size.embed_dim,
        "temperature": 0.07,
        "pool": "mean",
        "fuse_positions": False,
        "fuse_pooled": False,
        "weights": {"contrastive": 1 / size.gpus, "matching": 1.0, "masked_language": 1.0, "alignment": 1.0},
        "clean_captions": True,
        "parity": False,
        "unmasked_epochs": 0,
        "control": False,
    }
    assert not differing(training, published)
    assert not differing(training.text, {"pretrained": size.bert, "max_length": 32, "dropout": 0.1, "lr_scale": 1.0})
    loop = {"epochs": 10, "steps": None, "batch_size": 128 * size.gpus, "accumulate": 1, "warmup": 1}
    rate = {"lr": 1e-4, "min_lr": 1e-6, "scale_lr": False, "layer_decay": None}
    rest = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.02, "clip_grad": None, "ema": None}
    assert not differing(training.train, loop | rate | rest)


def test_the_model_has_the_published_parameters(env: str) -> None:
    size, _ = RECIPES[env]
    student = stage1(env).student
    assert student == stage1(size.stage1).student
    # The student that stage 2 starts from has seen 8 frames.
    longer = header(env).model_copy(update={"frames": 8})
    config = stage2(env).model_for(student.student_config(longer), header(env), stage2(env).text.vocab_size)
    assert (config.vision.frames, config.align_layers, config.target_dim) == (4, 6, size.embed_dim)
    assert (config.vision.drop_path, stage2(env).drop_path) == (size.drop_path, size.drop_path), "also if imported"
    with torch.device("meta"):
        model = VideoTextModel(config)
    projections = size.embed_dim * (config.vision.dim + 1) / 1e6
    for part, millions in (
        (model.vision, size.vision), (model.heads, size.heads), (model.text, size.text), (model, size.total),
        (model.vision_proj, projections), (model.text_proj, projections),
    ):  # fmt: skip
        assert part is not None
        assert sum(weight.numel() for weight in part.parameters()) / 1e6 == pytest.approx(millions, rel=7e-4)


def test_recipes_of_one_size_differ_in_their_data_alone() -> None:
    for size in (B16, L16):
        found = [stage2(env).model_dump(exclude={"corpora"}) for env, (own, _) in RECIPES.items() if own is size]
        assert found[0] == found[1] == found[2]


def test_the_corpora_become_one_table(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, corpora = RECIPES[env]
    entries = loader(env)["catalog"]
    assert entries["stage1_model"]["filepath"] == f"data/{size.stage1}/06_models/stage1"
    for name, corpus in entries["raw_videos"]["corpora"].items():
        file = tmp_path / corpus["filepath"]
        file.parent.mkdir(parents=True, exist_ok=True)
        key = "video" if name.startswith("webvid") else "image"
        file.write_text(json.dumps([{key: "1.x", "caption": "one"}, {key: "1.x", "caption": "the same"}]))
    monkeypatch.chdir(tmp_path)
    names = [f"raw_{table}" for table in ("videos", "captions", "labels", "questions", "boxes")]
    catalog = DataCatalog.from_config({name: entries[name] for name in names})
    videos, tables, ignored = read_tables(*map(catalog.load, names), params=ingestion(env))
    assert list(videos["corpus"]) == list(stage2(env).corpora) == list(corpora)
    assert list(videos["media"]) == ["video", *["image"] * (len(corpora) - 1)]
    assert videos["video"][0] == f"{corpora[0]}/1.x"
    assert len(tables["captions"]) == 2 * len(videos)
    assert [name for name, table in tables.items() if table.empty] == ["labels", "questions", "boxes"]
    assert (ignored["videos"], ignored["captions"]) == ([], ["corpus"])
