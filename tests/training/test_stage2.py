"""The four objectives on real batches, captions that cannot be used, and the unmasked phase."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from tests.features.tiny import make_config
from tests.training.conftest import StageWorld
from umt_pipeline.errors import ConfigError, StoreError
from umt_pipeline.features.extract import extract, plan_extraction
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, untrained_student
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig
from umt_pipeline.pipelines.stage2.nodes import make_tokenizer
from umt_pipeline.training.optim import param_groups
from umt_pipeline.training.stage1 import StudentSize
from umt_pipeline.training.stage2 import ObjectiveWeights, Stage2Config, Stage2Task, make_task
from umt_pipeline.training.task import LossParts
from umt_pipeline.training.text import usable_captions

CAPTIONS = [
    (0, "clip0", "a red ring"),
    (1, "clip0", "a ring, red"),
    (2, "clip1", "a blue star"),
    (3, "clip2", "not for training"),
    (4, "clip3", "two green squares"),
    (5, "clip4", "a red star"),
]
OBJECTIVES = {"contrastive", "matching", "masked_language", "alignment"}
SETTINGS: dict[str, Any] = {
    "text": {"dim": 16, "layers": 2, "fusion_layer": 1, "heads": 2, "mlp_dim": 32, "max_length": 8, "vocab_size": 80},
    "embed_dim": 8,
    "train": {"epochs": 2, "batch_size": 4, "lr": 0.001},
}


def table(rows: list[tuple[int, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["caption_id", "video_id", "caption"])


def build(world: StageWorld, folder: Path, rows: list[tuple[int, str, str]] = CAPTIONS, **changes: Any) -> Stage2Task:
    """Make the task without dropout; ``weights`` and any other argument of :func:`make_task` may be changed."""
    weights = ObjectiveWeights(**changes.pop("weights", {}))
    tokenizer = train_wordpiece([text for _, _, text in CAPTIONS], 80)
    save_tokenizer(tokenizer, folder / "tokenizer")
    table(rows).to_parquet(folder / "captions.parquet")
    text = TextConfig(
        vocab_size=80, dim=16, layers=2, fusion_layer=1, heads=2, mlp_dim=32, max_positions=8, vision_dim=24, dropout=0.0
    )
    aligned = {"align_layers": 2, "target_dim": 16} if weights.alignment else {}
    config = VideoTextConfig(vision=world.student.vision, text=text, embed_dim=8, **aligned)
    arguments: dict[str, Any] = {
        "model": config.model_dump(mode="json"),
        "weights": weights.model_dump(mode="json"),
        "student": None,
        "text_tower": None,
        "text_lr_scale": 1.0,
        "tokenizer": str(folder / "tokenizer"),
        "captions": str(folder / "captions.parquet"),
        "max_length": 8,
        "masked_epochs": None,
        **world.provider,
    }
    torch.manual_seed(0)
    return make_task(**{**arguments, **changes})


def loss(task: Stage2Task, indices: list[int], epoch: int = 0) -> LossParts:
    batch = task.dataset().batch(np.array(indices), epoch)
    assert batch is not None
    return task.loss(task.model, batch, torch.Generator().manual_seed(3))


def assert_all_learn(task: Stage2Task, parts: LossParts) -> None:
    parts.total.backward()
    for name, parameter in task.model.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part: DDP would wait for it"
        assert bool(parameter.grad.isfinite().all()), name


def test_the_loss_is_the_weighted_sum_of_its_parts(stage_world: StageWorld, tmp_path: Path) -> None:
    weights = {"contrastive": 1.0, "matching": 2.0, "masked_language": 0.5, "alignment": 3.0}
    task = build(stage_world, tmp_path, weights=weights)
    result = loss(task, [0, 1, 2, 3])
    assert set(result.parts) == {*OBJECTIVES, "temperature", "matching_skipped"}
    assert result.total.item() == pytest.approx(sum(weights[name] * result.parts[name].item() for name in weights), rel=1e-5)
    assert all(result.parts[name] > 0.0 for name in OBJECTIVES)
    assert result.parts["matching_skipped"] == 0
    assert_all_learn(task, result)


@pytest.mark.parametrize("left_out", ["contrastive", "masked_language", "alignment"])
def test_weight_zero_leaves_an_objective_out(stage_world: StageWorld, tmp_path: Path, left_out: str) -> None:
    result = loss(build(stage_world, tmp_path, weights={left_out: 0.0}), [0, 1, 2, 3])
    assert set(result.parts) & OBJECTIVES == OBJECTIVES - {left_out}
    assert math.isfinite(result.total.item())


@pytest.mark.parametrize("indices", [[0, 0, 0], [2]])
def test_a_batch_of_one_video_skips_matching(stage_world: StageWorld, tmp_path: Path, indices: list[int]) -> None:
    task = build(stage_world, tmp_path)
    result = loss(task, indices)
    assert result.parts["matching_skipped"] == len(indices)
    assert result.parts["matching"] == 0.0
    assert all(math.isfinite(value.item()) for value in result.parts.values())
    assert_all_learn(task, result)


def test_captions_without_words_are_left_out() -> None:
    rows = [(7, "b", "ok"), (5, "a", "?!"), (4, "a", ""), (6, "a", " - "), (3, "b", "first"), (2, "c", "another clip")]
    assert usable_captions(table(rows), ["a", "b"])["caption"].tolist() == ["first", "ok"]


def test_a_clip_without_a_usable_caption_is_not_trained_on(stage_world: StageWorld, tmp_path: Path) -> None:
    rows = [*(row for row in CAPTIONS if row[1] != "clip1"), (2, "clip1", "...")]
    task = build(stage_world, tmp_path, rows)
    dataset = task.dataset()
    assert len(dataset) == 3
    batch = dataset.batch(np.array([0, 1, 2]), 0)
    assert batch is not None
    assert task.sample_ids(batch) == ["clip0", "clip3", "clip4"]
    assert bool((batch["mask"].sum(dim=1) > 2).all()), "a caption has more than [CLS] and [SEP]"


def test_no_usable_caption_at_all_is_an_error(stage_world: StageWorld, tmp_path: Path) -> None:
    rows = [(0, "clip0", "?!"), (1, "clip2", "not for training")]
    with pytest.raises(ConfigError, match="none of the training clips has a caption; check table captions"):
        build(stage_world, tmp_path, rows)
    videos = pd.read_parquet(stage_world.provider["videos"])
    with pytest.raises(ConfigError, match="table captions has no caption with words in it for any training clip"):
        make_tokenizer(Stage2Config.model_validate(SETTINGS), videos, table(rows), tmp_path)


def test_the_vocabulary_is_made_of_training_captions_only(tmp_path: Path) -> None:
    videos = pd.DataFrame({"video_id": ["a", "b"], "split": ["train", "test"]})
    rows = [(0, "a", "circle circle circle"), (1, "b", "zebra zebra zebra")]
    folder = make_tokenizer(Stage2Config.model_validate(SETTINGS), videos, table(rows), tmp_path)
    words = load_tokenizer(folder).get_vocab()
    assert "circle" in words
    assert not any("z" in word for word in words)


def test_cached_and_online_tasks_have_the_same_loss(stage_world: StageWorld, tmp_path: Path) -> None:
    cached = build(stage_world, tmp_path, masked_epochs=1)
    online = build(stage_world, tmp_path, masked_epochs=1, targets="online")
    for epoch in range(2):
        dataset = online.dataset()
        batch = online.collate([dataset[index, epoch] for index in (3, 0, 1)])
        online.setup(torch.device("cpu"))
        result = online.loss(online.model, batch, torch.Generator().manual_seed(3))
        torch.testing.assert_close(loss(cached, [3, 0, 1], epoch).total, result.total, rtol=1e-3, atol=0.0)


def test_captions_change_with_the_epoch_and_repeat_with_it(stage_world: StageWorld, tmp_path: Path) -> None:
    dataset = build(stage_world, tmp_path).dataset()
    drawn = []
    for epoch in range(8):
        batch, again = (dataset.batch(np.array(indices), epoch) for indices in ([0, 2], [0]))
        assert batch is not None
        assert again is not None
        assert (batch["ids"][0] == again["ids"][0]).all()
        drawn.append(tuple(batch["ids"][0].tolist()))
    assert len(set(drawn)) == 2, "clip0 has two captions"


def test_the_unmasked_phase_sees_every_patch_and_is_not_aligned(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, masked_epochs=1)
    assert loss(task, [0, 1, 2], epoch=0).parts["alignment"] > 0.0
    seen: list[torch.Size] = []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape))
    result = loss(task, [0, 1, 2], epoch=1)
    assert seen == [(3, stage_world.student.vision.frames * stage_world.student.vision.grid**2)]
    assert result.parts["alignment"] == 0.0
    assert_all_learn(task, result)


def test_the_unmasked_phase_needs_whole_frames(stage_world: StageWorld, tmp_path: Path) -> None:
    config = make_config(pixels="visible", views=1)
    teacher = load_teacher(Path(stage_world.provider["teacher"]), TeacherConfig(layers=2), 4)
    plan = plan_extraction(config, teacher, pd.read_parquet(stage_world.provider["videos"]))
    extract(config, teacher, plan, Path(stage_world.provider["media"]), tmp_path / "store")
    task = build(stage_world, tmp_path, masked_epochs=0, store=str(tmp_path / "store"))
    with pytest.raises(StoreError, match=r"set teacher_features\.pixels to frames"):
        loss(task, [0, 1])


def test_the_model_starts_from_the_student_and_the_control_does_not(stage_world: StageWorld, tmp_path: Path) -> None:
    student = untrained_student(stage_world.student, seed=5)
    (tmp_path / "student").mkdir()
    save_model(tmp_path / "student", student, student.config, KIND)
    started = build(stage_world, tmp_path, student=str(tmp_path / "student")).model.state_dict()
    control = build(stage_world, tmp_path).model.state_dict()
    weights = {f"model.{name}".replace("encoder", "vision", 1): value for name, value in student.state_dict().items()}
    assert all((started[name] == value).all() for name, value in weights.items())
    assert any((control[name] != value).any() for name, value in weights.items())


def test_more_unmasked_epochs_than_epochs_are_refused() -> None:
    assert Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 1}).masked_epochs == 1
    assert Stage2Config.model_validate(SETTINGS).masked_epochs is None
    with pytest.raises(ValidationError, match=r"unmasked_epochs 3 must not be more than train\.epochs, which is 2"):
        Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 3})


def test_a_store_without_frames_is_refused_before_training(stage_world: StageWorld) -> None:
    frames = read_manifest(Path(stage_world.provider["store"]))
    size = StudentSize(dim=16, depth=2, heads=2)
    config = Stage2Config.model_validate({**SETTINGS, "unmasked_epochs": 1})
    config.model_for(size, frames, vocab_size=32)
    with pytest.raises(ConfigError, match=r"unmasked_epochs is 1, but the feature store holds visible pixels"):
        config.model_for(size, frames.model_copy(update={"pixels": "visible"}), vocab_size=32)


def test_text_layers_have_a_learning_rate_of_their_own(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path, text_lr_scale=0.25)
    groups = param_groups(task, 0.02)
    kinds = {(group["lr_scale"], group["weight_decay"]) for group in groups}
    assert kinds == {(1.0, 0.02), (1.0, 0.0), (0.25, 0.02), (0.25, 0.0)}
    slow = {id(param) for group in groups for param in group["params"] if group["lr_scale"] == 0.25}
    network = task.model.model
    text = [network.text.embeddings, network.text.layers[0], network.text_proj]
    assert slow == {id(param) for part in text for param in part.parameters()}, "fusion layers and heads learn at full speed"


def test_recomputing_and_layer_decay_act_on_the_video_encoder(stage_world: StageWorld, tmp_path: Path) -> None:
    task = build(stage_world, tmp_path)
    assert task.encoder() is task.model.model.vision
    groups = param_groups(task, 0.02, layer_decay=0.5)
    assert {group["lr_scale"] for group in groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    patches = [group for group in groups for param in group["params"] if param is task.encoder().patch_embed.weight]
    assert [group["lr_scale"] for group in patches] == [0.0625]


def test_a_text_tower_and_a_published_bert_exclude_each_other() -> None:
    loop = {"steps": 1, "batch_size": 2, "lr": 0.1}
    text = {**SETTINGS["text"], "pretrained": "bert-base-uncased"}
    with pytest.raises(ValidationError, match=r"text\.pretrained is 'bert-base-uncased', so text_pretraining must be null"):
        Stage2Config.model_validate({**SETTINGS, "text": text, "text_pretraining": {"train": loop}})
