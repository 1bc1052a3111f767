"""The counts of stage 2 equal what torch counts in the real model, objective by objective."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.test_flops import counted
from umt_pipeline.losses import HardNegatives, matching_loss
from umt_pipeline.models.flops import student_macs, training_flops
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import ViTConfig

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2, mlp_ratio=3.0)
TEXT = TextConfig(
    vocab_size=61, dim=20, layers=5, fusion_layer=3, heads=2, mlp_dim=52, max_positions=9, vision_dim=24, dropout=0.1
)
MEAN = VideoTextConfig(vision=VISION, text=TEXT, embed_dim=14, align_layers=2, target_dim=10)
POOLED = MEAN.model_copy(update={"pool": "attention", "fuse_positions": True, "fuse_pooled": True})
B, V, L = 5, 12, 7
GIGA_CLIP, GIGA_IMAGE = 23.259, 17.259
NAMES = ("contrastive", "matching", "masked_language", "alignment")


def weights(*names: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: float(name in names) for name in NAMES})


def forward(model: VideoTextModel, *names: str) -> Tensor:
    """Compute what the objectives need, in the way that training does; only the product with the batch is not made."""
    source = torch.Generator().manual_seed(0)
    visible = torch.arange(V).expand(B, V)
    ids, mask = torch.randint(61, (B, L), generator=source), torch.ones(B, L, dtype=torch.bool)
    patches = torch.randn(B, V, VISION.patch_values, generator=source)
    tokens, layers = model.vision.forward_layers(patches, visible, model.layers)
    text = model.text.encode(ids, mask)
    total = tokens.sum() + text.sum()
    pooled = model.pool_tokens(tokens, visible) if "contrastive" in names else None
    if pooled is not None:
        total = total + model.project_video(pooled).sum() + model.project_text(text).sum()
    if "alignment" in names:
        assert model.heads is not None
        total = total + model.heads(layers, model.vision.positions(visible)).sum()
    fuses = "matching" in names or "masked_language" in names
    video = model.fusion_tokens(tokens, visible, pooled_BD=pooled) if fuses else tokens
    masked = model.text.encode(ids.flip(0), mask) if "masked_language" in names else None
    if "matching" in names:
        shift = torch.arange(B).roll(1)
        negatives = HardNegatives(shift, shift, torch.ones(B, dtype=torch.bool))
        match, words = model.match_and_mlm(text, mask, video, negatives, masked)
        total = total + matching_loss(match)[0] + (0.0 if words is None else words.sum())
    elif masked is not None:
        total = total + model.text.mlm_logits(model.text.fuse(masked, mask, video)).sum()
    return total


@pytest.mark.parametrize("config", [MEAN, POOLED], ids=["mean", "attention"])
@pytest.mark.parametrize("names", [NAMES, (), *[(name,) for name in NAMES], ("contrastive", "matching", "masked_language")])
def test_forward_and_back_are_what_torch_counts(config: VideoTextConfig, names: tuple[str, ...]) -> None:
    model, macs = VideoTextModel(config), video_text_macs(config, V, L, weights(*names))
    with torch.no_grad():
        assert counted(lambda: forward(model, *names)) == B * 2 * macs.total
    no_gradient_of_pixels = 2 * V * VISION.patch_values * VISION.dim
    trained = B * (training_flops(macs.total) - no_gradient_of_pixels)
    assert counted(lambda: forward(model, *names).backward()) == trained
    assert {name for name in NAMES if getattr(macs, name)} == set(names)


def test_parts_add_up() -> None:
    macs = video_text_macs(MEAN, V, L, weights(*NAMES))
    shares = macs.share()
    assert list(shares) == ["encoders", *NAMES]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["matching"] == macs.matching / macs.total
    student = StudentConfig(vision=VISION, align_layers=2, target_dim=10)
    text_layers = video_text_macs(MEAN, 0, L, weights()).encoders
    assert macs.encoders + macs.alignment == student_macs(student, V) + text_layers


def published(**changes: Any) -> VideoTextConfig:
    vision = ViTConfig(image_size=224, patch_size=16, frames=4, dim=768, depth=12, heads=12)
    text = TextConfig(
        vocab_size=30522, dim=768, layers=12, fusion_layer=9, heads=12, mlp_dim=3072, max_positions=512, vision_dim=768
    )
    return VideoTextConfig(vision=vision, text=text, embed_dim=512, align_layers=6, target_dim=512, **changes)


def test_the_products_with_the_batch_are_negligible() -> None:
    """Rows and columns of the contrastive similarities, and those that negatives are drawn from, per sample."""
    macs, batch = video_text_macs(published(), 160, 32, weights(*NAMES)), 2048
    assert 3 * batch * 512 / macs.total < 2e-4


def test_umt_b_by_hand() -> None:
    """A layer of 768 has 12 x 768 x 768 weights, 14 x with cross-attention's query and output; there are 30,522 words."""
    square, row = 768 * 768, 768
    for tokens, total in ((160, GIGA_CLIP), (98, GIGA_IMAGE)):
        macs = video_text_macs(published(), tokens, 32, weights(*NAMES))
        vision = tokens * square + 12 * (12 * tokens * square + 2 * tokens**2 * row)
        text = 9 * (12 * 32 * square + 2 * 32**2 * row)
        fusion = 3 * (14 * 32 * square + 2 * 32**2 * row + 2 * 32 * tokens * row)
        assert macs.encoders == vision + text
        assert macs.contrastive == 2 * row * 512
        assert macs.matching == 3 * fusion + 3 * 2 * row + 3 * 2 * tokens * square
        assert macs.masked_language == text + fusion + 32 * (square + 30522 * row)
        assert macs.alignment == 6 * tokens * row * 512
        assert macs.total / 1e9 == pytest.approx(total, abs=5e-4)
