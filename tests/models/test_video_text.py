"""The stage-2 model: its interface, where its weights come from, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.losses import (
    hard_negatives,
    mask_tokens,
    masked_language_loss,
    matching_loss,
    video_text_contrastive,
)
from umt_pipeline.models.student import Student, StudentConfig
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, load_video_text, save_video_text
from umt_pipeline.models.vit import ViTConfig

CAPTIONS = ["a red circle moves left", "a blue square stops", "a star grows", "a red star turns"]
TOKENIZER = train_wordpiece(CAPTIONS, vocab_size=60)
VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2)
TEXT = TextConfig(
    vocab_size=60, dim=16, layers=3, fusion_layer=2, heads=2, mlp_dim=32, max_positions=10, vision_dim=24, dropout=0.0
)
CONFIG = VideoTextConfig(vision=VISION, text=TEXT, embed_dim=8, align_layers=2, target_dim=12)
B, V = len(CAPTIONS), 10


@pytest.fixture
def model() -> VideoTextModel:
    torch.manual_seed(0)
    return VideoTextModel(CONFIG)


@pytest.fixture
def video() -> tuple[Tensor, Tensor]:
    """Five visible patches in each of two frames."""
    source = torch.Generator().manual_seed(1)
    per_frame = torch.rand(B, 2, 16, generator=source).argsort(dim=2)[..., :5].sort().values
    visible = (per_frame + torch.tensor([[0], [16]])).flatten(1)
    return torch.randn(B, V, VISION.patch_values, generator=source), visible


@pytest.fixture
def text() -> tuple[Tensor, Tensor]:
    return encode_batch(TOKENIZER, CAPTIONS, 10)


def test_interface_shapes_and_unit_length(
    model: VideoTextModel, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    features = model.encode_video_aligned(*video)
    tokens, embedding = model.encode_video(*video)
    text_tokens, text_embedding = model.encode_text(*text)
    per_frame = model.encode_video(*video, pool="frame")[1]
    assert tokens.shape == (B, V, 24)
    assert text_tokens.shape == (B, 10, 16)
    assert embedding.shape == text_embedding.shape == (B, 8)
    assert per_frame.shape == (B, 2, 8)
    assert features.aligned_KBVC is not None
    assert features.aligned_KBVC.shape == (2, B, V, 12)
    torch.testing.assert_close(features.embedding_BE, embedding)
    for vectors in (embedding, text_embedding, per_frame, features.aligned_KBVC):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert model.match_logits(text_tokens, text[1], tokens).shape == (B, 2)
    assert model.match_logits(text_tokens, text[1], tokens, torch.zeros(B, dtype=torch.int64)).shape == (B, 2)


def test_one_batch_of_pairs_equals_separate_passes(
    model: VideoTextModel, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    (ids, mask), source = text, torch.Generator().manual_seed(0)
    tokens, embedding = model.encode_video(*video)
    text_tokens, text_embedding = model.encode_text(ids, mask)
    negatives = hard_negatives(embedding @ text_embedding.T, torch.arange(B), source)
    masked = model.text.encode(ids.flip(0), mask)
    match, mlm = model.match_and_mlm(text_tokens, mask, tokens, negatives, masked)
    wrong_text = negatives.text_B
    separate = (
        model.match_logits(text_tokens, mask, tokens),
        model.match_logits(text_tokens, mask, tokens[negatives.video_B]),
        model.match_logits(text_tokens[wrong_text], mask[wrong_text], tokens),
    )
    torch.testing.assert_close(match, torch.cat(separate), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mlm, model.text.mlm_logits(model.text.fuse(masked, mask, tokens)), atol=1e-5, rtol=1e-5)
    without, nothing = model.match_and_mlm(text_tokens, mask, tokens, negatives, None)
    torch.testing.assert_close(without, match, atol=1e-5, rtol=1e-5)
    assert nothing is None


def test_all_losses_reach_all_parameters_and_a_few_steps_reduce_them(
    model: VideoTextModel, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    (ids, mask), rows = text, torch.arange(B)
    target = torch.nn.functional.normalize(torch.randn(2, B, V, 12), dim=-1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        source = torch.Generator().manual_seed(3)
        features = model.encode_video_aligned(*video)
        text_tokens, text_embedding = model.encode_text(ids, mask)
        temperature = model.temperature
        negatives = hard_negatives(features.embedding_BE @ text_embedding.T / temperature, rows, source)
        masked = mask_tokens(ids, vocab_size=60, mask_id=4, kept_ids=(0, 2), generator=source)
        masked_tokens = model.text.encode(masked.ids_BL, mask)
        match, mlm = model.match_and_mlm(text_tokens, mask, features.tokens_BVD, negatives, masked_tokens)
        assert mlm is not None
        assert features.aligned_KBVC is not None
        loss = video_text_contrastive(features.embedding_BE, text_embedding, temperature, rows)
        loss = loss + matching_loss(match, negatives.valid_B)[0] + masked_language_loss(mlm, masked.labels_BL)
        loss = loss + (2.0 - 2.0 * (features.aligned_KBVC * target).sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize(("start", "kept"), [(-1.0, 0.001), (0.2, 0.2), (3.0, 0.5)])
def test_temperature_is_clamped_when_told_and_has_a_gradient(model: VideoTextModel, start: float, kept: float) -> None:
    model.temp.data.fill_(start)
    assert model.temperature.item() == pytest.approx(start)
    model.clamp_temperature_()
    (1.0 / model.temperature + model.temperature).backward()
    assert model.temp.item() == pytest.approx(kept)
    assert model.temp.grad is not None
    assert model.temp.grad.item() == pytest.approx(1.0 - 1.0 / kept**2, rel=1e-4)


def test_video_encoder_and_heads_come_from_the_student(video: tuple[Tensor, Tensor]) -> None:
    student = Student(StudentConfig(vision=VISION, align_layers=2, target_dim=12)).eval()
    model = VideoTextModel.create(CONFIG, student=student).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_video_aligned(*video).aligned_KBVC, student(*video))


def test_a_student_with_other_heads_is_refused_unless_heads_are_left_out() -> None:
    student = Student(StudentConfig(vision=VISION, align_layers=1, target_dim=12))
    with pytest.raises(CheckpointError, match="alignment heads"):
        VideoTextModel.create(CONFIG, student=student)
    config = CONFIG.model_copy(update={"align_layers": 0, "target_dim": 0})
    assert VideoTextModel.create(config, student=student).heads is None


def test_model_folder_gives_back_the_same_numbers(
    tmp_path: Path, model: VideoTextModel, video: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]
) -> None:
    save_video_text(tmp_path, model, TOKENIZER, {"note": "test"})
    again, tokenizer = load_video_text(tmp_path)
    assert not again.training
    assert again.config == CONFIG
    assert torch.equal(encode_batch(tokenizer, CAPTIONS, 10)[0], text[0])
    with torch.no_grad():
        assert torch.equal(again.encode_video(*video)[1], model.eval().encode_video(*video)[1])
        assert torch.equal(again.encode_text(*text)[1], model.encode_text(*text)[1])


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path, model: VideoTextModel) -> None:
    large = train_wordpiece([*CAPTIONS, "qu wv xz kj yp fd"], vocab_size=100)
    with pytest.raises(CheckpointError, match=r"text\.vocab_size is 60"):
        save_video_text(tmp_path, model, large)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path, model: VideoTextModel) -> None:
    save_video_text(tmp_path, model, TOKENIZER)
    (tmp_path / "tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_video_text(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": TEXT.model_dump() | {"vision_dim": 25}}, "vision_dim"),
        ({"target_dim": 0}, "set both"),
        ({"align_layers": 4}, "4 of 3 blocks"),
        ({"align_interval": 3}, "2 of 3 blocks at an interval of 3"),
        ({"temperature": 0.6}, "temperature"),
    ],
)
def test_illegal_sizes_name_the_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoTextConfig.model_validate(CONFIG.model_dump() | changes)


def test_attention_pool_is_an_option_that_the_folder_keeps(tmp_path: Path, video: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    model = VideoTextModel(CONFIG.model_copy(update={"pool": "attention"})).eval()
    features = model.encode_video_aligned(*video)
    _, embedding = model.encode_video(*video)
    torch.testing.assert_close(features.embedding_BE, embedding)
    per_frame = model.encode_video(*video, pool="frame")[1]
    assert per_frame.shape == (B, VISION.frames, 8)
    second_frame = model.pool_tokens(features.tokens_BVD[:, V // 2 :], video[1][:, V // 2 :])
    torch.testing.assert_close(per_frame[:, 1], model.project_video(second_frame))
    save_video_text(tmp_path, model, TOKENIZER)
    assert torch.equal(load_video_text(tmp_path)[0].encode_video(*video)[1], embedding)


def test_fusion_can_read_positions(video: tuple[Tensor, Tensor]) -> None:
    tokens, positions = torch.randn(B, V, VISION.dim), VideoTextModel(CONFIG).vision.positions(video[1])
    assert torch.equal(VideoTextModel(CONFIG).fusion_tokens(tokens, video[1]), tokens), "as published"
    model = VideoTextModel(CONFIG.model_copy(update={"fuse_positions": True}))
    torch.testing.assert_close(model.fusion_tokens(tokens, video[1]) - tokens, positions, atol=1e-5, rtol=0)


def test_fusion_can_read_what_the_contrast_reads(video: tuple[Tensor, Tensor]) -> None:
    tokens = torch.randn(B, V, VISION.dim)
    model = VideoTextModel(CONFIG.model_copy(update={"pool": "attention", "fuse_pooled": True}))
    added = model.fusion_tokens(tokens, video[1]) - tokens
    torch.testing.assert_close(added, model.pool_tokens(tokens, video[1])[:, None].expand_as(tokens), atol=1e-5, rtol=0)
    features = model.eval().encode_video_aligned(*video)
    torch.testing.assert_close(
        model.fusion_tokens(features.tokens_BVD, video[1], pooled_BD=features.pooled_BD),
        model.fusion_tokens(features.tokens_BVD, video[1]),
    )
    assert model.encode_video_aligned(*video, pool="frame").pooled_BD is None, "that of frames is none of the clip"
