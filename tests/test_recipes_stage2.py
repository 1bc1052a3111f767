"""The published stage-2 recipes, without data and without weights: parameters, model, schedule, catalog, header."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog

from tests.conftest import ROOT
from tests.imports import PACKAGE
from tests.test_recipes import HARDWARE
from umt_pipeline.commands.plan import Counts, plan_project
from umt_pipeline.commands.plan_stage1 import find_tower
from umt_pipeline.features.extract import make_header
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import config_loader, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.stage2 import Stage2Config

STAGES = ("ingestion", "teacher_features", "stage2")
STILLS = ("cc3m", "coco", "vg", "sbu", "cc12m")


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


@dataclass(frozen=True)
class Amount:
    """Corpora, and the numbers of videos and images that the header's cost is for."""

    video: str
    images: tuple[str, ...]
    counts: Counts


B16 = Size("umt_b16", "ViT-B-16", "bert-base-uncased", 2048, 16, 512, 0.1, 85.64, 2.37, 116.6, 205.4)
L16 = Size("umt_l16", "ViT-L-14", "bert-large-uncased", 4096, 32, 768, 0.2, 303.07, 4.73, 356.2, 665.6)
AMOUNTS = {
    "5m": Amount("webvid_2m", ("cc3m",), Counts(2_490_000, 2_950_000)),
    "17m": Amount("webvid_2m", STILLS, Counts(2_490_000, 15_920_000)),
    "25m": Amount("webvid_10m", STILLS, Counts(10_730_000, 15_920_000)),
}
RECIPES = {f"{size.stage1}_{name}": (size, amount) for size in (B16, L16) for name, amount in AMOUNTS.items()}
# Zero-shot R@1 on MSRVTT, DiDeMo, ActivityNet, LSMDC and MSVD: text to video, video to text.
SCORES = {
    "umt_b16_5m": "29.6 26.2 33.4 32.0 28.3 25.9 16.8 12.9 36.2 58.5",
    "umt_b16_17m": "35.5 31.6 41.9 40.3 33.8 31.6 18.1 16.0 41.4 62.5",
    "umt_b16_25m": "35.2 30.3 41.2 40.8 35.5 32.8 19.1 15.7 42.3 61.9",
    "umt_l16_5m": "33.3 30.2 34.0 36.2 31.9 30.0 20.0 16.1 44.4 66.1",
    "umt_l16_17m": "42.6 38.6 46.4 46.5 42.8 40.7 25.2 23.2 49.9 75.4",
    "umt_l16_25m": "40.7 37.1 48.6 49.9 41.9 39.4 24.9 21.9 49.0 74.5",
}


@pytest.fixture(params=RECIPES)
def env(request: pytest.FixtureRequest) -> str:
    return request.param


def parameters(env: str) -> tuple[IngestionParams, TeacherFeaturesParams, Stage1Config, Stage2Config]:
    loader = config_loader(ROOT, env)
    return (
        typed_parameters(loader, "ingestion", IngestionParams),
        typed_parameters(loader, "teacher_features", TeacherFeaturesParams),
        typed_parameters(loader, "stage1", Stage1Config),
        typed_parameters(loader, "stage2", Stage2Config),
    )


def test_hyper_parameters_are_the_published_ones(env: str) -> None:
    size, _ = RECIPES[env]
    ingestion, features, _, stage2 = parameters(env)
    assert ingestion.dataset_id == features.dataset_id == env
    teacher = {"source": f"open_clip:{size.teacher}/openai", "layers": 6, "normalisation": "student"}
    assert features.teacher.model_dump() | teacher == features.teacher.model_dump()
    images = features.image_config()
    assert (features.view.frames, features.view.size, features.view.flip, images.view.frames) == (4, 224, True, 1)
    masks = [config.mask.model_dump() for config in (features, images)]
    assert masks == [{"kind": "attention", "ratio": 0.8}, {"kind": "attention", "ratio": 0.5}]
    assert (features.views, images.views, features.splits, stage2.targets) == (0, 0, ("train",), "online")
    expected: dict[str, Any] = {
        "text_pretraining": None,
        "embed_dim": size.embed_dim,
        "temperature": 0.07,
        "pool": "mean",
        "fuse_positions": False,
        "weights": {"contrastive": 1 / size.gpus, "matching": 1.0, "masked_language": 1.0, "alignment": 1.0},
        "clean_captions": True,
        "parity": False,
        "unmasked_epochs": 0,
        "control": False,
    }
    assert stage2.model_dump() | expected == stage2.model_dump()
    assert (stage2.text.pretrained, stage2.text.max_length, stage2.text.dropout) == (size.bert, 32, 0.1)
    assert stage2.text.lr_scale == 1.0
    train: dict[str, Any] = {
        "epochs": 10,
        "steps": None,
        "batch_size": size.batch,
        "lr": 1e-4,
        "min_lr": 1e-6,
        "scale_lr": False,
        "warmup": 1,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.02,
        "layer_decay": None,
        "clip_grad": None,
        "ema": None,
        "accumulate": 1,
    }
    assert stage2.train.model_dump() | train == stage2.train.model_dump()
    assert size.batch == 128 * size.gpus


