"""The published recipes of fine-tuned retrieval and question answering, without data and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.published import abouts, block, differing, header, ingestion, loader, stage1
from tests.raw_tables import read_tables
from tests.tables.reading import read
from tests.tables.test_retrieval import DATA
from umt_pipeline.data.samples import Corpus
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.tables import Annotations
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams
from umt_pipeline.tasks.retrieval.params import RetrievalParams
from umt_pipeline.training.objectives import Objectives
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.stage2 import Stage2Config
from umt_pipeline.training.task import TrainConfig

VIEW = {"frames": 12, "size": 224, "scales": (1.0, 0.9, 0.8, 0.71), "flip": True}


@dataclass(frozen=True)
class Published:
    """What the paper and its code say of one size: blocks, millions of trained parameters in retrieval."""

    env: str
    depth: int
    trained: float | None


B16, L16 = Published("umt_b16", 12, 202.4), Published("umt_l16", 24, None)


@pytest.fixture(params=[B16, L16], ids=lambda size: size.env)
def size(request: pytest.FixtureRequest) -> Published:
    return request.param


def retrieval(size: Published) -> RetrievalParams:
    return block(f"{size.env}_msrvtt", "retrieval", RetrievalParams)


def questions(size: Published) -> QuestionAnsweringParams:
    return block(f"{size.env}_msrvtt_qa", "question_answering", QuestionAnsweringParams)


def check_loop(train: TrainConfig, drop_path: float, depth: int, row: dict[str, Any]) -> None:
    """Compare with the recipe's own row of the table of data sets, which another test holds against the published one."""
    loop = {"epochs": row["epochs"], "steps": None, "batch_size": 256, "accumulate": 1, "nproc": 8, "recompute_blocks": depth}
    rate = {"lr": row["lr"], "min_lr": pytest.approx(row["lr"] / 100), "scale_lr": False, "warmup": row["warmup"]}
    rest = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.02, "layer_decay": None, "clip_grad": None, "ema": None}
    assert not differing(train, loop | rate | rest)
    assert drop_path == row["drop_path"]


def test_retrieval_is_the_published_one(size: Published) -> None:
    params = retrieval(size)
    tuning, row = params.fine_tuning, abouts()[f"{size.env}_msrvtt"].sets["MSRVTT"]
    check_loop(tuning.train, tuning.drop_path, size.depth, row)
    assert tuning.view.model_dump() == VIEW
    assert (tuning.max_length, params.test.text_length, tuning.pool) == (row["tokens"], row["tokens"], "frame")
    assert tuning.weights.model_dump() == {"contrastive": 1 / 8, "matching": 1.0}
    scored = {"caption": "first", "pool": "frame", "rerank_k": 128, "rerank_weight": "match", "sets": ("test",)}
    assert not differing(params.test, scored)


def test_an_epoch_has_each_caption_of_msrvtt_once(size: Published) -> None:
    tuning = retrieval(size).fine_tuning
    ((name, draws),) = tuning.corpora.items()
    sampler = Sampler((Corpus(name, 9_000, draws),), tuning.train.batch_size, seed=0)
    assert sampler.steps_per_epoch == 180_000 // 256


def test_questions_are_the_published_ones(size: Published) -> None:
    params = questions(size)
    tuning = params.fine_tuning
    check_loop(tuning.train, tuning.drop_path, size.depth, abouts()[f"{size.env}_msrvtt_qa"].sets["MSRVTT-QA"])
    assert tuning.view.model_dump() == VIEW
    assert (tuning.max_question_length, tuning.max_answer_length) == (25, 5)
    assert (params.test.k, params.test.parity, params.control) == (128, False, False)


def start(size: Published) -> VideoTextConfig:
    """The stage-2 model that the recipe starts from."""
    env = f"{size.env}_25m"
    longer = header(env).model_copy(update={"frames": 8})
    return block(env, "stage2", Stage2Config).model_for(stage1(env).student.student_config(longer), header(env), 30522)


def test_the_model_goes_on_from_the_recipe_of_stage_2(size: Published) -> None:
    for task in ("msrvtt", "msrvtt_qa"):
        model_folder = loader(f"{size.env}_{task}")["catalog"]["stage2_model"]["filepath"]
        assert model_folder == f"data/{size.env}_25m/06_models/stage2"
    before = start(size)
    config = retrieval(size).fine_tuning.model_for(before)
    assert (before.align_layers, config.align_layers, config.vision.frames, config.vision.position_size) == (6, 0, 12, (4, 14))
    with torch.device("meta"):
        model = VideoTextModel(config)
    Objectives(model, retrieval(size).fine_tuning.weights.objectives(), 103, (0, 101))
    if size.trained is not None:
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6
        assert trained == pytest.approx(size.trained, rel=7e-4)


def ingested(env: str, found: Annotations) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    none = pd.DataFrame()
    videos, tables, _ = read_tables(found.videos, found.captions, found.labels, found.questions, none, params=ingestion(env))
    assert set(videos["split"]) == set(ingestion(env).splits)
    return videos, tables


def test_what_umt_tables_writes_is_read(size: Published, tmp_path: Path) -> None:
    lists = {
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo6513\n",
        "MSRVTT_JSFUSION_test.csv": "key,vid_key,video_id,sentence\nret0,msr7010,video7010,a woman sings\n",
    }
    videos, tables = ingested(f"{size.env}_msrvtt", read(tmp_path, "msrvtt", {**DATA, **lists}))
    assert set(videos["corpus"]) == set(retrieval(size).fine_tuning.corpora)
    assert (len(tables["captions"]), len(tables["labels"])) == (4, 0)
    item = {"id": 1, "video_id": 7010, "question": "who?", "answer": "woman", "category_id": 1}
    files = {f"{split}_qa.json": [{**item, "id": n, "video_id": n}] for n, split in enumerate(("train", "val", "test"))}
    videos, tables = ingested(f"{size.env}_msrvtt_qa", read(tmp_path, "msrvtt-qa", files))
    assert (len(tables["captions"]), len(tables["questions"])) == (0, 3)
    assert videos["video"].tolist() == ["video0.mp4", "video1.mp4", "video2.mp4"]
