"""The classifier: its sizes, its first weights, what it starts from, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from umt_pipeline.errors import CheckpointError
from umt_pipeline.models.checkpoints import classifier_to_published
from umt_pipeline.models.classifier import KIND, Classifier, ClassifierConfig, load_classifier
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.vit import ViTConfig

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
