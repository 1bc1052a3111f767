"""Every kind of tower gives what the library's own forward pass computes: tokens, importance, image embedding."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.tiny_towers import CLASS, NORM, POOL, TOWERS, own
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.flops import teacher_macs
from umt_pipeline.models.teacher import Teacher, TeacherConfig
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD


def make(name: str, grid: int | None = None, **config: Any) -> Teacher:
    model, _, own_grid = TOWERS[name]
    return Teacher(model(), None, TeacherConfig(source=name, **{"layers": 1, **config}), grid or own_grid, "")


def library_model(teacher: Teacher) -> Any:
    """The library's own module behind the teacher: calling it is the library's whole forward pass."""
    tower: Any = teacher.tower
    return tower.visual if hasattr(tower, "visual") else nn.Sequential(tower.trunk, tower.head)


@contextmanager
def softmax_of_all_attention() -> Iterator[list[Tensor]]:
    """Collect the whole attention matrix [F,H,Q,S] of each fused call, computed here from its queries and keys."""
    fused, seen = F.scaled_dot_product_attention, []

    def spy(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1))
        return fused(q, k, v, *args, **kwargs)

    F.scaled_dot_product_attention = spy
    try:
        yield seen
    finally:
        F.scaled_dot_product_attention = fused


@torch.no_grad()
def run_library(teacher: Teacher, frames: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the library's image embedding, the output of each block and the attention of each block and pool."""
    tower: Any = teacher.tower
    blocks = tower.visual.transformer.resblocks if hasattr(tower, "visual") else tower.trunk.blocks
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: outputs.append(output)) for block in blocks]
    with softmax_of_all_attention() as attention:
        embedding = library_model(teacher)(frames)
    for hook in hooks:
        hook.remove()
    return embedding, outputs, attention


def prefix(teacher: Teacher) -> int:
    return getattr(teacher.tower, "prefix", 1)


