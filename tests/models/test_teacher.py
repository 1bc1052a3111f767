"""The frozen teacher: what it gives, that it stays frozen, and how it is found."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from umt_pipeline.errors import CheckpointError, ConfigError
from umt_pipeline.models.teacher import Teacher, TeacherConfig, fetch_teacher, load_teacher, save_clip
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
    save_clip(clip, MODEL, train_wordpiece(["a red star", "a blue ring"], 64, 8), folder)
    return folder


def test_it_gives_tokens_attention_and_embeddings(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=2), grid=4)
    frames = torch.randn(3, 3, 32, 32)
    output = teacher(frames)
    assert output.layers_KFNW.shape == (2, 3, 16, 16)
    tokens = teacher.project(output.layers_KFNW)
    assert tokens.shape == (2, 3, 16, 12)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 3, 16))
    torch.testing.assert_close(output.cls_FC, teacher.clip.encode_image(frames, normalize=True))
    assert teacher.encode_text(["a red star", "a blue ring"]).shape == (2, 12)


def test_attention_is_the_class_row_of_the_last_block(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=1), grid=4)
    frames = torch.randn(2, 3, 32, 32)
    block = teacher.visual.transformer.resblocks[-1]
    seen: list[torch.Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = teacher(frames).attention_FN
    hook.remove()
    normed = block.ln_1(seen[0])
    _, weights = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=True)
    torch.testing.assert_close(found, weights[:, 0, 1:])


def test_it_stays_frozen_inside_a_module_that_trains(folder: Path) -> None:
    holder = nn.ModuleList([load_teacher(folder, TeacherConfig(layers=1), grid=4)]).train()
    assert not any(module.training for module in holder[0].modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())


def test_another_grid_resizes_positions_and_input(folder: Path) -> None:
    teacher = load_teacher(folder, TeacherConfig(layers=1), grid=6)
    assert teacher.input_size == 48
    assert teacher(torch.randn(1, 3, 32, 32)).layers_KFNW.shape == (1, 1, 36, 16)


def test_normalisation_teacher_undoes_the_students(folder: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    student_input = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    teacher = load_teacher(folder, TeacherConfig(layers=1, normalisation="teacher"), grid=4)
    expected = F.normalize(teacher.visual((pixels - 0.5) / 0.25), dim=-1)
    torch.testing.assert_close(teacher(student_input).cls_FC, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json is missing"):
        load_teacher(tmp_path, TeacherConfig(), grid=4)
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_teacher(tmp_path, TeacherConfig(), grid=4)


@pytest.mark.parametrize(
    ("source", "message"),
    [("open_clip:ViT-Z-9/openai", "knows no model 'ViT-Z-9'"), ("open_clip:ViT-B-16/nowhere", "neither a file nor a")],
)
def test_an_unknown_source_is_explained(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch_teacher(source, tmp_path)


def test_towers_without_a_class_token_are_refused() -> None:
    config = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "pool_type": "avg"}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="class token"):
        Teacher(open_clip.CLIP(**config), None, TeacherConfig(), 4, "")


def test_a_model_is_fetched_from_a_local_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": None}}  # type: ignore[dict-item]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    clip = open_clip.CLIP(**MODEL)
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, tmp_path / "w.safetensors")
    target = tmp_path / "teacher"
    target.mkdir()
    fetch_teacher(f"open_clip:tiny/{tmp_path / 'w.safetensors'}", target)
    teacher = load_teacher(target, TeacherConfig(layers=1), grid=4)
    torch.testing.assert_close(teacher.visual.proj, clip.visual.proj)
