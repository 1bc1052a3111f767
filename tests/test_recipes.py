"""The published recipes, without data and without weights: parameters, model, schedule, store, header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog
from umt_pipeline.pipelines.classification.params import ClassificationParams
from umt_pipeline.pipelines.detection.params import DetectionParams

from tests.conftest import ROOT
from tests.imports import PACKAGE
from umt_pipeline.commands.plan import Counts, plan_project
from umt_pipeline.commands.plan_stage1 import Hardware, find_tower
from umt_pipeline.datasets import TableDataset
from umt_pipeline.features.extract import make_header
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.models.checkpoints import student_to_published
from umt_pipeline.models.student import Student
from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import config_loader, typed_parameters
from umt_pipeline.tasks.classification.training import Recipe
from umt_pipeline.tasks.detection.testing import PeopleConfig
from umt_pipeline.tasks.detection.training import DetectionRecipe
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.augment import AugmentConfig

K710_CLIPS = 658_340
STAGES = ("ingestion", "teacher_features", "stage1", "classification", "detection")
HARDWARE = Hardware(name="h100", peak_tflops=989, mfu=0.4, cores=16, decode_rate=16, image_rate=200, store_rate=2)


@dataclass(frozen=True)
class Published:
    """What the paper and its code say of one size."""

    env: str
    dim: int
    depth: int
    heads: int
    drop_path: float
    teacher: str
    input_size: int
    encoder_parameters: int
    head_parameters: int
    tensors: int
    fp16_bytes: int


B16 = Published(
    "umt_b16", 768, 12, 12, 0.1, "open_clip:ViT-B-16/openai", 224, 85_637_376, 2_368_512, 184, 1_966_080
)
L16 = Published(
    "umt_l16", 1024, 24, 16, 0.2, "open_clip:ViT-L-14/openai", 196, 303_074_304, 4_732_416, 340, 2_949_120
)


@pytest.fixture(params=[B16, L16], ids=lambda size: size.env)
def size(request: pytest.FixtureRequest) -> Published:
    return request.param


def parameters(size: Published, overrides: str = "") -> tuple[IngestionParams, TeacherFeaturesParams, Stage1Config]:
    loader = config_loader(ROOT, size.env, overrides)
    return (
        typed_parameters(loader, "ingestion", IngestionParams),
        typed_parameters(loader, "teacher_features", TeacherFeaturesParams),
        typed_parameters(loader, "stage1", Stage1Config),
    )


def header(size: Published, overrides: str = "") -> StoreHeader:
    _, features, _ = parameters(size, overrides)
    return make_header(features, find_tower(features, None).output_dim, "")


def test_hyper_parameters_are_the_published_ones(size: Published) -> None:
    ingestion, features, stage1 = parameters(size)
    assert features.teacher.model_dump() | {"source": size.teacher, "layers": 6, "normalisation": "student"} == (
        features.teacher.model_dump()
    )
    assert features.view.model_dump() == {"frames": 8, "size": 224, "scales": (1.0, 0.875, 0.75, 0.66), "flip": True}
    assert features.mask.model_dump() == {"kind": "attention", "ratio": 0.8}
    assert (features.patch_size, features.views, features.splits, stage1.targets) == (16, 0, ("train",), "online")
    assert ingestion.dataset_id == features.dataset_id
    expected = {"dim": size.dim, "depth": size.depth, "heads": size.heads, "mlp_ratio": 4.0, "drop_path": size.drop_path}
    assert stage1.student.model_dump() == expected
    train: dict[str, Any] = {
        "epochs": 200,
        "steps": None,
        "batch_size": 2048,
        "lr": 1.5e-4,
        "min_lr": 1e-5,
        "scale_lr": True,
        "warmup": 40,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.05,
        "clip_grad": None,
    }
    assert stage1.train.model_dump() | train == stage1.train.model_dump()
    assert stage1.train.batch_size // (stage1.train.nproc * stage1.train.accumulate) == 64, "as on each of 32 GPUs"


def test_the_teachers_grid_is_the_students(size: Published) -> None:
    _, features, _ = parameters(size)
    assert features.grid * find_tower(features, None).patch_size == size.input_size


def test_the_student_has_the_published_parameters(size: Published) -> None:
    _, _, stage1 = parameters(size)
    with torch.device("meta"):
        student = Student(stage1.student.student_config(header(size)))
    counts = [sum(p.numel() for p in part.parameters()) for part in (student.encoder, student.heads)]
    assert counts == [size.encoder_parameters, size.head_parameters]
    assert len(student_to_published(student.state_dict(), 16)) == size.tensors


def test_the_schedule_ends_where_the_published_one_does(size: Published) -> None:
    train: TrainConfig = parameters(size)[2].train
    sampler = Sampler(K710_CLIPS, train.batch_size, seed=0, world=train.nproc, accumulate=train.accumulate)
    schedule = make_schedule(train, sampler.steps_per_epoch, sampler.batch_size)
    assert (sampler.steps_per_epoch, schedule.total_steps, schedule.warmup_steps) == (321, 64_200, 12_840)
    assert schedule.lr(0) == 0.0
    assert schedule.lr(12_839) == schedule.lr(12_840) == pytest.approx(1.2e-3)
    assert schedule.lr(64_199) == pytest.approx(8e-5, rel=1e-6)
    assert schedule.lr(64_199) > schedule.floor == pytest.approx(8e-5)


def test_fine_tuning_is_the_published_one(size: Published) -> None:
    params = typed_parameters(config_loader(ROOT, size.env), "classification", ClassificationParams)
    base, tuning = size.env == "umt_b16", params.fine_tuning
    assert (params.tasks, params.start, params.control) == (("k710",), "stage1", False)
    published = Recipe(augment=AugmentConfig(flip=True), drop_path=size.drop_path)
    assert tuning.recipe() == published, "the recipe's defaults, but for what differs between sizes and data sets"
    assert (params.test.clips, params.test.crops) == (4, 3)
    train = tuning.train
    assert (train.epochs, train.warmup, train.layer_decay) == ((35, 2, 0.75) if base else (20, 2, 0.85))
    assert (train.betas, train.eps, train.weight_decay, train.clip_grad, train.ema) == ((0.9, 0.999), 1e-8, 0.05, None, None)
    views = train.batch_size * tuning.repeats
    assert views == 16 * 16 * 2, "16 GPUs, 16 clips, 2 views of each"
    assert train.lr == pytest.approx((2e-4 if base else 1e-4) * views / 256)
    assert train.min_lr == pytest.approx(1e-6 * views / 256)
    assert train.batch_size // (train.nproc * train.accumulate) == 16
    assert train.recompute_blocks == (0 if base else 12)
    assert train.checkpoint_every == Sampler(K710_CLIPS, train.batch_size, seed=0).steps_per_epoch
    vision = parameters(size)[2].student.student_config(header(size)).vision
    config = tuning.model_for(vision, 710, interpolate=True)
    assert (config.vision.position_frames, config.vision.position_image_size, config.pool) == (None, None, "mean")


def test_detection_is_the_published_one(size: Published) -> None:
    params = typed_parameters(config_loader(ROOT, size.env), "detection", DetectionParams)
    base, tuning = size.env == "umt_b16", params.fine_tuning
    assert (params.start, params.control, params.test_split, params.groups) == ("stage1", False, "validation", None)
    published = DetectionRecipe(drop_path=0.2 if base else 0.4)
    assert tuning.recipe() == published, "the recipe's defaults, but for what differs between sizes"
    assert params.test == PeopleConfig(nproc=8), "as many GPUs as in training"
    train = tuning.train
    assert (train.epochs, train.warmup, train.layer_decay) == ((30, 5, 0.75) if base else (25, 5, 0.85))
    assert (train.betas, train.eps, train.weight_decay, train.clip_grad, train.ema) == ((0.9, 0.999), 1e-8, 0.05, None, None)
    assert train.lr == pytest.approx(2.5e-4 * train.batch_size / 256)
    assert train.batch_size // (train.nproc * train.accumulate) == (8 if base else 4)
    assert train.precision == ("auto" if base else "fp32")
    vision = parameters(size)[2].student.student_config(header(size)).vision
    assert tuning.model_for(vision, 80, interpolate=True).vision.drop_path == published.drop_path


def test_the_cached_variant_stores_what_it_should(size: Published) -> None:
    fp16 = header(size, "teacher_features.views=10,stage1.targets=cached,teacher_features.codec=fp16")
    assert (fp16.views, fp16.grid, fp16.visible_per_frame, fp16.layers, fp16.target_dim) == (
        10, 14, 40, 6, size.fp16_bytes // (6 * 320 * 2),
    )  # fmt: skip
    common = {"pixels": 320 * 768, "attention": 8 * 196 * 2, "visible": 320 * 4}
    assert fp16.row_bytes() == {**common, "targets": size.fp16_bytes}
    int8 = header(size, "teacher_features.views=10,stage1.targets=cached")
    assert int8.row_bytes() == {**common, "targets": size.fp16_bytes // 2, "scales": 6 * 320 * 4}
    assert parameters(size, "teacher_features.views=10,stage1.targets=cached")[2].targets == "cached"


def test_the_authors_list_is_read(size: Published) -> None:
    listing = pd.DataFrame({"path": ["k400/a.mp4", "k700/b c.mp4"], "label": ["0", "709"]})
    captions = TableDataset(str(ROOT / "conf" / size.env / "no_captions.json")).load()
    videos, no_captions, labels, ignored = read_raw_tables(listing, captions, listing, parameters(size)[0])
    assert videos[["video", "split"]].to_dict("split")["data"] == [["k400/a.mp4", "train"], ["k700/b c.mp4", "train"]]
    assert no_captions.empty
    assert labels["label"].tolist() == ["0", "709"]
    assert ignored == {"videos": ["label"], "captions": [], "labels": []}


def test_the_catalog_has_all_that_the_pipelines_read_and_write(size: Published) -> None:
    entries = config_loader(ROOT, size.env)["catalog"]
    catalog = DataCatalog.from_config({name: entry for name, entry in entries.items() if not name.startswith("_")})
    configure_project(PACKAGE)
    for stage in STAGES:
        named = {name for name in pipelines[stage].inputs() | pipelines[stage].outputs() if ":" not in name}
        assert named <= set(catalog.keys()), stage
    elsewhere = {
        name for name, entry in entries.items()
        if not name.startswith("_") and not entry["filepath"].startswith(f"data/{size.env}/")
    }  # fmt: skip
    assert elsewhere == {"raw_captions"}


def test_files_hold_plain_values_of_known_names(size: Published) -> None:
    for file in (ROOT / "conf" / size.env).glob("parameters_*.yml"):
        text = file.read_text(encoding="utf-8")
        assert "${" not in text, "DVC cannot read Kedro's interpolation"
        base = yaml.safe_load((ROOT / "conf" / "base" / file.name).read_text(encoding="utf-8"))
        assert list(yaml.safe_load(text)) == list(base) == [file.stem.removeprefix("parameters_")]


def test_the_header_says_what_the_plan_says(size: Published) -> None:
    text = (ROOT / "conf" / size.env / "parameters_stage1.yml").read_text(encoding="utf-8")
    for title in ("Data", "Hardware", "Cost", "Score"):
        assert f"\n# {title}\n" in text
    plan = plan_project(ROOT, size.env, "", Counts(K710_CLIPS), HARDWARE).stage1
    assert f"umt plan --env {size.env} --clips {K710_CLIPS}" in text
    assert f"online  {plan.online.device_hours:.0f} device-hours, {plan.online.hours:.1f} hours" in text
    assert f"cached  {plan.cached.device_hours:.1f} device-hours, {plan.cached.hours:.1f} hours" in text
    assert f"{plan.views} views a clip and a store of {plan.store_bytes / 1e12:.3g} TB" in text
    assert f"the cheaper from {plan.break_even:.2f} epochs per view on" in text
    overrides = "teacher_features.codec=pq,teacher_features.views=10"
    pq = plan_project(ROOT, size.env, overrides, Counts(K710_CLIPS), HARDWARE).stage1
    assert f"umt plan --env {size.env} --clips {K710_CLIPS} --params {overrides}\n" in text
    assert f"With codec=pq, the store has {pq.store_bytes / 1e12:.3g} TB by" in text
