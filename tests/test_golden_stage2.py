"""The stage-2 model gives the reference implementation's numbers when it holds the reference's weights."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.golden_files import golden_interval, golden_meta, golden_tensors
from umt_pipeline.losses import (
    HardNegatives,
    masked_language_loss,
    matching_loss,
    negative_logits,
    video_text_contrastive,
)
from umt_pipeline.models.checkpoints import video_text_from_published, video_text_to_published
from umt_pipeline.models.folders import load_weights
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.video.pixels import patchify

FEATURE_TOLERANCE = 1e-5
LOSS_TOLERANCE = 2e-5


class Golden(NamedTuple):
    io: dict[str, Tensor]
    state: dict[str, Tensor]
    model: VideoTextModel


@pytest.fixture(scope="module")
def golden() -> Golden:
    sizes = golden_meta("stage2")["config"]
    state = golden_tensors("stage2", "model/")
    patch_size = state["vision_encoder.encoder.patch_embed.proj.weight"].shape[-1]
    vision = ViTConfig(
        image_size=sizes["img"],
        patch_size=patch_size,
        frames=sizes["frames"],
        dim=sizes["dim"],
        depth=sizes["depth"],
        heads=sizes["heads"],
    )
    text = TextConfig(
        vocab_size=sizes["vocab"],
        dim=sizes["txt"],
        layers=sizes["txl"],
        fusion_layer=sizes["fuse"],
        heads=sizes["txh"],
        mlp_dim=state["text_encoder.bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_positions=state["text_encoder.bert.embeddings.position_embeddings.weight"].shape[0],
        vision_dim=sizes["dim"],
    )
    config = VideoTextConfig(
        vision=vision, text=text, embed_dim=sizes["embed"], align_layers=sizes["K"], target_dim=sizes["out"],
        align_interval=golden_interval(sizes, "student")
    )
    model = VideoTextModel(config)
    report = load_weights(model, video_text_from_published(state), source="golden file")
    assert not report.missing
    assert not report.unexpected
    return Golden(golden_tensors("stage2", "io/"), state, model.eval())


def visible_patches(golden: Golden, pixels: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the patches and positions that the mask (True = hidden) leaves."""
    patches = patchify(pixels.permute(0, 2, 3, 4, 1), golden.model.config.vision.patch_size)
    if mask_BN is None:
        return patches, torch.arange(patches.shape[1]).expand(len(patches), -1)
    visible = (~mask_BN).nonzero()[:, 1].view(len(patches), -1)
    return patches.gather(1, visible.unsqueeze(2).expand(-1, -1, patches.shape[2])), visible


def assert_close(found: Tensor, expected: Tensor, tolerance: float = FEATURE_TOLERANCE) -> None:
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0.0, atol=tolerance)


@pytest.fixture(scope="module")
def video(golden: Golden) -> tuple[Tensor, Tensor]:
    """Tokens and unit embedding of the masked videos."""
    patches, visible = visible_patches(golden, golden.io["video"], golden.io["video_mask"])
    with torch.no_grad():
        return golden.model.encode_video(patches, visible)


@pytest.fixture(scope="module")
def text(golden: Golden) -> tuple[Tensor, Tensor]:
    """Tokens and unit embedding of the captions."""
    with torch.no_grad():
        return golden.model.encode_text(golden.io["token_ids"], golden.io["token_attention"])


@pytest.mark.parametrize(("media", "mask"), [("video", "video_mask"), ("image", "image_mask")])
@torch.no_grad()
def test_masked_media_tokens_pooling_and_heads(golden: Golden, media: str, mask: str) -> None:
    # An image is a clip of one frame: its positions are the first frame's rows of the video table.
    io, names = golden.io, {"video": ("vision", "student_tokens"), "image": ("image", "image_student_tokens")}[media]
    patches, visible = visible_patches(golden, io[media], io[mask])
    features = golden.model.encode_video_aligned(patches, visible)
    assert features.aligned_KBVC is not None
    assert_close(features.tokens_BVD, io[f"{names[0]}_tokens"])
    assert_close(golden.model.pool_tokens(features.tokens_BVD, visible), io[f"{names[0]}_pooled"])
    # The file holds the heads' outputs before they get unit length.
    assert_close(features.aligned_KBVC, F.normalize(io[names[1]], dim=-1))


