"""Attention within frames sees one frame at a time; the teacher's tower says what it said as a teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from studies.claims.encoders import ClipEncoder, EncoderSize, TeacherEncoder
from studies.claims.inputs import InputConfig, cut, every_index
from tests.features.tiny import make_teacher
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.vit import AttentionKind
from umt_pipeline.video.pixels import normalise_frames, normalise_patches

SIZE = EncoderSize(dim=16, depth=2, heads=2)


def encoder(attention: AttentionKind, clip: InputConfig | None = None) -> ClipEncoder:
    torch.manual_seed(0)
    return ClipEncoder(SIZE, 32, 8, clip or InputConfig(), attention).eval()


def views(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_only_joint_attention_lets_one_frame_change_the_tokens_of_another() -> None:
    frames = views()
    changed = frames.clone()
    changed[:, 3] = 255 - changed[:, 3]
    for attention, moved in (("joint", True), ("frame", False)):
        model = encoder(attention)  # type: ignore[arg-type]
        before, after = (
            model(patches, every_index(patches)) for patches in (normalise_patches(cut(f, 8, 1)) for f in (frames, changed))
        )
        assert (not torch.equal(before[:, :48], after[:, :48])) == moved
        assert not torch.equal(before[:, 48:], after[:, 48:])


def test_both_kinds_have_the_same_weights_and_positions_and_layers_of_the_same_shape() -> None:
    joint, frame = encoder("joint"), encoder("frame")
    assert all(torch.equal(joint.state_dict()[name], value) for name, value in frame.state_dict().items())
    patches = normalise_patches(cut(views(), 8, 1))[:, ::2]
    visible = every_index(normalise_patches(cut(views(), 8, 1)))[:, ::2]
    for model in (joint, frame):
        tokens, layers = model.forward_layers(patches, visible, [0, 1])
        assert tokens.shape == (2, 32, 16)
        assert layers.shape == (2, 2, 32, 16)
        assert torch.equal(layers[1], tokens)
    assert torch.equal(joint.positions(visible), frame.positions(visible))


def test_tubelets_shorten_the_clip() -> None:
    clip = InputConfig(frames=4, tubelet=2)
    patches = normalise_patches(cut(views(), 8, 2))
    assert encoder("joint", clip)(patches, every_index(patches)).shape == (2, 32, 16)


@torch.no_grad()
def test_the_teacher_as_an_encoder_says_what_it_says_as_a_teacher(tmp_path: Path) -> None:
    teacher, frames = make_teacher(tmp_path), views()
    output = teacher(normalise_frames(frames.flatten(0, 1)))
    expected = teacher.tower.visual.ln_post(output.layers_KFNW[-1]).reshape(2, 64, -1)  # type: ignore[union-attr, operator]
    patches = normalise_patches(cut(frames, 8, 1))
    places = every_index(patches)
    frame = TeacherEncoder(make_teacher(tmp_path), 8, InputConfig(), "frame")
    assert torch.allclose(frame(patches, places), expected, atol=1e-4)
    joint = TeacherEncoder(make_teacher(tmp_path), 8, InputConfig(), "joint")
    assert not torch.allclose(joint(patches, places), expected, atol=1e-2)
    assert all(parameter.requires_grad for parameter in joint.parameters())
    assert joint.positions(places).shape == (2, 64, joint.dim)


def test_a_teacher_with_other_patches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="teacher's patches have 8 pixels, those of the study 16"):
        TeacherEncoder(make_teacher(tmp_path), 16, InputConfig(), "joint")


def test_a_teacher_has_no_tubelets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with tubelet 1"):
        TeacherEncoder(make_teacher(tmp_path), 8, InputConfig(frames=4, tubelet=2), "joint")
