"""All published recipes have what they run; those on Kinetics are as published: values, model, schedule, store."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog

from tests.conftest import ROOT
from tests.published import abouts, block, differing, features, header, ingestion, loader, stage1
from tests.raw_tables import read_tables
from umt_pipeline.commands.plan_stage1 import find_tower
from umt_pipeline.core.identity import PACKAGE
from umt_pipeline.models.checkpoints import student_to_published
from umt_pipeline.models.student import Student
from umt_pipeline.tasks.classification.params import ClassificationParams
from umt_pipeline.tasks.classification.training import Recipe
from umt_pipeline.tasks.detection.params import DetectionParams
from umt_pipeline.tasks.detection.testing import DetectionTest
from umt_pipeline.tasks.detection.training import DetectionRecipe
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.video.augment import AugmentConfig

RECIPES = {file.stem: file for file in sorted((ROOT / "conf" / "recipes").glob("*.yml"))}
# The user's own files, and models of another recipe: all that may lie outside a recipe's own folder of data.
MSRVTT = {"raw_media", "raw_videos", "raw_captions", "raw_labels", "stage2_model"}
ELSEWHERE = {
    "Stage 1, classification and action detection": set(),
    "Stage 2": {"raw_media", "raw_videos", "raw_captions", "stage1_model"},
    "Retrieval": MSRVTT,
    "Question answering": MSRVTT | {"raw_questions", "stage2_control_model"},
}


def test_every_recipe_has_an_environment_and_every_shared_part_a_recipe() -> None:
    assert {file.parent.name for file in (ROOT / "conf").glob("umt_*/globals.yml")} == set(RECIPES)
    used = {file for name in RECIPES for file in loader(name).recipes}
    assert used == set((ROOT / "conf" / "recipes").rglob("*.yml"))
    for name, file in RECIPES.items():
        assert list(loader(name).recipes)[-1] == file
        assert loader(name)["globals"] == {
            "recipes": [name], "data": f"data/{name}", "results": f"data/{name}/08_reporting/results"
        }  # fmt: skip


@pytest.mark.parametrize("env", RECIPES)
def test_the_catalog_has_all_that_the_pipelines_read_and_write(env: str) -> None:
    about = abouts()[env]
    entries = {name: entry for name, entry in loader(env)["catalog"].items() if not name.startswith("_")}
    catalog = DataCatalog.from_config(entries)
    configure_project(PACKAGE)
    for stage in (*about.pipelines.split(","), *(["detection"] if "detection" in about.family else [])):
        ends = pipelines[stage].inputs() | pipelines[stage].outputs()
        named = {name for name in ends if not name.startswith(("params:", "parameters"))}
        assert not [name for name in named if name not in catalog], stage
    files = {name: entry for name, entry in entries.items() if entry["type"] != "kedro.io.MemoryDataset"}
    elsewhere = {name for name, entry in files.items() if not entry.get("filepath", "").startswith(f"data/{env}/")}
    assert elsewhere == ELSEWHERE[about.family]


@dataclass(frozen=True)
class Published:
    """What the paper and its code say of one size."""

    env: str
    student: tuple[int, int, int, float]
    teacher: str
    input_size: int
    encoder_parameters: int
    head_parameters: int
    tensors: int
    fp16_bytes: int
    # Epochs, layer decay, stochastic depth.
    classification: tuple[int, float, float]
    detection: tuple[int, float, float]


B16 = Published(
    "umt_b16", (768, 12, 12, 0.1), "open_clip:ViT-B-16/openai", 224, 85_637_376, 2_368_512, 184, 1_966_080,
    (35, 0.75, 0.1), (30, 0.75, 0.2),
)  # fmt: skip
L16 = Published(
    "umt_l16", (1024, 24, 16, 0.2), "open_clip:ViT-L-14/openai", 196, 303_074_304, 4_732_416, 340, 2_949_120,
    (20, 0.85, 0.2), (25, 0.85, 0.4),
)  # fmt: skip
FINE_TUNING = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "clip_grad": None, "ema": None}
K710_CLIPS = 658_340
CACHED = "teacher_features.views=10,stage1.targets=cached"


@pytest.fixture(params=[B16, L16], ids=lambda size: size.env)
def size(request: pytest.FixtureRequest) -> Published:
    return request.param


def test_stage_1_is_the_published_one(size: Published) -> None:
    params, training = features(size.env), stage1(size.env)
    assert not differing(params.teacher, {"source": size.teacher, "layers": 6, "normalisation": "student"})
    assert params.view.model_dump() == {"frames": 8, "size": 224, "scales": (1.0, 0.875, 0.75, 0.66), "flip": True}
    assert params.mask.model_dump() == {"kind": "attention", "ratio": 0.8}
    assert (params.patch_size, params.views, params.splits, training.targets) == (16, 0, ("train",), "online")
    assert params.grid * find_tower(params, None).patch_size == size.input_size, "the teacher's grid is the student's"
    assert ingestion(size.env).dataset_id == params.dataset_id
    dim, depth, heads, drop_path = size.student
    assert not differing(
        training.student, {"dim": dim, "depth": depth, "heads": heads, "mlp_ratio": 4.0, "drop_path": drop_path}
    )
    loop = {"epochs": 200, "batch_size": 2048, "lr": 1.5e-4, "min_lr": 1e-5, "scale_lr": True, "warmup": 40}
    rest = {"steps": None, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05, "clip_grad": None}
    assert not differing(training.train, loop | rest)
    assert training.train.batch_size // (training.train.nproc * training.train.accumulate) == 64, "as on each of 32 GPUs"


def test_the_student_has_the_published_parameters(size: Published) -> None:
    with torch.device("meta"):
        student = Student(stage1(size.env).student.student_config(header(size.env)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (student.encoder, student.heads)]
    assert counts == [size.encoder_parameters, size.head_parameters]
    assert len(student_to_published(student.state_dict(), 16)) == size.tensors


def test_the_schedule_ends_where_the_published_one_does(size: Published) -> None:
    train = stage1(size.env).train
    sampler = Sampler(K710_CLIPS, train.batch_size, seed=0, world=train.nproc, accumulate=train.accumulate)
    schedule = make_schedule(train, sampler.steps_per_epoch, sampler.batch_size)
    assert (sampler.steps_per_epoch, schedule.total_steps, schedule.warmup_steps) == (321, 64_200, 12_840)
    assert schedule.lr(0) == 0.0
    assert schedule.lr(12_839) == schedule.lr(12_840) == pytest.approx(1.2e-3)
    assert schedule.lr(64_199) == pytest.approx(8e-5, rel=1e-6)
    assert schedule.lr(64_199) > schedule.floor == pytest.approx(8e-5)


def test_classification_is_the_published_one(size: Published) -> None:
    params, base = block(size.env, "classification", ClassificationParams), size is B16
    epochs, layer_decay, drop_path = size.classification
    tuning, train = params.fine_tuning, params.fine_tuning.train
    assert (params.tasks, params.start, params.control) == (("k710",), "stage1", False)
    published = Recipe(augment=AugmentConfig(flip=True), drop_path=drop_path)
    assert tuning.recipe() == published, "the recipe's defaults, but for what differs between sizes and data sets"
    assert (params.test.clips, params.test.crops) == (4, 3)
    assert not differing(train, FINE_TUNING | {"epochs": epochs, "warmup": 2, "layer_decay": layer_decay})
    views = train.batch_size * tuning.repeats
    assert views == 16 * 16 * 2, "16 GPUs, 16 clips, 2 views of each"
    assert train.lr == pytest.approx((2e-4 if base else 1e-4) * views / 256)
    assert train.min_lr == pytest.approx(1e-6 * views / 256)
    assert train.batch_size // (train.nproc * train.accumulate) == 16
    assert train.recompute_blocks == (0 if base else 12)
    assert train.checkpoint_every == Sampler(K710_CLIPS, train.batch_size, seed=0).steps_per_epoch
    config = tuning.model_for(stage1(size.env).student.student_config(header(size.env)).vision, 710, interpolate=True)
    assert (config.vision.position_frames, config.vision.position_image_size, config.pool) == (None, None, "mean")


def test_detection_is_the_published_one(size: Published) -> None:
    params, base = block(size.env, "detection", DetectionParams), size is B16
    epochs, layer_decay, drop_path = size.detection
    tuning, train = params.fine_tuning, params.fine_tuning.train
    assert (params.start, params.control, params.test_split, params.groups) == ("stage1", False, "validation", None)
    assert tuning.recipe() == DetectionRecipe(drop_path=drop_path), "the defaults, but for what differs between sizes"
    assert params.test == DetectionTest(nproc=8), "as many GPUs as in training"
    assert not differing(train, FINE_TUNING | {"epochs": epochs, "warmup": 5, "layer_decay": layer_decay})
    assert train.lr == pytest.approx(2.5e-4 * train.batch_size / 256)
    assert train.batch_size // (train.nproc * train.accumulate) == (8 if base else 4)
    assert train.precision == ("auto" if base else "fp32")
    vision = stage1(size.env).student.student_config(header(size.env)).vision
    assert tuning.model_for(vision, 80, interpolate=True).vision.drop_path == drop_path


def test_the_cached_variant_stores_what_it_should(size: Published) -> None:
    fp16 = header(size.env, f"{CACHED},teacher_features.codec=fp16")
    assert (fp16.views, fp16.grid, fp16.visible_per_frame, fp16.layers, fp16.target_dim) == (
        10, 14, 40, 6, size.fp16_bytes // (6 * 320 * 2),
    )  # fmt: skip
    common = {"pixels": 320 * 768, "attention": 8 * 196 * 2, "visible": 320 * 4}
    assert fp16.row_bytes() == {**common, "targets": size.fp16_bytes}
    assert header(size.env, CACHED).row_bytes() == {**common, "targets": size.fp16_bytes // 2, "scales": 6 * 320 * 4}
    assert stage1(size.env, CACHED).targets == "cached"


def test_the_authors_list_is_read(size: Published) -> None:
    listing = pd.DataFrame({"path": ["k400/a.mp4", "k700/b c.mp4"], "label": ["0", "709"]})
    none = DataCatalog.from_config({"raw_captions": loader(size.env)["catalog"]["raw_captions"]}).load("raw_captions")
    videos, tables, ignored = read_tables(listing, none, listing, none, none, params=ingestion(size.env))
    assert videos[["video", "split"]].to_dict("split")["data"] == [["k400/a.mp4", "train"], ["k700/b c.mp4", "train"]]
    assert tables["labels"]["label"].tolist() == ["0", "709"]
    assert [name for name, table in tables.items() if table.empty] == ["captions", "questions", "boxes"]
    assert ignored["videos"] == ["label"]
