"""The student's task: the same loss from cached and online targets, and it goes down."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.features.tiny import MODEL_CONFIG
from tests.training.conftest import StageWorld, read_batch
from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.provider import CachedTargets, OnlineTargets
from umt_pipeline.features.source import TargetSource
from umt_pipeline.models.flops import TowerSize, student_macs, teacher_macs
from umt_pipeline.models.folders import load_config
from umt_pipeline.models.student import KIND, load_student
from umt_pipeline.training.launch import run
from umt_pipeline.training.stage1 import Stage1Spec, Stage1Task, StudentSize
from umt_pipeline.training.state import final_weights
from umt_pipeline.training.task import LossParts, TrainConfig

SIZE = StudentSize(dim=24, depth=3, heads=2)


def make_spec(
    world: StageWorld, drop_path: float = 0.0, source: TargetSource | None = None, **train: int
) -> Stage1Spec:
    student = world.student.model_copy(update={"vision": world.student.vision.model_copy(update={"drop_path": drop_path})})
    settings = {"steps": 30, "batch_size": 4, "lr": 5e-3, "log_every": 1, "checkpoint_every": 30, "device": "cpu", **train}
    return Stage1Spec(
        student=student,
        source=source or world.source,
        teacher="tiny",
        train=TrainConfig.model_validate(settings),
        seed=0,
    )


def loss(task: Stage1Task, indices: list[int], epoch: int) -> LossParts:
    batch = read_batch(task, indices, epoch)
    assert task.sample_ids(batch) == task.dataset().clip_ids.take(pa.array(indices)).to_pylist()
    task.setup(torch.device("cpu"))
    return task.loss(task.model, batch, torch.Generator())


def test_the_store_decides_the_rest_of_the_students_size(stage_world: StageWorld) -> None:
    assert SIZE.student_config(read_manifest(stage_world.source.store)) == stage_world.student


def test_cached_and_online_tasks_have_the_same_loss(stage_world: StageWorld) -> None:
    cached, online = (make_spec(stage_world, source=source).build() for source in (stage_world.source, stage_world.online()))
    assert (type(cached.provider), type(online.provider)) == (CachedTargets, OnlineTargets)
    online.model.load_state_dict(cached.model.state_dict())
    for epoch in range(2):
        one, other = loss(cached, [3, 0, 1], epoch), loss(online, [3, 0, 1], epoch)
        assert one.total.requires_grad
        torch.testing.assert_close(one.total, other.total, rtol=1e-3, atol=0.0)


def test_a_step_costs_the_student_and_online_the_teacher_too(stage_world: StageWorld) -> None:
    cached, online = (make_spec(stage_world, source=source).build() for source in (stage_world.source, stage_world.online()))
    assert cached.flops_per_clip({}) == 6 * student_macs(stage_world.student, 8), "2 frames of 4 visible patches"
    header = cached.provider.header
    teacher = teacher_macs(TowerSize.of_config(MODEL_CONFIG), 2, 4, header.layers, header.visible_per_frame)
    assert online.flops_per_clip({}) == cached.flops_per_clip({}) + 2 * teacher.total


def test_the_teacher_is_not_trained(stage_world: StageWorld) -> None:
    task = make_spec(stage_world, source=stage_world.online()).build()
    loss(task, [0, 1], 0).total.backward()
    assert {name.split(".")[0] for name in task.model.state_dict()} == {"encoder", "heads"}
    assert all(parameter.grad is not None for parameter in task.model.parameters())


def test_a_split_without_clips_is_refused(stage_world: StageWorld) -> None:
    with pytest.raises(StoreError, match="test"):
        make_spec(stage_world, source=stage_world.source.model_copy(update={"split": "test"})).build()


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("targets", ["cached", "online"])
def test_a_step_asks_for_no_value(stage_world: StageWorld, tmp_path: Path, targets: str) -> None:
    source = stage_world.source if targets == "cached" else stage_world.online()
    settings = {"steps": 8, "clip_grad": 1.0, "ema": 0.9, "accumulate": 2}
    run(make_spec(stage_world, 0.5, source, **settings), tmp_path)  # type: ignore[arg-type]


def test_training_brings_the_loss_down(stage_world: StageWorld, tmp_path: Path) -> None:
    losses = [row["loss"] for row in run(make_spec(stage_world), tmp_path).result.history]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_compiled_student_and_teacher_give_the_same_losses(stage_world: StageWorld, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        spec = make_spec(stage_world, source=stage_world.online(), steps=3, compile=compiled)
        losses.append([row["loss"] for row in run(spec, tmp_path / str(compiled)).result.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_recomputed_blocks_train_to_the_same_bits(stage_world: StageWorld, tmp_path: Path) -> None:
    for name, blocks in (("kept", 0), ("some", 2), ("all", 3)):
        run(make_spec(stage_world, drop_path=0.5, steps=6, recompute_blocks=blocks), tmp_path / name)
    kept, *recomputed = (final_weights(tmp_path / name).read_bytes() for name in ("kept", "some", "all"))
    assert recomputed == [kept, kept]


def test_more_recomputed_blocks_than_there_are_are_refused(stage_world: StageWorld, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`recompute_blocks` is 4, but Stage1Task trains one of 3 blocks"):
        run(make_spec(stage_world, recompute_blocks=4), tmp_path)


def test_the_model_folder_says_what_it_was_trained_on(stage_world: StageWorld, tmp_path: Path) -> None:
    finished = run(make_spec(stage_world, steps=1), tmp_path / "run")
    (tmp_path / "model").mkdir()
    finished.export(tmp_path / "model")
    student = load_student(tmp_path / "model")
    assert all((finished.weights()[name] == value).all() for name, value in student.state_dict().items())
    facts = load_config(tmp_path / "model", KIND)[1]
    assert (facts["steps"], facts["teacher"], facts["run"]) == (1, "tiny", finished.key)


def test_online_targets_are_known_by_their_clips_too(stage_world: StageWorld) -> None:
    cached, online = stage_world.source.inputs(), stage_world.online().inputs()
    assert cached["store"] == online["store"]
    assert online.keys() - cached.keys() == {"clips"}
