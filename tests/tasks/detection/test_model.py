"""The detector: its sizes, what its boxes see, what it starts from, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import VideoViT, ViTConfig, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, save_classifier
from umt_pipeline.tasks.detection.model import (
    Detector,
    DetectorConfig,
    load_actions,
    load_detector,
    save_detector,
)

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
CONFIG = DetectorConfig(vision=VISION, classes=5)
ASKING = CONFIG.model_copy(update={"pool": "attention"})
WHOLE = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])


def test_published_size() -> None:
    vision = ViTConfig(image_size=224, patch_size=16, frames=8, dim=768, depth=12, heads=12)
    with torch.device("meta"):
        model = Detector(DetectorConfig(vision=vision, classes=80))
    encoder = 85_637_376  # of UMT-B/16's stage 1, final norm included
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + 80 * 769


class _Fixed(nn.Module):
    """Gives the same tokens whatever it is shown."""

    def __init__(self, tokens_BVD: torch.Tensor) -> None:
        super().__init__()
        self.tokens = tokens_BVD

    def forward(self, *_: object) -> torch.Tensor:
        return self.tokens


def seeing(map_hw: torch.Tensor) -> Detector:
    """Return a detector of one action whose logit is the pooled value of one channel, shown in both frames."""
    model = Detector(DetectorConfig(vision=VISION, classes=1))
    tokens = torch.zeros(1, 2 * map_hw.numel(), 24)
    # The mean over time of 0.5 and 1.5 times the map is the map.
    tokens[0, :, 0] = torch.cat((0.5 * map_hw.flatten(), 1.5 * map_hw.flatten()))
    model.encoder = _Fixed(tokens)  # type: ignore[assignment]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.weight[0, 0] = 1.0
    return model


def test_a_box_takes_the_maximum_of_7_x_7_bins_over_the_mean_of_time() -> None:
    """On a ramp f(x) = x along the width bilinear samples are exact, so each value can be told by hand.

    A box from x1 to x2 has seven bins of width (x2 - x1) / 7; one sample in each, at its middle, if that is at most one patch
    wide. The maximum is that of the last bin: x2 - (x2 - x1) / 14, in patches; patch k's centre counts as k.
    """
    ramp = torch.arange(4.0).expand(4, 4)
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.25, 0.5, 0.75, 1.0]]])
    found = seeing(ramp)(torch.zeros(1, 32, 192), boxes)
    assert found.shape == (1, 2, 1)
    assert found.flatten().tolist() == pytest.approx([2 - 2 / 14, 3 - 2 / 14])
    down = seeing(ramp.T)(torch.zeros(1, 32, 192), boxes)
    assert down.flatten().tolist() == pytest.approx([3.0, 3.0]), "beyond the last centre the last patch counts"
    wide = seeing(torch.arange(8.0).expand(2, 8))(torch.zeros(1, 32, 192), boxes, (2, 8))
    assert wide.flatten().tolist() == pytest.approx([4 - 4 / 14, 6 - 4 / 14]), "shares are of the width, not of the height"


@pytest.mark.parametrize("config", [CONFIG, ASKING], ids=lambda config: config.pool)
def test_boxes_belong_to_their_clip_and_to_nothing_else(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    model = Detector(config).eval()
    patches = torch.randn(2, 32, 192)
    boxes = torch.rand(2, 3, 4).sort(dim=2).values
    together = model(patches, boxes)
    assert together.shape == (2, 3, 5)
    for clip in range(2):
        for box in range(3):
            alone = model(patches[clip : clip + 1], boxes[clip : clip + 1, box : box + 1])
            torch.testing.assert_close(together[clip, box], alone[0, 0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="clips of 16 patches, expected 2 frames of 4 x 4"):
        model(patches[:, :16], boxes)


@pytest.mark.parametrize("config", [CONFIG, ASKING], ids=lambda config: config.pool)
def test_frames_that_are_not_square(config: DetectorConfig) -> None:
    torch.manual_seed(0)
    model = Detector(config).eval()
    wide = model(torch.randn(1, 2 * 3 * 6, 192), WHOLE, (3, 6))
    assert wide.shape == (1, 1, 5)
    table = position_table(24, 2, 4, 2, 3, 6)
    assert torch.equal(model.encoder.positions(torch.arange(36).unsqueeze(0), (2, 3, 6))[0], table)
    patches = torch.randn(1, 32, 192)
    assert torch.equal(model(patches, WHOLE), model(patches, WHOLE, (4, 4)))


def test_it_starts_from_a_student_with_its_norm_and_from_a_classifier_without() -> None:
    student = Student(StudentConfig(vision=VISION, align_layers=1, target_dim=4))
    nn.init.constant_(student.encoder.norm.weight, 3.0)
    model = Detector.create(CONFIG, student.encoder)
    assert torch.equal(model.encoder.norm.weight, torch.full((24,), 3.0))
    classifier = Classifier(ClassifierConfig(vision=VISION, classes=3))
    fresh = Detector.create(CONFIG, classifier.encoder)
    assert torch.equal(fresh.encoder.norm.weight, torch.ones(24))
    assert torch.equal(fresh.encoder.blocks[1].mlp.fc2.weight, classifier.encoder.blocks[1].mlp.fc2.weight)
    wide = VideoViT(VISION.model_copy(update={"dim": 32}))
    with pytest.raises(CheckpointError, match=r"encoder to start from .*norm1\.bias is \(32,\), expected \(24,\)"):
        Detector.create(CONFIG, wide)


class _FrameByFrame(VideoViT):
    """Makes each token of its own patch alone, as tokens are that stage 1 learnt from single frames."""

    def forward(self, patches_BVP: torch.Tensor, *_: object) -> torch.Tensor:
        return self.patch_embed(patches_BVP)


def blind(config: DetectorConfig) -> Detector:
    torch.manual_seed(0)
    model = Detector(config).eval()
    model.encoder = _FrameByFrame(VISION)
    # Weights start close to zero: what differs is to be seen.
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and not name.startswith("encoder."):
            nn.init.normal_(weight, std=0.3)
    return model


def test_only_the_attention_pool_tells_a_clip_from_its_reverse() -> None:
    patches = torch.randn(1, 32, 192)
    backwards = patches.unflatten(1, (2, 16)).flip(1).flatten(1, 2)
    mean, asking = blind(CONFIG), blind(ASKING)
    torch.testing.assert_close(mean(backwards, WHOLE), mean(patches, WHOLE))
    assert (asking(backwards, WHOLE) - asking(patches, WHOLE)).abs().max() > 0.01


def test_only_the_attention_pool_sees_where_somebody_came_from() -> None:
    corner = torch.tensor([[[0.0, 0.0, 0.2, 0.2]]])
    here, there = torch.zeros(1, 32, 192), torch.zeros(1, 32, 192)
    here[0, 16] = there[0, 16] = 1.0  # in the key frame, the second one, at the upper left
    here[0, 3], there[0, 12] = 1.0, 1.0  # before it at the upper right, or at the lower left
    mean, asking = blind(CONFIG), blind(ASKING)
    torch.testing.assert_close(mean(there, corner), mean(here, corner))
    assert (asking(there, corner) - asking(here, corner)).abs().max() > 0.01


def test_each_box_asks_for_itself() -> None:
    same = torch.randn(1, 1, 192).expand(-1, 32, -1)  # everywhere and always the same
    two = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 1.0, 1.0]]])
    torch.testing.assert_close(*blind(CONFIG)(same, two)[0])
    one, other = blind(ASKING)(same, two)[0]
    assert (one - other).abs().max() > 1e-4, "where a box is tells it from another one"


def test_the_attention_pool_comes_along_from_stage_2_and_goes_on_to_others(tmp_path: Path) -> None:
    pool = AttentionPool(24, 2)
    model = Detector.create(ASKING, VideoViT(VISION), pool)
    assert model.attention_pool is not None
    assert torch.equal(model.attention_pool.query_H1d, pool.query_H1d)
    assert Detector.create(CONFIG, VideoViT(VISION), pool).attention_pool is None
    save_detector(tmp_path, model, "abcde")
    loaded, patches = load_detector(tmp_path), torch.randn(1, 32, 192)
    assert loaded.config == ASKING
    assert torch.equal(loaded(patches, WHOLE), model.eval()(patches, WHOLE))
    found = load_vision(tmp_path)[1]
    assert found is not None
    assert torch.equal(found.key_value.weight, pool.key_value.weight)


def test_asking_for_nothing_reads_what_the_pool_adds_to_the_mean() -> None:
    torch.manual_seed(0)
    pool, tokens, positions = AttentionPool(24, 2), torch.randn(2, 32, 24), torch.randn(1, 32, 24)
    read = pool.read_for(torch.zeros(2, 3, 24), tokens, positions)
    whole = pool(tokens, positions) - tokens.mean(dim=1)
    torch.testing.assert_close(read, whole.unsqueeze(1).expand(-1, 3, -1))


def test_the_folder_knows_its_actions(tmp_path: Path) -> None:
    model = Detector(CONFIG)
    save_detector(tmp_path, model, "abcde")
    loaded = load_detector(tmp_path)
    assert not loaded.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert load_actions(tmp_path) == tuple("abcde")
    with pytest.raises(CheckpointError, match="expected 5 different labels, one per row of the head, found 2"):
        save_detector(tmp_path, model, "ab")
    other = tmp_path / "other"
    other.mkdir()
    save_classifier(other, Classifier(ClassifierConfig(vision=VISION, classes=2)), "ab")
    with pytest.raises(CheckpointError, match="'umt_classifier', expected 'umt_detector'"):
        load_actions(other)
