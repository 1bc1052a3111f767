"""Fine-tuning for action detection: the samples, the loss, resuming, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.features.tiny import make_corpus
from tests.training.conftest import read_batch
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.schemas import RawBoxes
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, save_classifier
from umt_pipeline.tasks.detection.training import (
    DetectionConfig,
    DetectionRecipe,
    DetectionSpec,
    DetectionTask,
    action_names,
    key_frames,
)
from umt_pipeline.training.launch import run
from umt_pipeline.training.state import final_weights

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=2, heads=2)
CLASSES = ("run", "sit", "walk")
LEFT, RIGHT = (0.0, 0.1, 0.5, 0.9), (0.5, 0.1, 1.0, 0.9)
STILL = {"flip": False, "hue": 0, "saturation": 0, "value": 0, "outward": [0, 0], "inward": [0, 0]}
# video, key frame in seconds, box, actions of the person
PEOPLE = (
    (0, 0.1, LEFT, ["walk", "run"]), (0, 0.1, RIGHT, ["sit"]), (0, 0.2, LEFT, ["sit"]),
    (1, 0.2, RIGHT, ["walk"]), (2, 0.4, LEFT, [""]), (2, 0.4, RIGHT, ["run"]), (3, 0.3, LEFT, ["walk"]),
    (5, 0.3, LEFT, ["sit"]),
)  # fmt: skip


class World(NamedTuple):
    videos: pd.DataFrame
    boxes: pd.DataFrame
    folder: Path

    def spec(self, config: DetectionConfig, **changes: Any) -> DetectionSpec:
        frames = self.folder / "frames.arrow"
        if not frames.exists():
            write_mapped(frames, key_frames(self.videos, self.boxes, "train", config.recipe()))
        values = {
            "model": config.model_for(VISION, len(CLASSES), interpolate=True),
            "start": None,
            "classes": CLASSES,
            "recipe": config.recipe(),
            "frames": frames,
            "media_root": self.folder / "media",
            "train": config.train,
            "seed": 0,
        }
        return DetectionSpec.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("detection")
    videos = make_corpus(folder / "media", ("train",) * 5 + ("test",)).assign(fps=10.0)
    rows = [
        (f"clip{video}.mp4", at, *box, label, str(box), 1.0, "annotated")
        for video, at, box, labels in PEOPLE
        for label in labels
    ]
    boxes = RawBoxes.validate(pd.DataFrame(rows, columns=list(RawBoxes.to_schema().columns)))
    student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=4), seed=1)
    (folder / "stage1").mkdir()
    save_model(folder / "stage1", student, student.config, KIND)
    return World(videos, boxes, folder)


def settings(**changes: Any) -> DetectionConfig:
    train = {"steps": 4, "batch_size": 4, "lr": 1e-2, "device": "cpu", "log_every": 1, **changes.pop("train", {})}
    clip = {"frames": 2, "stride": 2, "size": 32, "short_side": 40}
    return DetectionConfig.model_validate({"clip": clip, "train": train, **changes})


def test_a_key_frame_has_its_people_and_each_person_its_actions(world: World) -> None:
    frames = key_frames(world.videos, world.boxes, "train", DetectionRecipe())
    assert frames["timestamp_s"].tolist() == [0.1, 0.2, 0.2, 0.4, 0.3]
    assert frames["key"].tolist() == [1, 2, 2, 4, 3]
    first = frames.iloc[0]
    assert (first["video_id"], first["path"], first["num_frames"]) == ("clip0", "clip0.mp4", 3)
    assert first["boxes"] == [list(LEFT), list(RIGHT)]
    assert first["labels"] == [["run", "walk"], ["sit"]]
    assert frames["labels"].iloc[3] == [[], ["run"]], "a person without an action is one who does none of them"
    assert action_names(frames) == CLASSES
    with pytest.raises(ConfigError, match="expected at least one action in 1 training key frames, found none"):
        action_names(frames.iloc[[3]].assign(labels=[[[]]]))


def test_media_may_begin_later_than_the_film(world: World) -> None:
    later = world.boxes.assign(timestamp_s=world.boxes["timestamp_s"] + 900)
    frames = key_frames(world.videos, later, "train", DetectionRecipe(start_s=900))
    assert frames["key"].tolist() == [1, 2, 2, 4, 3]
    with pytest.raises(TableError, match=r"5 of 5 key frames lie outside .* 900\.1 s of 'clip0\.mp4' would be frame 9001 of 3"):
        key_frames(world.videos, later, "train", DetectionRecipe())
    with pytest.raises(ConfigError, match=r"found none among 9 rows.*The first video of the split is 'clip0\.mp4'"):
        key_frames(world.videos, world.boxes.assign(video="x"), "train", DetectionRecipe())


def test_detected_boxes_take_the_actions_of_the_person_they_show(world: World) -> None:
    found = pd.DataFrame(
        [
            ("clip0.mp4", 0.1, 0.0, 0.1, 0.45, 0.9, "sit", "", 0.95, "detected"),
            ("clip0.mp4", 0.1, 0.0, 0.1, 0.45, 0.9, "walk", "", 0.95, "detected"),
            ("clip0.mp4", 0.1, 0.5, 0.1, 0.95, 0.9, "", "", 0.85, "detected"),
            ("clip0.mp4", 0.1, 0.3, 0.1, 0.7, 0.9, "", "", 0.99, "detected"),
            ("clip1.mp4", 0.0, *RIGHT, "", "", 0.99, "detected"),
        ],
        columns=world.boxes.columns,
    )
    boxes = pd.concat([world.boxes, found], ignore_index=True)
    assert key_frames(world.videos, boxes, "train", DetectionRecipe())["boxes"].map(len).tolist() == [2, 1, 1, 2, 1]
    both = key_frames(world.videos, boxes, "train", DetectionRecipe.model_validate({"detected": {}}))
    assert both["boxes"].map(len).tolist() == [3, 1, 1, 2, 1], "a frame that nobody annotated does not count"
    assert both["boxes"][0][2] == [0.0, 0.1, 0.45, 0.9]
    assert both["labels"][0] == [["run", "walk"], ["sit"], ["run", "walk"]]


def test_a_batch_is_filled_up_with_boxes_that_do_not_count(world: World) -> None:
    task = world.spec(settings(augment=STILL)).build()
    batch = read_batch(task, [0, 2])
    assert (batch["frames"].shape, batch["frames"].dtype) == ((2, 2, 32, 32, 3), torch.uint8)
    assert (batch["boxes"].shape, batch["labels"].shape) == ((2, 2, 4), (2, 2, 3))
    assert batch["clip"] == ["clip0@0.1", "clip1@0.2"]
    assert batch["held"].tolist() == [[True, True], [True, False]]
    assert batch["labels"].tolist() == [[[True, False, True], [False, True, False]], [[False, False, True], [False] * 3]]
    assert torch.equal(batch["frames"][1], read_batch(task, [2])["frames"][0]), "a sample does not depend on its batch"
    assert not torch.equal(batch["frames"], read_batch(task, [0, 2], number=1)["frames"])


class Fixed(nn.Module):
    """Gives the same logits for every box, and remembers its boxes."""

    def forward(self, patches_BVP: torch.Tensor, boxes_BM4: torch.Tensor) -> torch.Tensor:
        del patches_BVP
        return torch.tensor([2.0, -1.0, 0.5]).expand(*boxes_BM4.shape[:2], 3).clone().requires_grad_()


def test_the_loss_sums_over_boxes_and_ignores_the_fillings(world: World) -> None:
    task = world.spec(settings(augment=STILL)).build()
    logits = torch.tensor([2.0, -1.0, 0.5])
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]])  # two people of the first key frame, one of the third
    each = [F.binary_cross_entropy_with_logits(logits, target).item() for target in targets]
    found = task.loss(Fixed(), read_batch(task, [0, 2]), torch.Generator())
    assert found.total.item() == pytest.approx(sum(each) / 2)
    assert found.parts["boxes"].item() == 1.5
    batch = read_batch(task, [0, 2])
    nobody = {**batch, "held": torch.zeros_like(batch["held"])}
    nothing = task.loss(task.model, nobody, torch.Generator()).total
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(not parameter.grad.any() for parameter in task.model.parameters() if parameter.grad is not None)


def test_a_key_frame_that_cannot_be_read_is_replaced_boxes_and_all(world: World, tmp_path: Path) -> None:
    frames = key_frames(world.videos, world.boxes, "train", DetectionRecipe())
    frames.loc[0, "path"] = "gone.mp4"
    write_mapped(tmp_path / "frames.arrow", frames)
    task = world.spec(settings(augment=STILL), frames=tmp_path / "frames.arrow").build()
    batch = read_batch(task, [0, 2])
    assert batch["unreadable"].tolist() == [1, 0]
    place = [f"{row.video_id}@{row.timestamp_s}" for row in frames.itertuples()].index(batch["clip"][0])
    assert place != 0
    names = [name for name, held in zip(CLASSES, batch["labels"][0, 0].tolist(), strict=True) if held]
    assert names in frames["labels"][place]
    assert task.loss(Fixed(), batch, torch.Generator()).parts["unreadable"].item() == 0.5


def spec(world: World, **changes: Any) -> DetectionSpec:
    config = settings(**changes)
    return world.spec(config, start=world.folder / "stage1")


@pytest.mark.usefixtures("no_waits")
def test_a_resumed_run_ends_in_the_same_weights(world: World, tmp_path: Path) -> None:
    loop = {"checkpoint_every": 2, "layer_decay": 0.75, "accumulate": 2}
    whole = run(spec(world, train=loop), tmp_path / "whole").result
    assert [row["step"] for row in whole.history] == [1, 2, 3, 4]

    def stop(row: Any) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(world, train=loop), tmp_path / "resumed", stop)
    run(spec(world, train={**loop, "workers": 1}), tmp_path / "resumed")
    assert final_weights(tmp_path / "resumed").read_bytes() == final_weights(tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_training_learns_who_does_what_in_the_same_frame(world: World, tmp_path: Path) -> None:
    loop = {"steps": 200, "batch_size": 5, "lr": 5e-3, "warmup": 5}
    history = run(spec(world, train=loop, augment=STILL, drop_path=0), tmp_path).result.history
    assert history[0]["loss"] / history[0]["boxes"] == pytest.approx(np.log(2), abs=0.1)
    assert history[-1]["loss"] / history[-1]["boxes"] < 0.25


def test_a_step_costs_encoder_and_head(world: World) -> None:
    task = world.spec(settings()).build()
    assert isinstance(task, DetectionTask)
    tokens, dim = 32, 16
    block = 4 * tokens * dim**2 + 2 * tokens**2 * dim + 2 * tokens * dim * 64
    batch = {"boxes": torch.zeros(4, 5, 4)}
    mean = tokens * 192 * dim + 2 * block + 5 * dim * 3
    assert task.flops_per_clip(batch) == 6 * mean
    read = 2 * tokens * dim**2 + 5 * (2 * dim**2 + 2 * tokens * dim)
    assert world.spec(settings(pool="attention")).build().flops_per_clip(batch) == 6 * (mean + read)


def test_an_attention_pool_comes_along_from_another_model(world: World, tmp_path: Path) -> None:
    known = Classifier(ClassifierConfig(vision=VISION, classes=3, pool="attention"))
    save_classifier(tmp_path, known, CLASSES)
    name = "attention_pool.query_H1d"
    started = world.spec(settings(pool="attention"), start=tmp_path).build().model.state_dict()
    assert torch.equal(started[name], known.state_dict()[name])
    assert name not in world.spec(settings(), start=tmp_path).build().model.state_dict()