@torch.no_grad()
def test_unmasked_video_tokens_and_pooling_per_frame(golden: Golden) -> None:
    patches, visible = visible_patches(golden, golden.io["video"], None)
    tokens, embedding = golden.model.encode_video(patches, visible, pool="frame")
    pooled = golden.model.pool_tokens(tokens, visible, golden.model.config.vision.frames)
    assert_close(tokens, golden.io["vision_tokens_full"])
    assert_close(pooled, golden.io["vision_pooled_full"])
    assert_close(embedding, F.normalize(golden.model.vision_proj(pooled), dim=-1))


@torch.no_grad()
def test_projections_and_similarity(golden: Golden, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]) -> None:
    io, model = golden.io, golden.model
    visible = visible_patches(golden, io["video"], io["video_mask"])[1]
    assert_close(text[0], io["text_tokens"])
    assert_close(model.vision_proj(model.pool_tokens(video[0], visible)), io["vision_proj"])
    assert_close(model.text_proj(text[0][:, 0]), io["text_proj"])
    assert_close(video[1] @ text[1].T / model.temperature, io["sim_v2t"], LOSS_TOLERANCE)


@torch.no_grad()
def test_contrastive_loss_with_two_samples_of_one_video(
    golden: Golden, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    loss = video_text_contrastive(video[1], text[1], golden.model.temperature, golden.io["sample_index"])
    assert_close(loss, golden.io["vtc_loss"], LOSS_TOLERANCE)


@pytest.mark.parametrize("direction", ["v2t", "t2v"])
def test_hard_negative_weights(golden: Golden, direction: str) -> None:
    # The reference zeroes same-media weights after the softmax and leaves its rows with sums below 1.
    similarity = golden.io["sim_v2t"] if direction == "v2t" else golden.io["sim_v2t"].T
    weights = negative_logits(similarity, golden.io["sample_index"]).softmax(dim=1)
    expected = golden.io[f"hard_negative_weights_{direction}"]
    usable = expected.sum(dim=1) > 0
    assert usable.any()
    assert_close(weights[usable], (expected / expected.sum(dim=1, keepdim=True))[usable])


@torch.no_grad()
def test_matching_and_masked_language(
    golden: Golden, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    io, model = golden.io, golden.model
    valid = torch.ones(len(io["token_ids"]), dtype=torch.bool)
    negatives = HardNegatives(io["vtm_video_negatives"], io["vtm_text_negatives"], valid)
    masked = model.text.encode(io["mlm_input_ids"], io["token_attention"])
    match_logits, mlm_logits = model.match_and_mlm(text[0], io["token_attention"], video[0], negatives, masked)
    assert mlm_logits is not None
    assert_close(match_logits, io["vtm_logits"], LOSS_TOLERANCE)
    assert_close(matching_loss(match_logits, valid)[0], io["vtm_loss"], LOSS_TOLERANCE)
    assert_close(mlm_logits, io["mlm_logits"], LOSS_TOLERANCE)
    assert_close(masked_language_loss(mlm_logits, io["mlm_labels"]), io["mlm_loss"], LOSS_TOLERANCE)


@torch.no_grad()
def test_fusion_tokens_in_the_order_right_wrong_video_wrong_text(
    golden: Golden, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    io, rows = golden.io, torch.arange(len(golden.io["token_ids"]))
    texts = torch.cat((rows, rows, io["vtm_text_negatives"]))
    clips = torch.cat((rows, io["vtm_video_negatives"], rows))
    masks = io["token_attention"][texts]
    fused = golden.model.text.fuse(text[0][texts], masks, video[0], clips)
    assert_close(fused, io["fusion_tokens"])
    # Sharing one projection per clip changes nothing.
    assert_close(golden.model.text.fuse(text[0][texts], masks, video[0][clips]), io["fusion_tokens"])


def test_export_gives_back_the_reference_state_dict(golden: Golden) -> None:
    exported = video_text_to_published(golden.model.state_dict(), golden.model.config.vision.patch_size)
    expected = {key: tensor for key, tensor in golden.state.items() if not key.endswith("position_ids")}
    assert exported.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(exported[key], tensor), key
