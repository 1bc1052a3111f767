"""The count of a question equals what torch counts in the real model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.test_flops import counted
from umt_pipeline.models.flops import training_flops
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.question_answering.flops import answering_macs
from umt_pipeline.tasks.question_answering.model import Answers, QuestionAnsweringConfig, QuestionAnsweringModel

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2, mlp_ratio=3.0)
TEXT = TextConfig(
    vocab_size=61, dim=20, layers=5, fusion_layer=3, heads=2, mlp_dim=52, max_positions=9, vision_dim=24, dropout=0.0
)
B, V, L = 3, 32, 7


@pytest.mark.parametrize(("answers", "length", "pooled"), [(1, 3, False), (4, 5, False), (4, 5, True)])
def test_forward_and_back_are_what_torch_counts(answers: int, length: int, pooled: bool) -> None:
    fusion: dict[str, Any] = {"fuse_pooled": pooled, "pool": "attention" if pooled else "mean"}
    config = QuestionAnsweringConfig(vision=VISION, text=TEXT, fuse_positions=True, **fusion)
    model, source = QuestionAnsweringModel(config), torch.Generator().manual_seed(0)
    ids = torch.randint(61, (B, L), generator=source)
    said = Answers(torch.randint(61, (B, answers, length), generator=source), torch.ones(B, answers, length).bool())
    patches = torch.randn(B, V, VISION.patch_values, generator=source)

    def forward() -> torch.Tensor:
        return model(patches, torch.arange(V).unsqueeze(0), ids, torch.ones(B, L).bool(), said).sum()

    macs = answering_macs(config, V, L, answers, length)
    with torch.no_grad():
        assert counted(forward) == B * 2 * macs
    no_gradient_of_pixels = 2 * V * VISION.patch_values * VISION.dim
    assert counted(lambda: forward().backward()) == B * (training_flops(macs) - no_gradient_of_pixels)
