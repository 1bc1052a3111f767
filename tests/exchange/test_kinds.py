"""Published files are told apart by the names of their weights."""

from __future__ import annotations

import pytest

from tests.golden_files import golden_tensors
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.exchange.kinds import published_kind

BLOCK = ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (golden_tensors("stage1", "student/"), "student"),
        (golden_tensors("stage1", "classifier/"), "classifier"),
        (golden_tensors("stage2", "model/"), "video-text"),
        ([*BLOCK, "norm.weight"], "encoder"),
        ([f"module.encoder.{name}" for name in BLOCK], "encoder"),
        ([*BLOCK, "norm.weight", "head.weight"], "detector"),
        ([*(f"vision_encoder.encoder.{name}" for name in BLOCK), "text_encoder.x", "text_decoder.x"], "question-answering"),
    ],
)
def test_each_kind_has_its_names(names: list[str], kind: str) -> None:
    assert published_kind(names, "file") == kind


@pytest.mark.parametrize("names", [[], ["text_encoder.x"], ["head.weight", "features.0.weight"]])
def test_what_has_no_video_encoder_is_refused(names: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"file is no published checkpoint that is known: expected weights named"):
        published_kind(names, "file")
