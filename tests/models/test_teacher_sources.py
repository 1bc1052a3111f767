"""Published teachers by tag, hub id, folder and file: what is fetched is what was published, what is wrong is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.models.tiny_towers import TEXT
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import read_json
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.models.teacher_sources import SOURCES, fetch_teacher
from umt_pipeline.video.pixels import IMAGENET_MEAN

VISION = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
# The vocabulary is that of open_clip's own tokenizer.
MODEL = {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": {**TEXT, "vocab_size": 49408}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", MODEL)


def write_weights(model: nn.Module, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def fetch(source: str, folder: Path, **config: Any) -> Teacher:
    folder.mkdir()
    fetch_teacher(source, folder)
    return load_teacher(folder, TeacherConfig(source=source, **{"layers": 1, **config}), grid=4, text=True)


def test_open_clip_model_with_a_weights_file(tmp_path: Path) -> None:
    clip = open_clip.CLIP(**MODEL)
    path = write_weights(clip, tmp_path / "w.safetensors")
    teacher = fetch(f"open_clip:tiny/{path}", tmp_path / "teacher")
    frames = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher.embed_image(teacher(frames)), clip.encode_image(frames, normalize=True))
    assert teacher.encode_text(["a star"]).shape == (1, 12)


def test_open_clip_folder(tmp_path: Path) -> None:
    clip = open_clip.CLIP(**MODEL, quick_gelu=True).eval()
    clip.visual.image_mean, clip.visual.image_std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    published = tmp_path / "published"
    published.mkdir()
    save_open_clip(clip, {**MODEL, "quick_gelu": True}, None, published)
    (published / "open_clip_model.safetensors").rename(published / "model.safetensors")
    teacher = fetch(f"open_clip:local-dir:{published}", tmp_path / "teacher")
    frames = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher.embed_image(teacher(frames)), clip.encode_image(frames, normalize=True))
    assert teacher.tower.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(("tag", "quick"), [("dfn2b", True), ("laion2b_s34b_b88k", False)])
def test_the_tag_decides_on_the_activation(tag: str, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = write_weights(open_clip.CLIP(**MODEL), tmp_path / "w.safetensors")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", MODEL)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
    teacher = fetch(f"open_clip:ViT-B-16/{tag}", tmp_path / "teacher")
    assert read_json(tmp_path / "teacher" / "open_clip_config.json")["model_cfg"]["quick_gelu"] is quick
    activation = teacher.tower.visual.transformer.resblocks[0].mlp[1]  # type: ignore[union-attr, index]
    assert isinstance(activation, open_clip.transformer.QuickGELU) is quick


def test_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = open_clip.CLIP(**MODEL).eval()
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    hub = tmp_path / "hub"
    hub.mkdir()
    save_open_clip(clip, MODEL, None, hub)

    def download(model_id: str, filename: str | None = None, **_: Any) -> str:
        assert model_id == "laion/tiny"
        return str(hub / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", download)
    teacher = fetch("open_clip:hf-hub:laion/tiny", tmp_path / "teacher")
    frames = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher.embed_image(teacher(frames)), clip.encode_image(frames, normalize=True))
    (hub / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="'open_clip:hf-hub:laion/tiny' cannot be loaded"):
        fetch("open_clip:hf-hub:laion/tiny", tmp_path / "again")


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("hub not reached")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", unreachable)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    for source in ("open_clip:hf-hub:a/b", "open_clip:ViT-B-32/openai", "timm:test_vit"):
        with pytest.raises(CheckpointError, match=f"{source!r} cannot be loaded: .*hub not reached.*name a weights file or"):
            fetch_teacher(source, tmp_path)


@pytest.mark.parametrize("classes", [1000, 7, 0])
@pytest.mark.parametrize(("name", "importance"), [("test_vit", "class_attention"), ("test_vit3.r160_in1k", "pool_attention")])
def test_timm_model_with_a_weights_file(name: str, importance: str, classes: int, tmp_path: Path) -> None:
    model = timm.create_model(name, num_classes=classes).eval()
    path = write_weights(model, tmp_path / "w.safetensors")
    teacher = fetch(f"timm:{name}/{path}", tmp_path / "teacher")
    frames = torch.randn(1, 3, 160, 160)
    expected = model.forward_head(model.forward_features(frames), pre_logits=True)
    again = load_teacher(tmp_path / "teacher", TeacherConfig(layers=1), grid=10)
    torch.testing.assert_close(again.embed_image(again(frames)), nn.functional.normalize(expected, dim=-1))
    assert (teacher.importance, teacher.grid, teacher.input_size, teacher.has_text) == (importance, 4, 64, False)


def test_weights_of_another_size_are_refused_with_both_shapes(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    larger = write_weights(open_clip.CLIP(**{**MODEL, "vision_cfg": {**VISION, "image_size": 48}}), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"positional_embedding of the model is \(17, 16\).* has \(37, 16\)"):
        fetch_teacher(f"open_clip:tiny/{larger}", tmp_path / "t")
    wider = write_weights(open_clip.CLIP(**{**MODEL, "vision_cfg": {**VISION, "width": 24}}), tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)\[24, 3, 8, 8\].*\[16, 3, 8, 8\]"):
        fetch_teacher(f"open_clip:tiny/{wider}", tmp_path / "t")
    larger = write_weights(timm.create_model("test_vit", img_size=224), tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"pos_embed of the model is \(1, 101, 64\).* has \(1, 197, 64\)"):
        fetch_teacher(f"timm:test_vit/{larger}", tmp_path / "t")
    wider = write_weights(timm.create_model("test_vit", embed_dim=96), tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)\[96, 3, 16, 16\].*\[64, 3, 16, 16\]"):
        fetch_teacher(f"timm:test_vit/{wider}", tmp_path / "t")
    shallower = write_weights(timm.create_model("test_vit", depth=5), tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match=r"Missing key.*blocks\.5\."):
        fetch_teacher(f"timm:test_vit/{shallower}", tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x02]q\x00."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("model", ["open_clip:tiny", "timm:test_vit"])
def test_a_file_that_holds_no_weights_is_refused(model: str, suffix: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / f"file.{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"'{model}/.*file.{suffix}' cannot be loaded"):
        fetch_teacher(f"{model}/{tmp_path / f'file.{suffix}'}", tmp_path)


def test_a_weights_file_is_taken_to_have_the_input_statistics_of_the_models_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14-CLIPA", MODEL)
    path = write_weights(open_clip.CLIP(**MODEL), tmp_path / "w.safetensors")
    for name, mean in (("ViT-L-14-CLIPA", IMAGENET_MEAN), ("tiny", open_clip.OPENAI_DATASET_MEAN)):
        assert fetch(f"open_clip:{name}/{path}", tmp_path / name).tower.statistics[0] == mean


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("open_clip:ViT-B-1/openai", r"knows no model 'ViT-B-1' \(it knows ViT-B-16"),
        ("open_clip:ViT-B-16/nowhere", "neither a file nor a pretrained tag of ViT-B-16 .*openai"),
        ("open_clip:local-dir:/nowhere", "expected a folder with open_clip_config.json, found none in /nowhere"),
        ("timm:vit_base_patch14_dino2", r"timm knows no model .*vit_base_patch14_dinov2"),
        ("timm:vit_base_patch14_dinov2.nothing", r"expected a tag of vit_base_patch14_dinov2 \(lvd142m\), found 'nothing'"),
        ("timm:vit_base_patch16_xp_224", "no published weights of vit_base_patch16_xp_224: name a file, timm:"),
        ("timm:vit_base_patch14_dinov2/nowhere.pth", "expected a weights file, found none at 'nowhere.pth'"),
        ("clip:ViT-B-16", "expected 'train_small' or one of open_clip:<model>.*found 'clip:ViT-B-16'"),
    ],
)
def test_an_unknown_source_is_explained(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch_teacher(source, tmp_path)


def test_the_parameter_file_names_every_source(root: Path) -> None:
    text = (root / "conf" / "base" / "parameters_teacher_features.yml").read_text(encoding="utf-8")
    for source in SOURCES:
        assert source.replace("<pretrained tag or weights file>", "<pretrained tag>") in text
