"""The teacher folder: what it gives back, with and without its text tower. Towers: test_towers.py."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from timm.models import save_for_hf

from tests.models.tiny_towers import alone
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.models.teacher import TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD

MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "no_causal_mask": True,
        "pool_type": "first",
        "hf_tokenizer_name": "tokenizer",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    clip = open_clip.CLIP(**MODEL)
    clip.visual.image_mean, clip.visual.image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    folder = tmp_path_factory.mktemp("teacher")
    save_open_clip(clip, MODEL, train_wordpiece(["a red star", "a blue ring"], 64, 8), folder)
    return folder


def test_it_gives_tokens_attention_and_embeddings(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=2), grid=4, text=True)
    frames = torch.randn(3, 3, 32, 32)
    output = teacher(frames)
    assert [tokens.shape for tokens in output.layers_KFNW] == [(3, 16, 16)] * 2
    tokens = teacher.project(output.layers_KFNW)
    assert tokens.shape == (2, 3, 16, 12)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 3, 16))
    assert teacher.text_model is not None
    torch.testing.assert_close(teacher.embed_image(output), teacher.text_model.encode_image(frames, normalize=True))
    assert teacher.encode_text(["a red star", "a blue ring"]).shape == (2, 12)


def test_attention_is_the_class_row_of_the_last_block(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=1), grid=4)
    frames = torch.randn(2, 3, 32, 32)
    block = teacher.tower.visual.transformer.resblocks[-1]
    seen: list[torch.Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = teacher(frames).importance_FN
    hook.remove()
    normed = block.ln_1(seen[0])
    _, weights = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=True)
    torch.testing.assert_close(found, weights[:, 0, 1:])


def test_the_text_tower_is_left_out_unless_asked_for(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=1), grid=4)
    assert not teacher.has_text
    assert {name.split(".")[1] for name, _ in teacher.named_parameters()} == {"visual"}
    with pytest.raises(ConfigError, match="has no text tower, or was loaded without it"):
        teacher.encode_text(["a red star"])


def test_a_timm_folder_gives_the_same_model_and_no_text(tmp_path: Path) -> None:
    model = alone("vit_small_patch16_dinov3")
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    teacher = load_teacher(tmp_path, TeacherConfig(source="timm:x", layers=1), grid=3, text=True)
    assert (teacher.has_text, teacher.importance, teacher.target_dim) == (False, "class_attention", 32)
    frames = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(teacher.embed_image(teacher(frames)), F.normalize(model(frames), dim=-1))
    assert teacher.describe() == (
        "timm:x: blocks [2] of 3, targets of width 32, importance from class_attention, input 48 pixels with the "
        "statistics of the student"
    )


def test_another_grid_resizes_positions_and_input(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=1), grid=6)
    assert teacher.input_size == 48
    assert teacher(torch.randn(1, 3, 32, 32)).layers_KFNW[0].shape == (1, 36, 16)


def test_normalisation_teacher_undoes_the_students(folder: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    student_input = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    teacher = load_teacher(folder, TeacherConfig(layers=1, normalisation="teacher"), grid=4)
    expected = F.normalize(teacher.tower.visual((pixels - 0.5) / 0.25), dim=-1)
    torch.testing.assert_close(teacher.embed_image(teacher(student_input)), expected, rtol=1e-4, atol=1e-5)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json is missing"):
        load_teacher(tmp_path, TeacherConfig(), grid=4)
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_teacher(tmp_path, TeacherConfig(), grid=4)
