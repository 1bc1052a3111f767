"""What the nodes of stage 2 check and settle before anything is trained, and what makes two runs different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import BertConfig, BertForMaskedLM

from tests.features.tiny import make_config
from tests.training.conftest import StageWorld, stage_world
from umt_pipeline.core.errors import CheckpointError, ConfigError, StoreError
from umt_pipeline.models.folders import SKIPPED_FILE, save_model
from umt_pipeline.models.student import KIND, untrained_student
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.pipelines.sources import RecordedViews, gather_views
from umt_pipeline.pipelines.stage2.nodes import (
    gather_data,
    make_tokenizer,
    plan_text,
    pretrain_text,
    train_control,
    train_video_text,
)
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage2 import Stage2Config, Stage2Spec

__all__ = ["stage_world"]

CAPTIONS = pd.DataFrame(
    [
        (0, "clip0", "a red ring"),
        (1, "clip1", "a blue star"),
        (2, "clip3", "two green squares"),
        (3, "stills/0", "a picture of a ring"),
        (4, "stills/1", "a picture of a star"),
        (5, "clip2", "not for training"),
    ],
    columns=["caption_id", "video_id", "caption"],
)
TEXT = {"dim": 16, "layers": 2, "fusion_layer": 1, "heads": 2, "mlp_dim": 32, "max_length": 8, "max_positions": 16}
LOOP = {"steps": 2, "batch_size": 2, "lr": 1e-3, "device": "cpu", "log_every": 1}


def settings(**changes: Any) -> Stage2Config:
    base = {"text": {**TEXT, "vocab_size": 90}, "embed_dim": 8, "train": LOOP, "verify": 0.0}
    return Stage2Config.model_validate({**base, **changes})


def recorded(world: StageWorld, **features: Any) -> RecordedViews:
    params = TeacherFeaturesParams(**dict(make_config(**{"pixels": "frames", **features})))
    stores = {"feature_store": world.folder / "store", "image_store": world.folder / "image_store"}
    return gather_views(params, world.folder / "teacher", world.videos, world.folder / "media", **stores)


def gather(world: StageWorld, folder: Path, params: Stage2Config, **changes: Any) -> Stage2Spec:
    student = folder / "stage1"
    if not student.exists():
        student.mkdir(parents=True)
        save_model(student, untrained_student(world.student, seed=1), world.student, KIND)
    arguments: dict[str, Any] = {
        "seed": 0,
        "views": recorded(world),
        "tokenizer": make_tokenizer(params, world.videos, CAPTIONS, folder),
        "stage1_model": student,
        "captions": CAPTIONS,
        "workspace": folder,
    }
    return gather_data(params, **{**arguments, **changes})


def test_the_stage_trains_on_both_kinds_and_its_model_reads_texts_as_it_was_trained(
    stage_world: StageWorld, tmp_path: Path
) -> None:
    params = settings(text_pretraining={"train": LOOP}, control=False)
    spec = gather(stage_world, tmp_path, params)
    runs, text, text_times = pretrain_text(params, spec, plan_text(params, spec), tmp_path)
    folder, history, summary, times = train_video_text(runs, tmp_path)
    model, tokenizer = load_video_text(folder)
    assert (summary["steps"], text["steps"], len(history)) == (2, 2, 2)
    assert {"final_contrastive", "final_matching", "final_masked_language", "final_alignment"} <= set(summary)
    assert summary["matching_skipped"] == 0.0
    assert tokenizer.model_max_length == 8
    assert 0.001 <= model.temp.item() <= 0.5
    assert text_times["median_clips_per_s"] > 0
    assert times["rows"]["step"] == history["step"].tolist()
    skipped, _, *nothing = train_control(runs, tmp_path)
    assert (skipped / SKIPPED_FILE).is_file()
    assert nothing == [{}, {}]


def test_a_store_made_with_other_settings_is_refused(stage_world: StageWorld, tmp_path: Path) -> None:
    for name, changed in (("store", {"mask": {"ratio": 0.5}}), ("image_store", {"images": {"mask": {"ratio": 0.25}}})):
        with pytest.raises(StoreError, match=rf"/{name} was made with other settings"):
            gather(stage_world, tmp_path, settings(), views=recorded(stage_world, **changed))


def test_what_final_weights_depend_on_makes_another_run(stage_world: StageWorld, tmp_path: Path) -> None:
    def inputs(params: Stage2Config, **changes: Any) -> dict[str, str]:
        return gather(stage_world, tmp_path, params, **changes).inputs()

    assert inputs(settings()) == inputs(settings())
    assert inputs(settings()) != inputs(settings(), captions=CAPTIONS.replace("a red ring", "a ring"))
    two = settings(parity=True, train={**LOOP, "nproc": 2})
    assert inputs(settings(parity=True)) != inputs(two), "the published gradient depends on the number of processes"
    assert inputs(settings()) == inputs(settings(train={**LOOP, "nproc": 2}))


def _bert(folder: Path, seed_words: int) -> None:
    words = train_wordpiece(["a red ring", "a blue star", "a picture of two green squares"], 90)
    save_tokenizer(words, folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=seed_words, max_position_embeddings=16, **sizes)).save_pretrained(folder)


def test_a_bert_is_known_by_its_content_and_may_have_more_words_than_its_tokenizer(
    stage_world: StageWorld, tmp_path: Path
) -> None:
    _bert(tmp_path / "bert", 96)
    params = settings(text={**TEXT, "vocab_size": 96, "pretrained": str(tmp_path / "bert")})
    first = gather(stage_world, tmp_path, params)
    assert first.model.text.vocab_size == 96 > len(load_tokenizer(first.captions.tokenizer))
    assert load_tokenizer(first.captions.tokenizer).model_max_length == 8, "evaluation cuts texts where training did"
    before = first.inputs()
    _bert(tmp_path / "bert", 96)
    assert gather(stage_world, tmp_path, params).inputs() != before, "other weights under the same name"


def test_a_bert_that_the_model_could_not_start_from_is_refused_before_anything_runs(
    stage_world: StageWorld, tmp_path: Path
) -> None:
    _bert(tmp_path / "bert", 96)

    def check(**text: Any) -> None:
        settings(text={**TEXT, "vocab_size": 96, "pretrained": str(tmp_path / "bert"), **text}).check_inputs()

    check()
    settings().check_inputs()
    with pytest.raises(ConfigError, match=r"stage2\.text\.pretrained: .*nowhere cannot be read as a tokenizer"):
        check(pretrained=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"its tokenizer has \d+ words, but stage2\.text\.vocab_size is 10"):
        check(vocab_size=10)
    with pytest.raises(CheckpointError, match=r"text\.layers is 3, checkpoint has 2"):
        check(layers=3)
    (tmp_path / "bert" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read as a BERT checkpoint"):
        check()
