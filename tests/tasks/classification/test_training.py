"""Fine-tuning: the samples, the mixing, what it starts from, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.evaluation.tiny import make_tables, make_video_text
from umt_pipeline.core.errors import CheckpointError, ConfigError, TrainingError
from umt_pipeline.data.mapped import MappedTable, write_mapped
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.models.vit import ViTConfig, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, save_classifier
from umt_pipeline.tasks.classification.training import (
    ClassificationConfig,
    ClassificationSpec,
    ClassificationTask,
    LabelledClips,
    class_names,
    labelled_clips,
    start_classifier,
)
from umt_pipeline.training.launch import run
from umt_pipeline.training.sampler import BatchReader, Loader, MicroBatch
from umt_pipeline.training.state import final_weights

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=2, heads=2)
SPLITS = ("train",) * 6 + ("test",) * 2
CLASSES = ("left", "up")


class World(NamedTuple):
    tables: Tables
    folder: Path
    clips: pd.DataFrame

    def spec(self, config: ClassificationConfig, **changes: Any) -> ClassificationSpec:
        values = {
            "model": config.model_for(VISION, 2, interpolate=True),
            "start": None,
            "classes": CLASSES,
            "recipe": config.recipe(),
            "clips": self.folder / "clips.arrow",
            "media_root": self.tables.media_root,
            "train": config.train,
            "seed": 0,
        }
        return ClassificationSpec.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("classification")
    tables = make_tables(folder / "media", SPLITS)
    clips, missing = labelled_clips(tables.videos, tables.labels, "motion", "train")
    assert missing == 0
    write_mapped(folder / "clips.arrow", clips)
    student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=4), seed=1)
    (folder / "stage1").mkdir()
    save_model(folder / "stage1", student, student.config, KIND)
    (folder / "stage2").mkdir()
    make_video_text(folder / "stage2", tables, seed=2)
    return World(tables, folder, clips)


def settings(**changes: Any) -> ClassificationConfig:
    train = {"steps": 4, "batch_size": 4, "lr": 1e-2, "device": "cpu", "log_every": 1, **changes.pop("train", {})}
    return ClassificationConfig.model_validate({"clip": {"frames": 2, "size": 32}, "train": train, **changes})


def batch_of(task: ClassificationTask, indices: list[int], epoch: int = 0) -> dict[str, Any]:
    return BatchReader(task.dataset())[MicroBatch(0, epoch, "", np.array(indices), np.full(len(indices), epoch))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Spy(nn.Module):
    """Remembers the patches that it is asked about and gives fixed logits."""

    def forward(self, patches_BVP: torch.Tensor) -> torch.Tensor:
        self.patches = patches_BVP
        return torch.tensor([[2.0, -1.0]]).repeat(len(patches_BVP), 1).requires_grad_()


def test_defaults_are_the_published_recipe() -> None:
    config = ClassificationConfig.model_validate({"train": {"epochs": 1, "batch_size": 2, "lr": 1.0}})
    assert config.mix.model_dump() == {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5}
    assert config.augment.rand_augment is not None
    assert config.augment.rand_augment.model_dump() == {
        "operations": 4, "magnitude": 7.0, "deviation": 0.5, "probability": 0.5,
    }  # fmt: skip
    assert (config.augment.erase, config.augment.area, config.augment.flip) == (0.25, (0.08, 1.0), False)
    assert (config.label_smoothing, config.repeats, config.drop_path, config.pool) == (0.1, 2, 0.1, "mean")
    assert (config.clip.frames, config.clip.size, config.clip.sampling) == (8, 224, "sparse")


def test_a_batch_holds_every_repeat_beside_its_clip(world: World) -> None:
    task = world.spec(settings()).build()
    batch = batch_of(task, [4, 1])
    assert (batch["frames"].shape, batch["frames"].dtype) == ((4, 2, 32, 32, 3), torch.uint8)
    assert batch["label"].tolist() == [0, 0, 1, 1]
    assert batch["clip"] == ["clip4", "clip1"]
    assert not torch.equal(batch["frames"][0], batch["frames"][1])
    assert torch.equal(batch["frames"][2:], batch_of(task, [1])["frames"]), "a clip's views do not depend on its batch"
    assert not torch.equal(batch["frames"], batch_of(task, [4, 1], epoch=1)["frames"])


@pytest.mark.slow
def test_thread_and_processes_read_the_same_and_leave_global_randomness_alone(world: World) -> None:
    task = world.spec(settings()).build()
    addresses = [MicroBatch(step, step, "", np.array([step, step + 2]), np.array([step, step])) for step in range(3)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    read = [
        [batch["frames"] for batch in Loader(BatchReader(task.dataset()), iter(addresses), workers, False)]
        for workers in (0, 2)
    ]
    task.loss(Spy(), batch_of(task, [0, 1]), generator())
    assert all(torch.equal(one, two) for one, two in zip(*read, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


def test_without_mixing_the_loss_is_smoothed_cross_entropy(world: World) -> None:
    task = world.spec(settings(mix={"probability": 0}, repeats=1)).build()
    loss = task.loss(Spy(), batch_of(task, [0, 1, 2]), generator()).total
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor([[2.0, -1.0]] * 3), torch.tensor([0, 1, 0]))
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_one_share_and_one_box_for_all_frames(world: World, kind: str) -> None:
    mix = {"mixup": 0.0, "cutmix": 0.0, kind: 1.0}
    task = world.spec(settings(mix=mix, label_smoothing=0.0, repeats=1)).build()
    batch, spy = batch_of(task, [0, 3]), Spy()
    plain = world.spec(settings(mix={"probability": 0}, repeats=1)).build()
    plain.loss(spy, batch, generator())
    own, other = spy.patches, spy.patches.flip(0)
    loss = task.loss(spy, batch, generator()).total
    share = (spy.patches - other).abs().sum() / (own - other).abs().sum()
    log = torch.tensor([2.0, -1.0]).log_softmax(0)
    weight = (loss + log[1]).item() / (log[1] - log[0]).item()  # of class 0 over both clips: one half whatever the share
    assert weight == pytest.approx(0.5)
    if kind == "mixup":
        assert torch.allclose(spy.patches, share * own + (1 - share) * other, atol=1e-4)
    else:
        kept, taken = spy.patches == own, spy.patches == other
        assert (kept | taken).all()
        clear = (own != other)[0].unflatten(0, (2, 16)).all(dim=0)
        first, second = kept[0].unflatten(0, (2, 16))[:, clear]
        assert torch.equal(first, second), "the box is the same in both frames"
    again = Spy()
    task.loss(again, batch, generator())
    assert torch.equal(again.patches, spy.patches)
    task.loss(again, batch, generator(1))
    assert not torch.equal(again.patches, spy.patches)


def test_targets_follow_the_share_that_is_shown(world: World) -> None:
    task = world.spec(settings(mix={"mixup": 0.0, "cutmix": 1.0}, label_smoothing=0.0, repeats=1)).build()
    batch = batch_of(task, [0, 1])
    mixed, target_BC = task._mixed(batch, generator())
    plain = world.spec(settings(mix={"probability": 0}, repeats=1)).build()._mixed(batch, generator())[0]
    kept = (mixed[0] == plain[0]).all(dim=(0, 1)).float().mean().item()
    assert target_BC[0].tolist() == pytest.approx([kept, 1 - kept])
    assert target_BC[1].tolist() == pytest.approx([1 - kept, kept])


def test_an_odd_batch_cannot_be_mixed(world: World) -> None:
    with pytest.raises(ValidationError, match=r"`mix` needs an even number of views.*train.batch_size 3 .* x repeats 1"):
        settings(repeats=1, train={"batch_size": 3})
    with pytest.raises(ValidationError, match=r"nproc x accumulate = 2"):
        settings(repeats=1, train={"batch_size": 6, "accumulate": 2})
    task = world.spec(settings(repeats=1)).build()
    with pytest.raises(TrainingError, match=r"pair the views of a batch, found 1.*`mix.probability: 0`"):
        task.loss(task.model, batch_of(task, [0]), generator())
    assert settings(repeats=2, train={"batch_size": 3}).mix.on


def test_it_starts_from_a_student_at_another_clip_size(world: World) -> None:
    config = settings(clip={"frames": 4, "size": 48})
    model_config = config.model_for(VISION, 2, interpolate=True)
    vision = model_config.vision
    assert (vision.position_frames, vision.position_image_size, vision.drop_path) == (2, 32, 0.1)
    model = start_classifier(model_config, world.folder / "stage1", CLASSES, None)
    student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=4), seed=1)
    assert torch.equal(model.encoder.blocks[1].mlp.fc1.weight, student.encoder.blocks[1].mlp.fc1.weight)
    assert torch.equal(model.encoder.positions_AD, position_table(16, 2, 4, 4, 6))
    assert torch.equal(model.fc_norm.weight, torch.ones(16))
    scratch = config.model_for(VISION, 2, interpolate=False).vision
    assert (scratch.position_frames, scratch.position_image_size) == (None, None), "from scratch: its own table"
    assert model(torch.zeros(1, 4 * 36, 192)).shape == (1, 2)


def test_an_attention_pool_comes_along_from_stage_2(world: World) -> None:
    config = settings(pool="attention").model_for(VISION, 2, interpolate=True)
    model = start_classifier(config, world.folder / "stage2", CLASSES, None)
    stage2 = load_video_text(world.folder / "stage2")[0]
    assert stage2.attention_pool is None
    assert torch.equal(model.encoder.norm.weight, stage2.vision.norm.weight)
    again_folder = world.folder / "again"
    again_folder.mkdir(exist_ok=True)
    save_classifier(again_folder, model, CLASSES)
    again = start_classifier(config, again_folder, CLASSES, None)
    assert model.attention_pool is not None
    assert again.attention_pool is not None
    assert torch.equal(again.attention_pool.query_H1d, model.attention_pool.query_H1d)


def test_a_classifiers_head_is_taken_over_by_labels(world: World, tmp_path: Path) -> None:
    known = Classifier(ClassifierConfig(vision=VISION, classes=3))
    nn.init.normal_(known.head.weight)
    config = settings().model_for(VISION, 2, interpolate=True)
    save_classifier(tmp_path, known, ("upwards", "down", "left"))
    model = start_classifier(config, tmp_path, CLASSES, {"up": "upwards"})
    assert torch.equal(model.head.weight, known.head.weight[[2, 0]])
    with pytest.raises(ConfigError, match=r"1 of 2 labels come from classes that .* \('up' from 'up'\); it has 'upwards'"):
        start_classifier(config, tmp_path, CLASSES, {})
    with pytest.raises(ConfigError, match="names labels that no training clip has: 'right'"):
        start_classifier(config, tmp_path, CLASSES, {"right": "left"})
    with pytest.raises(ConfigError, match=r"training starts from .*stage1"):
        start_classifier(config, world.folder / "stage1", CLASSES, {})
    fresh = start_classifier(config, tmp_path, CLASSES, None)
    assert fresh.head.weight.abs().max() < 1e-3
    assert torch.equal(fresh.encoder.patch_embed.weight, known.encoder.patch_embed.weight)


def test_starts_that_do_not_fit_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"clips of 36 pixels .*clip\.size.* patches of 8 pixels"):
        settings(clip={"frames": 2, "size": 36}).model_for(VISION, 2, interpolate=True)
    other = VISION.model_copy(update={"patch_size": 16})
    config = settings().model_for(other, 2, interpolate=False)
    with pytest.raises(CheckpointError, match=r"patch_embed.weight is \(16, 192\), expected \(16, 768\)"):
        start_classifier(config, world.folder / "stage1", CLASSES, None)


def test_clips_without_a_label_are_counted_and_left_out(world: World) -> None:
    videos, labels = world.tables.videos, world.tables.labels
    fewer = labels[~((labels["video_id"] == "clip2") & (labels["task"] == "motion"))]
    clips, missing = labelled_clips(videos, fewer, "motion", "train")
    assert (clips["video_id"].tolist(), missing) == (["clip0", "clip1", "clip3", "clip4", "clip5"], 1)
    assert (videos["media"] == "image").any(), "images are in the table and left out"
    assert class_names(clips, "motion") == CLASSES
    with pytest.raises(ConfigError, match="table labels has no task 'verb', only 'motion', 'shape'"):
        labelled_clips(videos, labels, "verb", "train")
    with pytest.raises(ConfigError, match=r"no video in split 'val', only in \['test', 'train'\]"):
        labelled_clips(videos, labels, "motion", "val")
    with pytest.raises(ConfigError, match=r"task 'motion': expected .* at least two classes, found 1 clips of 'left'"):
        class_names(clips.iloc[:1], "motion")


def test_a_clip_that_cannot_be_read_is_replaced_with_its_label(world: World, tmp_path: Path) -> None:
    broken = world.clips.copy()
    broken.loc[0, "path"] = "nowhere.mp4"
    write_mapped(tmp_path / "broken.arrow", broken)
    sample = LabelledClips(MappedTable(tmp_path / "broken.arrow"), CLASSES, world.tables.media_root, settings())[0, 0]
    assert sample["unreadable"] == 1
    label = world.clips.set_index("video_id")["label"][sample["clip"]]
    assert sample["clip"] != world.clips["video_id"][0]
    assert CLASSES[sample["label"]] == label
    write_mapped(tmp_path / "gone.arrow", broken.assign(path="nowhere.mp4"))
    with pytest.raises(TrainingError, match=r"(?s)10 media in a row cannot be read.*nowhere\.mp4"):
        LabelledClips(MappedTable(tmp_path / "gone.arrow"), CLASSES, world.tables.media_root, settings())[0, 0]


def spec(world: World, **changes: Any) -> ClassificationSpec:
    config = settings(**changes)
    return world.spec(config, start=world.folder / "stage1")


@pytest.mark.slow
@pytest.mark.usefixtures("no_waits")
def test_a_resumed_run_ends_in_the_same_weights(world: World, tmp_path: Path) -> None:
    loop = {"checkpoint_every": 2, "layer_decay": 0.75, "accumulate": 2}
    whole = run(spec(world, train=loop), tmp_path / "whole").result
    assert [row["step"] for row in whole.history] == [1, 2, 3, 4]
    stop: Callable[[Any], None] = _Stop(3)
    with pytest.raises(KeyboardInterrupt):
        run(spec(world, train=loop), tmp_path / "resumed", stop)
    run(spec(world, train={**loop, "workers": 1}), tmp_path / "resumed")
    assert final_weights(tmp_path / "resumed").read_bytes() == final_weights(tmp_path / "whole").read_bytes()


class _Stop:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, row: Any) -> None:
        if row["step"] == self.step:
            raise KeyboardInterrupt


def test_training_learns_its_clips(world: World, tmp_path: Path) -> None:
    still = {"rand_augment": None, "erase": 0, "area": [1.0, 1.0], "ratio": [1.4, 1.4]}
    plain = {"mix": {"probability": 0}, "augment": still, "drop_path": 0, "label_smoothing": 0, "repeats": 1}
    history = run(spec(world, train={"steps": 50, "batch_size": 6, "lr": 5e-3, "warmup": 5}, **plain), tmp_path).result.history
    assert history[0]["loss"] == pytest.approx(np.log(2), abs=0.01), "the first logits are nearly equal"
    # Six clips in batches of six, each time other frames: one step tells little.
    assert np.mean([row["loss"] for row in history[-10:]]) < 0.4


def test_a_step_costs_every_repeat(world: World) -> None:
    task = world.spec(settings(repeats=2)).build()
    tokens, dim = 32, 16
    block = 4 * tokens * dim**2 + 2 * tokens**2 * dim + 2 * tokens * dim * 64
    assert task.flops_per_clip({}) == 2 * 6 * (tokens * 192 * dim + 2 * block + dim * 2)
