"""The published recipes of fine-tuned retrieval and question answering, without data and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from kedro.framework.project import configure_project, pipelines
from kedro.io import DataCatalog
from umt_pipeline.pipelines.question_answering.params import QuestionAnsweringParams
from umt_pipeline.pipelines.retrieval.params import RetrievalParams

from tests.conftest import ROOT
from tests.imports import PACKAGE
from tests.tables.reading import read
from tests.tables.test_retrieval import DATA
from umt_pipeline.commands.plan_stage1 import find_tower
from umt_pipeline.data.samples import Corpus
from umt_pipeline.features.extract import make_header
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import config_loader, typed_parameters
from umt_pipeline.training.objectives import Objectives
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.stage2 import Stage2Config
from umt_pipeline.training.task import TrainConfig

VIEW = {"frames": 12, "size": 224, "scales": (1.0, 0.9, 0.8, 0.71), "flip": True}


@dataclass(frozen=True)
class Published:
    """What the paper and its code say of one size.

    ``retrieval`` and ``questions`` are (learning rate, epochs, warm-up, stochastic depth) on MSRVTT; ``others`` are the rows
    of the header: data set, these four, length of texts in retrieval, scores.
    """

    env: str
    stage2: str
    depth: int
    trained: float | None
    retrieval: tuple[float, int, int, float]
    questions: tuple[float, int, int, float]
    retrieval_rows: str
    question_rows: str


B16 = Published(
    "umt_b16", "umt_b16_25m", 12, 202.4, (1e-5, 10, 1, 0.2), (2e-5, 8, 1, 0.2),
    "MSRVTT 1e-5 10 1 0.2 32 51.0 49.0 DiDeMo 2e-5 12 1 0.1 64 61.6 59.5 ActivityNet 4e-5 20 1 0.1 150 58.3 56.0 "
    "LSMDC 2e-5 10 1 0.2 96 32.7 32.7 MSVD 1e-5 5 0 0.2 64 50.8 73.3 SSv2-label 5e-5 10 0 0.1 25 64.2 "
    "SSv2-template 1e-4 10 1 0.1 25 87.9 MSRVTT-MC 8e-5 3 0 0.2 32 96.3",
    "MSRVTT-QA 2e-5 8 1 0.2 44.9 MSVD-QA 6e-5 6 1 0.2 49.5 ActivityNet-QA 4e-5 12 1 0.2 44.8",
)  # fmt: skip
L16 = Published(
    "umt_l16", "umt_l16_25m", 24, None, (2e-5, 7, 1, 0.3), (4e-5, 5, 1, 0.4),
    "MSRVTT 2e-5 7 1 0.3 32 58.8 58.6 DiDeMo 4e-5 5 1 0.2 64 70.4 65.7 ActivityNet 4e-5 20 1 0.2 150 66.8 64.4 "
    "LSMDC 2e-5 8 1 0.2 96 43.0 41.4 MSVD 1e-5 3 0 0.3 64 58.2 82.4 SSv2-label 4e-5 10 0 0.2 25 73.3 "
    "SSv2-template 1e-4 5 1 0.2 25 90.8 MSRVTT-MC 4e-5 5 0 0.3 32 97.3",
    "MSRVTT-QA 4e-5 5 1 0.4 47.1 MSVD-QA 6e-5 6 1 0.4 55.2 ActivityNet-QA 4e-5 10 1 0.3 47.9",
)  # fmt: skip


@pytest.fixture(params=[B16, L16], ids=lambda size: size.env)
def size(request: pytest.FixtureRequest) -> Published:
    return request.param


def retrieval(size: Published) -> RetrievalParams:
    return typed_parameters(config_loader(ROOT, f"{size.env}_msrvtt"), "retrieval", RetrievalParams)


def questions(size: Published) -> QuestionAnsweringParams:
    loader = config_loader(ROOT, f"{size.env}_msrvtt_qa")
    return typed_parameters(loader, "question_answering", QuestionAnsweringParams)


def check_loop(train: TrainConfig, depth: int, lr: float, epochs: int, warmup: int) -> None:
    expected: dict[str, Any] = {
        "epochs": epochs,
        "steps": None,
        "batch_size": 256,
        "lr": lr,
        "min_lr": pytest.approx(lr / 100),
        "scale_lr": False,
        "warmup": warmup,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.02,
        "layer_decay": None,
        "clip_grad": None,
        "ema": None,
        "accumulate": 1,
        "recompute_blocks": depth,
        "nproc": 8,
    }
    assert train.model_dump() | expected == train.model_dump()


def start(size: Published) -> VideoTextConfig:
    """The stage-2 model that the recipe starts from."""
    loader = config_loader(ROOT, size.stage2)
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    student = typed_parameters(loader, "stage1", Stage1Config).student
    stage2 = typed_parameters(loader, "stage2", Stage2Config)
    header = make_header(features, find_tower(features, None).output_dim, "")
    return stage2.model_for(student.student_config(header.model_copy(update={"frames": 8})), header, 30522)


def test_retrieval_is_the_published_one(size: Published) -> None:
    params = retrieval(size)
    tuning, (lr, epochs, warmup, drop_path) = params.fine_tuning, size.retrieval
    check_loop(tuning.train, size.depth, lr, epochs, warmup)
    assert tuning.view.model_dump() == VIEW
    assert (tuning.max_length, tuning.pool, tuning.drop_path) == (32, "frame", drop_path)
    assert tuning.weights.model_dump() == {"contrastive": 1 / 8, "matching": 1.0}
    expected = {"caption": "first", "pool": "frame", "rerank_k": 128, "text_length": 32, "sets": ("test",)}
    assert params.test.model_dump() | expected == params.test.model_dump()


def test_an_epoch_has_each_caption_of_msrvtt_once(size: Published) -> None:
    tuning = retrieval(size).fine_tuning
    ((name, draws),) = tuning.corpora.items()
    sampler = Sampler((Corpus(name, 9_000, draws),), tuning.train.batch_size, seed=0)
    assert sampler.steps_per_epoch == 180_000 // 256


def test_questions_are_the_published_ones(size: Published) -> None:
    params = questions(size)
    tuning, (lr, epochs, warmup, drop_path) = params.fine_tuning, size.questions
    check_loop(tuning.train, size.depth, lr, epochs, warmup)
    assert tuning.view.model_dump() == VIEW
    assert (tuning.max_question_length, tuning.max_answer_length, tuning.drop_path) == (25, 5, drop_path)
    assert (params.test.k, params.test.parity, params.control) == (128, False, False)


def test_the_model_goes_on_from_the_recipe_of_stage_2(size: Published) -> None:
    before = start(size)
    config = retrieval(size).fine_tuning.model_for(before)
    assert (before.align_layers, config.align_layers, config.vision.frames, config.vision.position_size) == (6, 0, 12, (4, 14))
    with torch.device("meta"):
        model = VideoTextModel(config)
    Objectives(model, retrieval(size).fine_tuning.weights.objectives(), 103, (0, 101))
    if size.trained is not None:
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6
        assert trained == pytest.approx(size.trained, rel=7e-4)


@pytest.mark.parametrize("pipeline", ["retrieval", "question_answering"])
def test_the_catalog_has_all_that_the_pipelines_read_and_write(size: Published, pipeline: str) -> None:
    env = f"{size.env}_msrvtt{'_qa' if pipeline == 'question_answering' else ''}"
    entries = {name: entry for name, entry in config_loader(ROOT, env)["catalog"].items() if not name.startswith("_")}
    catalog = DataCatalog.from_config(entries)
    configure_project(PACKAGE)
    for stage in ("ingestion", pipeline):
        named = {name for name in pipelines[stage].inputs() | pipelines[stage].outputs() if ":" not in name}
        assert named <= set(catalog.keys()), stage
    elsewhere = {name for name, entry in entries.items() if not entry["filepath"].startswith(f"data/{env}/")}
    own = {"raw_media", "raw_videos", "raw_captions", "raw_labels", "stage2_model"}
    assert elsewhere == own | ({"raw_questions", "stage2_control_model"} if pipeline == "question_answering" else set())
    assert entries["stage2_model"]["filepath"] == f"data/{size.stage2}/06_models/stage2"


def test_what_umt_tables_writes_is_read(size: Published, tmp_path: Path) -> None:
    lists = {
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo6513\n",
        "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a woman sings\n",
    }
    found = read(tmp_path, "msrvtt", {**DATA, **lists})
    ingestion = typed_parameters(config_loader(ROOT, f"{size.env}_msrvtt"), "ingestion", IngestionParams)
    videos, captions, labels, _ = read_raw_tables(found.videos, found.captions, found.labels, ingestion)
    assert set(videos["split"]) == set(ingestion.splits)
    assert set(videos["corpus"]) == set(retrieval(size).fine_tuning.corpora)
    assert (len(captions), len(labels)) == (4, 0)
    qa = typed_parameters(config_loader(ROOT, f"{size.env}_msrvtt_qa"), "ingestion", IngestionParams)
    item = {"id": 1, "video_id": 7010, "question": "who?", "answer": "woman", "category_id": 1}
    files = {f"{split}_qa.json": [{**item, "id": n, "video_id": n}] for n, split in enumerate(("train", "val", "test"))}
    asked = read(tmp_path, "msrvtt-qa", files)
    videos, captions, _, _ = read_raw_tables(asked.videos, asked.captions, asked.labels, qa)
    assert (set(videos["split"]), len(captions)) == (set(qa.splits), 0)
    assert videos["video"].tolist() == ["video0.mp4", "video1.mp4", "video2.mp4"]


def test_the_headers_list_what_other_data_sets_take(size: Published) -> None:
    for env, file, rows, sets in (
        (f"{size.env}_msrvtt", "parameters_retrieval.yml", size.retrieval_rows, 8),
        (f"{size.env}_msrvtt_qa", "parameters_question_answering.yml", size.question_rows, 3),
    ):
        text = (ROOT / "conf" / env / file).read_text(encoding="utf-8")
        for title in ("Data", "Hardware", "Other data sets, and scores", "What differs from the authors' run"):
            assert f"\n# {title}\n" in text
        table = [line[1:].split() for line in text.splitlines() if line.startswith("#     ") and "e-" in line.split()[2]]
        assert len(table) == sets
        assert " ".join(word for row in table for word in row) == rows
        assert f"--env {env} --pipelines ingestion," in text