def test_the_model_has_the_published_parameters(env: str) -> None:
    size, _ = RECIPES[env]
    _, features, stage1, stage2 = parameters(env)
    assert stage1.student == parameters_of_stage1(size).student
    assert stage1.student.drop_path == size.drop_path
    header = make_header(features, find_tower(features, None).output_dim, "")
    # The student that stage 2 starts from has seen 8 frames.
    longer = header.model_copy(update={"frames": 8})
    config = stage2.model_for(stage1.student.student_config(longer), header, stage2.text.vocab_size)
    assert (config.vision.frames, config.align_layers, config.target_dim) == (4, 6, size.embed_dim)
    assert (config.vision.drop_path, stage2.drop_path) == (size.drop_path, size.drop_path), "also from an imported student"
    with torch.device("meta"):
        model = VideoTextModel(config)
    projections = size.embed_dim * (config.vision.dim + 1) / 1e6
    for part, millions in (
        (model.vision, size.vision), (model.heads, size.heads), (model.text, size.text), (model, size.total),
        (model.vision_proj, projections), (model.text_proj, projections),
    ):  # fmt: skip
        assert part is not None
        assert sum(weight.numel() for weight in part.parameters()) / 1e6 == pytest.approx(millions, rel=7e-4)


def parameters_of_stage1(size: Size) -> Stage1Config:
    return typed_parameters(config_loader(ROOT, size.stage1), "stage1", Stage1Config)


def test_recipes_of_one_size_differ_in_their_data_alone() -> None:
    for size in (B16, L16):
        found = [parameters(env)[3].model_dump(exclude={"corpora"}) for env, (own, _) in RECIPES.items() if own is size]
        assert found[0] == found[1] == found[2]


def test_the_catalog_has_all_that_the_pipelines_read_and_write(env: str) -> None:
    size, amount = RECIPES[env]
    entries = {name: entry for name, entry in config_loader(ROOT, env)["catalog"].items() if not name.startswith("_")}
    catalog = DataCatalog.from_config(entries)
    configure_project(PACKAGE)
    for stage in STAGES:
        named = {name for name in pipelines[stage].inputs() | pipelines[stage].outputs() if ":" not in name}
        assert named <= set(catalog.keys()), stage
    for table in ("raw_videos", "raw_captions"):
        assert list(entries[table]["corpora"]) == [amount.video, *amount.images]
    assert entries["stage1_model"]["filepath"] == f"data/{size.stage1}/06_models/stage1"
    elsewhere = {name for name, entry in entries.items() if not entry.get("filepath", "").startswith(f"data/{env}/")}
    assert elsewhere == {"raw_media", "raw_videos", "raw_captions", "raw_labels", "stage1_model"}


def test_the_corpora_become_one_table(env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, amount = RECIPES[env]
    entries = config_loader(ROOT, env)["catalog"]
    tables = {name: entries[name] for name in ("raw_videos", "raw_captions", "raw_labels")}
    for name, corpus in tables["raw_videos"]["corpora"].items():
        file = tmp_path / corpus["filepath"]
        file.parent.mkdir(parents=True, exist_ok=True)
        key = "video" if name == amount.video else "image"
        file.write_text(json.dumps([{key: "1.x", "caption": "one"}, {key: "1.x", "caption": "the same"}]))
    empty = tmp_path / tables["raw_labels"]["filepath"]
    empty.parent.mkdir(parents=True)
    shutil.copy(ROOT / tables["raw_labels"]["filepath"], empty)
    monkeypatch.chdir(tmp_path)
    catalog = DataCatalog.from_config(tables)
    raw = [catalog.load(name) for name in tables]
    videos, captions, labels, ignored = read_raw_tables(*raw, parameters(env)[0])
    assert list(videos["corpus"]) == [amount.video, *amount.images]
    assert list(videos["media"]) == ["video", *["image"] * len(amount.images)]
    assert videos["video"][0] == f"{amount.video}/1.x"
    assert len(captions) == 2 * len(videos)
    assert labels.empty
    assert ignored == {"videos": [], "captions": ["corpus"], "labels": []}
    assert list(parameters(env)[3].corpora) == [amount.video, *amount.images]


def test_the_header_says_what_the_plan_says(env: str) -> None:
    size, amount = RECIPES[env]
    text = (ROOT / "conf" / env / "parameters_stage2.yml").read_text(encoding="utf-8")
    for title in ("Data", "Hardware", "Cost", "Score"):
        assert f"\n# {title}\n" in text
    plans = plan_project(ROOT, env, "", amount.counts, HARDWARE)
    assert plans.stage1 is None, "stage 1 is the other recipe's"
    plan = plans.stage2
    assert plan is not None
    assert f"umt plan --env {env} --clips {amount.counts.clips} --images {amount.counts.images}`" in text
    assert f"online  {plan.online.device_hours:,.0f} device-hours, {plan.online.hours:.1f} hours" in text
    assert f"cached  {plan.cached.device_hours:,.0f} device-hours, {plan.cached.hours:.1f} hours" in text
    assert f"stores of {plan.store_bytes / 1e12:.3g} TB" in text
    assert f"--env {size.stage1}`" in text
    sets = ("MSRVTT", "DiDeMo", "ActivityNet", "LSMDC", "MSVD")
    rows = [line.split() for line in text.splitlines() if line.startswith("#     ") and line.split()[1] in sets]
    assert [row[1] for row in rows] == list(sets)
    assert " ".join(number for row in rows for number in row[2:]) == SCORES[env]
