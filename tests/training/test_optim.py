"""Groups of parameters and their learning rates."""

import pytest
from toy_tasks import make_toy

from tests.training.conftest import StageWorld
from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.models.student import Student
from umt_pipeline.models.vit import VideoViT, ViTConfig
from umt_pipeline.training.optim import layer_scale, param_groups
from umt_pipeline.training.stage1 import Stage1Task


def test_no_decay_on_vectors_and_biases() -> None:
    task = make_toy()
    groups = param_groups(task, 0.05)
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.05, [2, 2]),
        (0.0, [1, 1, 1, 1]),
    ]
    task.model.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train"):
        param_groups(task, 0.05)


def test_published_layer_decay_of_twelve_blocks() -> None:
    config = ViTConfig(image_size=32, patch_size=16, frames=1, dim=8, depth=12, heads=1)
    scales = {name: layer_scale(name, 12, 0.75) for name, _ in VideoViT(config).named_parameters()}
    # The published code's list of factors: 0.75 ** (13 - layer) for layers 0 (patches) to 13 (head).
    assert {scales["patch_embed.weight"], scales["patch_embed.bias"]} == {0.75**13}
    for block in range(12):
        found = {scale for name, scale in scales.items() if name.startswith(f"blocks.{block}.")}
        assert found == {0.75 ** (12 - block)}
    assert {scales["norm.weight"], scales["norm.bias"]} == {1.0}


def test_layer_decay_reaches_the_encoder_and_spares_the_heads(stage_world: StageWorld) -> None:
    task = Stage1Task(Student(stage_world.student), stage_world.source.open())
    groups = param_groups(task, 0.05, layer_decay=0.5)
    scale = {id(param): group["lr_scale"] for group in groups for param in group["params"]}
    found = {name: scale[id(param)] for name, param in task.model.named_parameters()}
    assert found["encoder.patch_embed.weight"] == 0.5**4
    assert found["encoder.blocks.0.attn.qkv.weight"] == 0.5**3
    assert found["encoder.blocks.2.mlp.fc2.bias"] == 0.5
    assert {value for name, value in found.items() if name.startswith(("heads.", "encoder.norm."))} == {1.0}
    with pytest.raises(ConfigError, match=r"`layer_decay` is 0\.5, but ToyTask trains no video encoder"):
        param_groups(make_toy(), 0.05, layer_decay=0.5)