@pytest.mark.parametrize("shift", [0, 2], ids=["own grid", "another grid"])
@pytest.mark.parametrize("name", TOWERS)
def test_all_layers_importance_and_embedding_are_the_librarys(name: str, shift: int) -> None:
    grid = TOWERS[name][2] + shift
    depth = make(name, grid).tower.depth
    teacher = make(name, grid, layers=depth)
    frames = torch.randn(2, 3, teacher.input_size, teacher.input_size, generator=torch.Generator().manual_seed(1))
    output = teacher(frames)
    embedding, blocks, attention = run_library(teacher, frames)
    assert len(output.layers_KFNW) == len(blocks) == depth
    assert teacher.importance == TOWERS[name][1]
    skip = prefix(teacher)
    for found, block in zip(output.layers_KFNW, blocks, strict=True):
        torch.testing.assert_close(found, block[:, skip:], rtol=0, atol=0)
        assert found.shape[1] == grid**2
    expected = {
        CLASS: lambda: attention[depth - 1].mean(1)[:, 0, skip:],
        POOL: lambda: attention[depth].mean(1)[:, 0, -(grid**2) :],
        NORM: lambda: F.normalize(blocks[-1][:, skip:].norm(dim=-1), p=1.0, dim=-1),
    }[teacher.importance]()
    torch.testing.assert_close(output.importance_FN, expected, rtol=1e-4, atol=1e-6)
    # An even row would agree with any other even row.
    assert expected.std() > 1e-4 * expected.mean()
    torch.testing.assert_close(teacher.embed_image(output), F.normalize(embedding, dim=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_layers_at_an_interval_are_those_of_the_tower_run_by_hand(name: str) -> None:
    depth = make(name).tower.depth
    interval = float(depth - 1)
    teacher = make(name, layers=2, interval=interval)
    frames = torch.randn(2, 3, teacher.input_size, teacher.input_size, generator=torch.Generator().manual_seed(1))
    output = teacher(frames)
    _, blocks, _ = run_library(teacher, frames)
    for found, block in zip(output.layers_KFNW, (blocks[0], blocks[-1]), strict=True):
        assert torch.equal(found, block[:, prefix(teacher) :])
    # Importance and embedding are read from the last block, whatever the interval.
    last = make(name)(frames)
    assert torch.equal(output.importance_FN, last.importance_FN)
    assert torch.equal(teacher.embed_image(output), teacher.embed_image(last))
    with pytest.raises(ConfigError, match=rf"teacher\.layers, teacher\.interval of {name!r}: cannot align 3 of {depth} blocks"):
        make(name, layers=3, interval=interval)


@pytest.mark.parametrize("name", TOWERS)
def test_targets_are_projected_after_gathering_and_unit_vectors(name: str) -> None:
    teacher = make(name, layers=2)
    frames = torch.randn(2, 3, teacher.input_size, teacher.input_size)
    layers = teacher(frames).layers_KFNW
    assert all(tokens._base is not None for tokens in layers) or prefix(teacher) == 0, "tokens were copied"
    everything = teacher.project(layers)
    assert everything.shape == (2, 2, teacher.grid**2, teacher.target_dim)
    torch.testing.assert_close(everything.norm(dim=-1), torch.ones(everything.shape[:3]))
    visible = torch.tensor([[0, 3, 5], [8, 1, 2]])
    some = teacher.project(layers, visible)
    torch.testing.assert_close(some, torch.stack([everything[:, 0, visible[0]], everything[:, 1, visible[1]]], dim=1))


@pytest.mark.parametrize("name", ["openai", "class token in open_clip", "dinov2 with registers", "learnt rotations"])
def test_the_projection_of_a_class_token_is_the_image_embedding(name: str) -> None:
    teacher = make(name)
    frames = torch.randn(2, 3, teacher.input_size, teacher.input_size)
    output = teacher(frames)
    found = teacher.project([output.prefix_FXW[:, :1]])[0, :, 0]
    torch.testing.assert_close(found, F.normalize(library_model(teacher)(frames), dim=-1), rtol=1e-4, atol=1e-5)


def test_towers_like_clips_know_their_cost_and_others_say_that_they_do_not() -> None:
    for name in TOWERS:
        teacher = make(name, layers=2)
        assert (teacher.macs(frames=2, visible_per_frame=3) is None) == (teacher.tower.size is None)
    teacher = make("openai", layers=2)
    assert teacher.tower.size is not None
    assert teacher.macs(2, 3) == teacher_macs(teacher.tower.size, 2, teacher.grid, 2, 3).total


def test_tokens_before_an_attention_pool_are_the_normed_ones() -> None:
    teacher = make("siglip")
    frames = torch.randn(2, 3, 48, 48)
    features = teacher.tower.trunk.forward_features(frames)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(teacher.project(teacher(frames).layers_KFNW)[0], F.normalize(features, dim=-1))


@pytest.mark.parametrize("name", ["openai", "siglip in open_clip", "siglip", "dinov3"])
def test_input_is_resized_and_normalised_as_asked(name: str) -> None:
    teacher = make(name)
    mean, std = (torch.tensor(values)[:, None, None] for values in teacher.tower.statistics)
    pixels = torch.rand(2, 3, 40, 40)
    student_input = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    for normalisation, given in (("student", student_input), ("teacher", (pixels - mean) / std)):
        resized = F.interpolate(given, size=teacher.input_size, mode="bicubic", align_corners=False)
        expected = make(name)(resized)
        found = make(name, normalisation=normalisation)(student_input)
        torch.testing.assert_close(found.layers_KFNW[0], expected.layers_KFNW[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.importance_FN, expected.importance_FN, rtol=1e-3, atol=1e-5)


def test_a_tower_of_other_patches_gets_an_input_that_gives_the_students_grid() -> None:
    teacher = Teacher(timm.create_model("vit_small_patch14_dinov2", depth=1, embed_dim=32, num_heads=2), None,
                      TeacherConfig(layers=1), 14, "")  # fmt: skip
    assert teacher.input_size == 196
    assert teacher(torch.randn(1, 3, 224, 224)).importance_FN.shape == (1, 196)


@pytest.mark.parametrize("name", TOWERS)
def test_it_is_frozen_for_real(name: str) -> None:
    teacher = make(name)
    holder = nn.ModuleList([teacher]).train()
    assert not any(module.training for module in holder.modules() if module is not holder)
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    frames = torch.randn(1, 3, teacher.input_size, teacher.input_size, requires_grad=True)
    output = teacher(frames)
    assert not any(tensor.requires_grad for tensor in (*output.layers_KFNW, output.importance_FN))
    assert not teacher.project(output.layers_KFNW).requires_grad
    torch.testing.assert_close(copy.deepcopy(teacher)(frames).importance_FN, output.importance_FN)


def test_resized_positions_keep_the_class_token_and_stay_smooth() -> None:
    clip = own()
    with torch.no_grad():
        clip.visual.positional_embedding[1:] = 0.25
    kept = clip.visual.positional_embedding[0].clone()
    table = Teacher(clip, None, TeacherConfig(layers=1), 6, "").tower.visual.positional_embedding  # type: ignore[union-attr]
    assert table.shape == (37, 16)
    torch.testing.assert_close(table[0], kept, rtol=0, atol=0)
    torch.testing.assert_close(table[1:], torch.full((36, 16), 0.25))


def test_more_layers_than_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.layers, teacher\.interval of 'dinov2': cannot align 4 of 3 blocks"):
        make("dinov2", layers=4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: timm.create_model("test_resnet"), r"expected a ViT .* found timm\.models\.resnet\.ResNet"),
        (lambda: timm.create_model("test_convnext"), r"found timm\.models\.convnext\.ConvNeXt"),
        (lambda: own(layers=[1, 1, 1, 1], image_size=64, width=8), r"found open_clip\.modified_resnet\.ModifiedResNet"),
        (lambda: timm.create_model("test_vit_relpos"), "VisionTransformerRelPos"),
        (lambda: timm.create_model("vit_tiny_r_s16_p8_224", embed_dim=32, depth=1, num_heads=2), "a hybrid: patches from"),
        (lambda: own(attentional_pool=True, attn_pooler_heads=2), r"AttentionalPooler \(CoCa\)"),
        (lambda: own(scaled_cosine_attn=True), "attention cannot be read from open_clip.transformer.Attention"),
        (lambda: timm.create_model("vit_tiny_patch16_224", attn_layer="diff", depth=1, num_heads=2, embed_dim=32),
         "cannot be read from timm.*DiffAttention"),
    ],
    ids=["resnet", "convnext", "open_clip's resnet", "relative positions", "hybrid", "coca", "cosine", "differential"],
)  # fmt: skip
def test_towers_that_cannot_teach_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"teacher.source 'mine': .*{message}"):
        Teacher(model(), None, TeacherConfig(source="mine", layers=1), 4, "")
