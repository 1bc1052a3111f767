"""The classifier: its sizes, its first weights, what it starts from, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.models.checkpoints import classifier_to_published
from umt_pipeline.models.folders import CLASSES_FILE, save_model
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.classification.model import (
    KIND,
    Classifier,
    ClassifierConfig,
    load_classes,
    load_classifier,
    remap_head,
    save_classifier,
)

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
CONFIG = ClassifierConfig(vision=VISION, classes=5)


@pytest.mark.parametrize(
    ("dim", "depth", "heads", "tensors", "parameters"),
    [(768, 12, 12, 162, 85_944_976), (1024, 24, 16, 318, 303_484_304)],
    ids=["UMT-B/16", "UMT-L/16"],
)
def test_published_sizes(dim: int, depth: int, heads: int, tensors: int, parameters: int) -> None:
    vision = ViTConfig(image_size=224, patch_size=16, frames=8, dim=dim, depth=depth, heads=heads)
    with torch.device("meta"):
        model = Classifier(ClassifierConfig(vision=vision, classes=400))
    assert len(classifier_to_published(model.state_dict(), 16)) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_first_weights_are_the_published_ones() -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(vision=VISION.model_copy(update={"dim": 96}), classes=400))
    assert model.encoder.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.02 * 0.001, rel=0.05)
    assert not model.head.bias.any()
    # The patch convolution keeps PyTorch's default: uniform within 1 / sqrt(inputs).
    assert model.encoder.patch_embed.weight.abs().max().item() == pytest.approx(192**-0.5, rel=0.01)


def test_it_starts_from_a_student_and_leaves_its_final_norm_out() -> None:
    student = Student(StudentConfig(vision=VISION, align_layers=1, target_dim=4))
    torch.nn.init.constant_(student.encoder.norm.weight, 3.0)
    model = Classifier.create(CONFIG, student.encoder)
    assert torch.equal(model.encoder.blocks[1].mlp.fc2.weight, student.encoder.blocks[1].mlp.fc2.weight)
    assert torch.equal(model.encoder.patch_embed.bias, student.encoder.patch_embed.bias)
    assert torch.equal(model.fc_norm.weight, torch.ones(24))
    assert not any(name.startswith("encoder.norm.") for name in model.state_dict())
    again = Classifier.create(ClassifierConfig(vision=VISION, classes=3), model.encoder)
    assert torch.equal(again.encoder.blocks[0].attn.qkv.weight, model.encoder.blocks[0].attn.qkv.weight)
    wide = ClassifierConfig(vision=VISION.model_copy(update={"dim": 32}), classes=5)
    with pytest.raises(CheckpointError, match=r"encoder to start from .*norm1\.bias is \(24,\), expected \(32,\)"):
        Classifier.create(wide, student.encoder)


def test_the_first_logits_are_nearly_equal_and_clips_are_whole() -> None:
    model = Classifier(CONFIG).eval()
    logits = model(torch.randn(3, 32, VISION.patch_values))
    assert logits.shape == (3, 5)
    assert logits.abs().max() < 0.01
    with pytest.raises(ValueError, match="clips of 16 patches, expected 32"):
        model(torch.randn(1, 16, VISION.patch_values))


def test_more_frames_take_interpolated_positions() -> None:
    longer = VISION.model_copy(update={"frames": 4, "position_frames": 2})
    model = Classifier(ClassifierConfig(vision=longer, classes=2))
    student = Student(StudentConfig(vision=VISION, align_layers=1, target_dim=4))
    everything = torch.arange(64).unsqueeze(0)
    assert torch.equal(model.encoder.positions(everything), student.encoder.positions(everything, (4, 4)))
    shorter = (2, 4)  # Asked for its own size, the longer encoder gives the table as it is written down.
    assert torch.equal(model.encoder.positions(everything[:, :32], shorter), student.encoder.positions(everything[:, :32]))


def test_folder(tmp_path: Path) -> None:
    model = Classifier(CONFIG)
    save_model(tmp_path, model, CONFIG, KIND)
    loaded = load_classifier(tmp_path)
    assert not loaded.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_attention_pool_reads_normed_tokens_with_their_positions() -> None:
    config = CONFIG.model_copy(update={"pool": "attention"})
    student = Student(StudentConfig(vision=VISION, align_layers=1, target_dim=4))
    pool = AttentionPool(24, 2)
    torch.nn.init.constant_(student.encoder.norm.weight, 3.0)
    model = Classifier.create(config, student.encoder, pool)
    patches, places = torch.randn(3, 32, 192), torch.arange(32).unsqueeze(0)
    pooled = pool(student.encoder(patches, places), student.encoder.positions(places))
    assert torch.allclose(model(patches), model.head(model.fc_norm(pooled)))
    mean = Classifier(CONFIG)
    with pytest.raises(CheckpointError, match=r"2 missing \(norm\.bias, norm\.weight\)"):
        Classifier.create(config, mean.encoder)


NAMES = ("a", "b", "c", "d", "e")


def test_the_folder_knows_its_classes(tmp_path: Path) -> None:
    model = Classifier(CONFIG)
    save_classifier(tmp_path, model, NAMES)
    assert load_classes(tmp_path) == NAMES
    assert torch.equal(load_classifier(tmp_path).head.weight, model.head.weight)
    for content, found in (('["a", "b"]', "2 labels"), ('["a", "a", "b", "c", "d"]', "5 labels"), ("{}", "dict")):
        (tmp_path / CLASSES_FILE).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"list of 5 different labels, found {found}"):
            load_classes(tmp_path)
    (tmp_path / CLASSES_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"classes\.json: expected a JSON list .* that was imported does not know them"):
        load_classes(tmp_path)
    with pytest.raises(CheckpointError, match="expected 5 different labels, one per row of the head, found 2"):
        save_classifier(tmp_path, model, ("a", "b"))


def test_a_head_is_mapped_by_names() -> None:
    model = Classifier(CONFIG).eval()
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    mapped = remap_head(model, NAMES, {"z": "e", "b": "b", "y": "e"})
    assert mapped.config == CONFIG.model_copy(update={"classes": 3})
    patches = torch.randn(2, 32, 192)
    assert torch.allclose(mapped(patches), model(patches)[:, [4, 1, 4]])
    assert not mapped.training
    with pytest.raises(ConfigError, match=r"2 of 3 labels come from .* \('x' from 'q', 'w' from 'f'\); it has 'a', 'b'"):
        remap_head(model, NAMES, {"x": "q", "b": "b", "w": "f"})
    with pytest.raises(ConfigError, match="at least two labels, found 1"):
        remap_head(model, NAMES, {"b": "b"})
    with pytest.raises(CheckpointError, match="remap_head: expected 5 different labels"):
        remap_head(model, NAMES[:4], {"a": "a", "b": "b"})
