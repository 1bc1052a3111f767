"""The video encoder comes out of a folder of any kind, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.models import encoder, student, video_text
from umt_pipeline.models.folders import CONFIG_FILE, WEIGHTS_FILE, save_model
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import VideoViT, ViTConfig
from umt_pipeline.tasks.classification import model as classifier

VISION = ViTConfig(image_size=16, patch_size=8, frames=2, dim=8, depth=2, heads=2)
TEXT = TextConfig(vocab_size=9, dim=8, layers=2, fusion_layer=1, heads=2, mlp_dim=8, max_positions=8, vision_dim=8)
STUDENT = student.StudentConfig(vision=VISION, align_layers=1, target_dim=4)
CLASSIFIER = classifier.ClassifierConfig(vision=VISION, classes=3, pool="attention")
VIDEO_TEXT = video_text.VideoTextConfig(vision=VISION, text=TEXT, embed_dim=4)


def write(folder: Path, model: nn.Module, config: Config, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    save_model(folder, model, config, kind)
    return folder


def write_classifier(folder: Path) -> classifier.Classifier:
    torch.manual_seed(0)
    model = classifier.Classifier(CLASSIFIER)
    write(folder, model, CLASSIFIER, classifier.KIND)
    return model


def rewrite(folder: Path, drop: str = "", **settings: object) -> None:
    """Leave weights out of a folder and change what its config.json says of the model."""
    weights: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    save_file({name: tensor for name, tensor in weights.items() if not (drop and drop in name)}, folder / WEIGHTS_FILE)
    content = read_json(folder / CONFIG_FILE)
    write_json(folder / CONFIG_FILE, {**content, "model": {**content["model"], **settings}})


def test_every_kind_of_model_gives_its_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bare, small, both = VideoViT(VISION), student.Student(STUDENT), video_text.VideoTextModel(VIDEO_TEXT)
    folders = {
        write(tmp_path / "encoder", bare, encoder.EncoderConfig(vision=VISION), encoder.KIND): bare,
        write(tmp_path / "student", small, STUDENT, student.KIND): small.encoder,
        write(tmp_path / "both", both, VIDEO_TEXT, video_text.KIND): both.vision,
    }
    for folder, expected in folders.items():
        found, pool = load_vision(folder)
        assert pool is None
        assert not found.training
        assert found.config == VISION
        assert found.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_an_unknown_kind_gives_its_encoder_and_pool_too(tmp_path: Path) -> None:
    model = write_classifier(tmp_path)
    write_json(tmp_path / CONFIG_FILE, {**read_json(tmp_path / CONFIG_FILE), "kind": "somebody_elses"})
    found, pool = load_vision(tmp_path)
    assert model.attention_pool is not None
    assert pool is not None
    assert torch.equal(pool.query_H1d, model.attention_pool.query_H1d)
    patches, visible = torch.randn(1, 8, 192), torch.arange(8).unsqueeze(0)
    assert torch.equal(found(patches, visible), model.eval().encoder(patches, visible))


def test_a_classifier_that_norms_the_mean_has_no_final_norm(tmp_path: Path) -> None:
    config = CLASSIFIER.model_copy(update={"pool": "mean"})
    found, pool = load_vision(write(tmp_path, classifier.Classifier(config), config, classifier.KIND))
    assert isinstance(found.norm, nn.Identity)
    assert pool is None


@pytest.mark.parametrize(
    ("drop", "settings", "message"),
    [
        ("patch_embed", {}, "without a video encoder"),
        ("", {"vision": None}, "without a video encoder"),
        ("", {"vision": {"dim": 8}}, "sizes of its video encoder cannot be read"),
        ("", {"vision": {**VISION.model_dump(), "depth": 3}}, r"missing \(blocks\.2\."),
        ("", {"vision": {**VISION.model_dump(), "depth": 1}}, r"unexpected \(blocks\.1\."),
        ("blocks.1.attn.q_bias", {}, r"1 missing \(blocks\.1\.attn\.q_bias\)"),
        ("attention_pool.", {}, r"attention pool of .* missing \(key_value\.bias"),
        ("attention_pool.proj.bias", {}, r"attention pool of .* 1 missing \(proj\.bias\)"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, drop: str, settings: dict[str, object], message: str) -> None:
    write_classifier(tmp_path)
    rewrite(tmp_path, drop, **settings)
    with pytest.raises(CheckpointError, match=message):
        load_vision(tmp_path)
