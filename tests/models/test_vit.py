"""The video encoder, its sizes and its position table."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.student import Student, StudentConfig, untrained_student
from umt_pipeline.models.vit import (
    Positions,
    VideoViT,
    ViTConfig,
    every_patch,
    position_table,
    sinusoid_table,
)

TINY = ViTConfig(image_size=32, patch_size=8, frames=4, dim=16, depth=3, heads=2)


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "target", "tensors", "encoder", "alignment"),
    [(768, 12, 12, 512, 184, 85_637_376, 2_368_512), (1024, 24, 16, 768, 340, 303_074_304, 4_732_416)],
    ids=["UMT-B/16", "UMT-L/16"],
)
def test_published_sizes(dim: int, depth: int, heads: int, target: int, tensors: int, encoder: int, alignment: int) -> None:
    vision = ViTConfig(image_size=224, patch_size=16, frames=8, dim=dim, depth=depth, heads=heads)
    with torch.device("meta"):
        student = Student(StudentConfig(vision=vision, align_layers=6, target_dim=target))
    assert len(student.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in student.encoder.parameters()) == encoder
    assert sum(parameter.numel() for parameter in student.heads.parameters()) == alignment


def test_hidden_patches_do_not_matter() -> None:
    torch.manual_seed(0)
    model = VideoViT(TINY).eval()
    patches = torch.randn(2, 64, TINY.patch_values)
    visible = torch.stack([torch.randperm(64)[:13].sort().values for _ in range(2)])
    rows = torch.arange(2).unsqueeze(1)
    tokens = model(patches[rows, visible], visible)
    changed = torch.randn_like(patches)
    changed[rows, visible] = patches[rows, visible]
    assert torch.equal(model(changed[rows, visible], visible), tokens)
    assert tokens.shape == (2, 13, 16)


def test_with_attention_within_frames_no_frame_knows_another() -> None:
    torch.manual_seed(0)
    joint = VideoViT(TINY).eval()
    frame = VideoViT(TINY.model_copy(update={"attention": "frame"})).eval()
    frame.load_state_dict(joint.state_dict())
    patches, visible = torch.randn(2, 32, TINY.patch_values), torch.arange(0, 64, 2).expand(2, -1)
    changed = patches.clone()
    changed[:, 24:] += 1.0  # the last of four frames
    for model, same in ((joint, False), (frame, True)):
        tokens, layers = model.forward_layers(patches, visible, [0, 2])
        again, _ = model.forward_layers(changed, visible, [0, 2])
        assert layers.shape == (2, 2, 32, 16)
        assert torch.equal(layers[1], tokens)
        assert torch.equal(tokens[:, :24], again[:, :24]) == same
        assert not torch.equal(tokens[:, 24:], again[:, 24:])
    longer = frame(torch.randn(2, 96, TINY.patch_values), torch.arange(96).expand(2, -1), (6, 4))
    assert longer.shape == (2, 96, 16)


def test_returned_layers_end_with_the_output() -> None:
    model = VideoViT(TINY).eval()
    tokens, layers = model.forward_layers(torch.randn(1, 64, TINY.patch_values), torch.arange(64).unsqueeze(0), [1, 2])
    assert layers.shape == (2, 1, 64, 16)
    assert torch.equal(layers[1], tokens)


def test_position_tables() -> None:
    table = sinusoid_table(8 * 196, 32)
    assert torch.equal(position_table(32, 8, 14, 8, 14), table)
    assert torch.equal(position_table(32, 8, 14, 1, 14), table[:196])
    assert position_table(32, 8, 14, 16, 24).shape == (16 * 576, 32)
    assert "positions_AD" not in VideoViT(TINY).state_dict()


@pytest.mark.parametrize(("change", "message"), [({"image_size": 30}, "image_size 30"), ({"heads": 3}, "dim 16")])
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ViTConfig.model_validate({**TINY.model_dump(), **change})


@pytest.mark.parametrize(
    ("positions", "frames", "size", "expected"),
    [
        ("interpolated", 4, 32, (4, 4)),
        ("interpolated", 8, 48, (4, 4)),
        ("interpolated", 2, 32, (4, 4)),
        ("first", 2, 32, (2, 4)),
        ("first", 8, 48, (4, 4)),
        ("own", 8, 48, (8, 6)),
    ],
)
def test_the_same_encoder_for_other_clips(positions: Positions, frames: int, size: int, expected: tuple[int, int]) -> None:
    changed = TINY.for_clips(frames, size, drop_path=0.2, positions=positions)
    assert (changed.frames, changed.image_size, changed.drop_path) == (frames, size, 0.2)
    assert changed.position_size == expected
    own = changed.position_size == (frames, size // 8)
    assert own == (changed.position_frames is None and changed.position_image_size is None)
    # Whoever goes on with it keeps the table that was written down first.
    assert changed.for_clips(16, 64).position_size == expected
    assert TINY.for_clips(4, 32) == TINY
    table = VideoViT(changed).positions_AD
    assert torch.equal(table, position_table(16, *expected, frames, size // 8))
    if positions == "first" and frames < 4:
        assert torch.equal(table, VideoViT(TINY).positions_AD[: len(table)])


def test_clips_that_patches_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"clips of 36 pixels \(view\.size or clip\.size\).* patches of 8 pixels"):
        TINY.for_clips(4, 36)


def test_one_row_of_indices_stands_for_the_batch() -> None:
    encoder = VideoViT(TINY).eval()
    patches_BVP = torch.randn(3, 64, TINY.patch_values)
    visible_1V = every_patch(patches_BVP)
    assert torch.equal(encoder(patches_BVP, visible_1V), encoder(patches_BVP, visible_1V.expand(3, -1)))


def test_a_student_aligns_blocks_at_its_interval() -> None:
    vision = TINY.model_copy(update={"depth": 5})
    config = StudentConfig(vision=vision, align_layers=2, align_interval=3.0, target_dim=4)
    student = untrained_student(config, seed=0)
    encoder = student.encoder
    patches_BVP, visible_BV = torch.randn(2, 6, vision.patch_values), torch.arange(6).expand(2, 6)
    with torch.no_grad():
        found_KBVC = student(patches_BVP, visible_BV)
        positions_BVD = encoder.positions(visible_BV)
        x_BVD = encoder.patch_embed(patches_BVP) + positions_BVD
        outputs = [x_BVD := block(x_BVD) for block in encoder.blocks]
        expected = [
            head(encoder.norm(outputs[layer]) + positions_BVD) for layer, head in zip((1, 4), student.heads.heads, strict=True)
        ]
    torch.testing.assert_close(found_KBVC, torch.stack(expected))
    with pytest.raises(ValidationError, match="cannot align 3 of 5 blocks at an interval of 3"):
        StudentConfig.model_validate({**config.model_dump(), "align_layers": 3})


def test_recomputed_blocks_have_the_same_gradients_and_keep_less() -> None:
    config = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=4, heads=2, drop_path=0.5)
    torch.manual_seed(0)
    encoder = VideoViT(config).train()
    patches_BVP, visible_BV = torch.randn(6, 10, config.patch_values), torch.arange(10).expand(6, 10)
    found = []
    for blocks in (0, 3):
        encoder.recompute_blocks = blocks
        encoder.zero_grad(set_to_none=True)
        kept: list[int] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: (kept.append(x.numel()), x)[1], lambda x: x):
            tokens_BVD, layers_KBVD = encoder.forward_layers(patches_BVP, visible_BV, [1, 3])
        (tokens_BVD.square().mean() + layers_KBVD.sin().mean()).backward()
        found.append((tokens_BVD, [param.grad for param in encoder.parameters()], sum(kept)))
    (tokens, grads, whole), (tokens_again, grads_again, less) = found
    assert torch.equal(tokens, tokens_again)
    assert all(torch.equal(one, other) for one, other in zip(grads, grads_again, strict=True))
    assert less < 0.6 * whole
