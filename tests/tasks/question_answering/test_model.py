"""The question-answering model: what its decoder may see, where its weights come from, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertLMHeadModel

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import encode_batch, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vision import load_vision
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.question_answering.model import (
    Answers,
    Question,
    QuestionAnsweringConfig,
    QuestionAnsweringModel,
    encode_answers,
    load_question_answering,
    save_question_answering,
)

QUESTIONS, ANSWERS = ["what moves left", "what stops", "what is it"], ["a red circle", "a star", "left", "a blue star stops"]
TOKENIZER = train_wordpiece([*QUESTIONS, *ANSWERS], vocab_size=60)
VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
TEXT = TextConfig(
    vocab_size=60, dim=16, layers=5, fusion_layer=3, heads=2, mlp_dim=32, max_positions=10, vision_dim=24, dropout=0.0
)
CONFIG = QuestionAnsweringConfig(vision=VISION, text=TEXT)
B, V = len(QUESTIONS), 32


@pytest.fixture
def model() -> QuestionAnsweringModel:
    torch.manual_seed(0)
    return QuestionAnsweringModel(CONFIG).eval()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    patches = torch.randn(B, V, VISION.patch_values, generator=torch.Generator().manual_seed(1))
    return patches, torch.arange(V).unsqueeze(0), *encode_batch(TOKENIZER, QUESTIONS, 8)


def test_the_decoder_has_as_many_layers_as_the_encoder_has_fusion_layers(model: QuestionAnsweringModel) -> None:
    assert len(model.decoder.layers) == CONFIG.decoder_layers == 2
    assert not [name for name, _ in model.named_parameters() if name.startswith("text.mlm_")]
    with pytest.raises(ValueError, match=r"text\.vision_dim 24 is not vision\.dim 12"):
        QuestionAnsweringConfig(vision=VISION.model_copy(update={"dim": 12}), text=TEXT)


def test_parameters_are_as_many_as_the_reference_s() -> None:
    """UMT-B: video encoder 85.6M, question encoder without a language head 116.0M, answer decoder of three layers 52.8M."""
    vision = ViTConfig(image_size=224, patch_size=16, frames=12, dim=768, depth=12, heads=12)
    text = TextConfig(
        vocab_size=30522, dim=768, layers=12, fusion_layer=9, heads=12, mlp_dim=3072, max_positions=512, vision_dim=768
    )
    with torch.device("meta"):
        model = QuestionAnsweringModel(QuestionAnsweringConfig(vision=vision, text=text))
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.vision, model.text, model.decoder)]
    assert counts == [85_637_376, 115_983_360, 52_815_162]


@torch.no_grad()
def test_log_likelihoods_are_those_of_transformers_own_decoder(
    model: QuestionAnsweringModel, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    """Token by token, one answer at a time, in eager attention and with a mask for padding."""
    bert = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=10, is_decoder=True, add_cross_attention=True, attn_implementation="eager",
    )  # fmt: skip
    other = BertLMHeadModel(bert).eval()
    names = {
        "embeddings.": "bert.embeddings.", "layers.": "bert.encoder.layer.", "mlm_transform.": "cls.predictions.transform.",
        "mlm_bias": "cls.predictions.bias",
    }  # fmt: skip
    state = model.decoder.state_dict()
    renamed = {new + key.removeprefix(old): state[key] for key in state for old, new in names.items() if key.startswith(old)}
    assert not other.load_state_dict(renamed, strict=False).unexpected_keys
    other.tie_weights()

    question, answers = model.encode(*inputs), encode_answers(TOKENIZER, ANSWERS)
    found_BR = model.log_likelihoods(question, answers)
    assert found_BR.shape == (B, len(ANSWERS))
    for b in range(B):
        for r in range(len(ANSWERS)):
            ids = answers.ids[r][answers.mask[r]].unsqueeze(0)
            logits = other(
                input_ids=ids, encoder_hidden_states=question.states_BLD[b : b + 1],
                encoder_attention_mask=question.mask_BL[b : b + 1].long(),
            ).logits  # fmt: skip
            log_probabilities = logits.log_softmax(dim=-1)[0, :-1]
            expected = sum(float(log_probabilities[index, token]) for index, token in enumerate(ids[0, 1:].tolist()))
            assert float(found_BR[b, r]) == pytest.approx(expected, abs=1e-5)
    first_BS = model.first_log_probabilities(question, TOKENIZER.cls_token_id)
    assert torch.allclose(first_BS.exp().sum(dim=1), torch.ones(B))
    alone = Answers(answers.ids[:, :2], answers.mask[:, :2])
    assert torch.allclose(first_BS[:, answers.ids[:, 1]], model.log_likelihoods(question, alone), atol=1e-6)


@torch.no_grad()
def test_no_token_of_an_answer_sees_a_later_one(
    model: QuestionAnsweringModel, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    question, ids = model.encode(*inputs), encode_answers(TOKENIZER, ANSWERS).ids.expand(B, -1, -1)
    changed = ids.clone()
    changed[..., 3:] = (ids[..., 3:] + 7) % 60
    before, after = model.decoder(ids, question), model.decoder(changed, question)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.allclose(before[:, :, 3:], after[:, :, 3:])


@torch.no_grad()
def test_answers_do_not_see_each_other_nor_padding(
    model: QuestionAnsweringModel, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    question, answers = model.encode(*inputs), encode_answers(TOKENIZER, ANSWERS)
    together = model.log_likelihoods(question, answers)
    for r, answer in enumerate(ANSWERS):
        alone = model.log_likelihoods(question, encode_answers(TOKENIZER, [answer]))
        assert torch.allclose(together[:, r], alone[:, 0], atol=1e-6)
    longer = Question(question.states_BLD + ~question.mask_BL[..., None] * 100.0, question.mask_BL)
    assert torch.allclose(model.log_likelihoods(longer, answers), together, atol=1e-6)


@torch.no_grad()
def test_clip_and_question_both_matter(
    model: QuestionAnsweringModel, inputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    patches, visible, ids, mask = inputs
    answers = encode_answers(TOKENIZER, ANSWERS)
    found = model(patches, visible, ids, mask, answers)
    assert torch.equal(found, model.log_likelihoods(model.encode(*inputs), answers))
    assert not torch.allclose(found, model(patches.flip(0), visible, ids, mask, answers))
    assert not torch.allclose(found, model(patches, visible, ids.flip(0), mask.flip(0), answers))


def test_every_parameter_learns(model: QuestionAnsweringModel, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """What DDP needs: nothing in the model stays without a gradient."""
    model.train()
    model(*inputs, encode_answers(TOKENIZER, ANSWERS)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_questions_read_a_clip_as_the_stage_2_model_does(
    pool: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    sizes = {"vision": VISION, "text": TEXT, "embed_dim": 8, "pool": pool, "fuse_positions": True, "fuse_pooled": True}
    source = VideoTextModel(VideoTextConfig.model_validate(sizes)).eval()
    model, report = QuestionAnsweringModel.from_video_text(source)
    assert not [name for name in report.unexpected if "pool" in name]
    patches, visible = inputs[:2]
    expected = source.fusion_tokens(source.encode_video(patches, visible)[0], visible)
    torch.testing.assert_close(model.eval().encode_clips(patches, visible), expected)
    save_question_answering(tmp_path, model, TOKENIZER)
    torch.testing.assert_close(load_question_answering(tmp_path)[0].encode_clips(patches, visible), expected)
    model.train()
    model(*inputs, encode_answers(TOKENIZER, ANSWERS)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_pool_that_nothing_reads_is_not_taken_along(tmp_path: Path) -> None:
    source = VideoTextModel(VideoTextConfig(vision=VISION, text=TEXT, embed_dim=8, pool="attention"))
    model, report = QuestionAnsweringModel.from_video_text(source)
    assert model.config.pool == "mean"
    assert {name.split(".")[0] for name in report.unexpected if "pool" in name} == {"attention_pool", "pool_norm"}
    save_question_answering(tmp_path, model, TOKENIZER)
    assert load_vision(tmp_path)[1] is None, "and nobody looks for one in its folder"
    with pytest.raises(ValueError, match="pools nothing without fuse_pooled"):
        QuestionAnsweringConfig(vision=VISION, text=TEXT, pool="attention")


@pytest.mark.parametrize("width", [24, 16])
def test_question_answering_starts_from_a_stage_2_model(width: int) -> None:
    """Fusion layer f + i becomes decoder layer i; cross-attention of another width starts new and is reported."""
    vision = VISION.model_copy(update={"dim": width})
    sizes = VideoTextConfig(
        vision=vision, text=TEXT.model_copy(update={"vision_dim": width}), embed_dim=8, align_layers=1, target_dim=4,
        fuse_positions=True,
    )  # fmt: skip
    source = VideoTextModel(sizes)
    longer = vision.model_copy(update={"drop_path": 0.2, "frames": 4, "position_frames": 2})
    model, report = QuestionAnsweringModel.from_video_text(source, longer)
    assert model.config.fuse_positions
    assert model.config.vision == longer
    assert QuestionAnsweringModel.from_video_text(source)[0].config.vision == vision
    old, new = source.state_dict(), model.state_dict()
    pairs = {key: key for key in new if key.startswith(("vision.", "text."))}
    for key in new:
        if key.startswith("decoder."):
            name = key.removeprefix("decoder.")
            layer = int(name.split(".")[1]) if name.startswith("layers.") else None
            pairs[key] = f"text.{name}" if layer is None else f"text.{name.replace(f'.{layer}.', f'.{layer + 3}.', 1)}"
    fresh = {key for key in new if ".crossattention.self.key." in key or ".crossattention.self.value." in key}
    fresh = {key for key in fresh if key.startswith("decoder.")} if width != 16 else set()
    assert set(report.missing) == fresh
    assert len(fresh) == (8 if width != 16 else 0)
    assert all(torch.equal(new[key], old[pairs[key]]) for key in new.keys() - fresh)
    assert {key.split(".")[0] for key in report.unexpected} == {
        "heads", "pool_norm", "vision_proj", "text_proj", "match_head", "temp", "text",
    }  # fmt: skip
    with torch.no_grad():
        model.decoder.embeddings.word_embeddings.weight.zero_()
    assert source.text.embeddings.word_embeddings.weight.any(), "a copy, not the same tensor"


def test_a_model_folder_keeps_everything(tmp_path: Path, model: QuestionAnsweringModel) -> None:
    save_question_answering(tmp_path, model, TOKENIZER, {"steps": 3})
    again, tokenizer = load_question_answering(tmp_path)
    assert again.config == CONFIG
    assert not again.training
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    small = QuestionAnsweringModel(CONFIG.model_copy(update={"text": TEXT.model_copy(update={"vocab_size": 9})}))
    with pytest.raises(CheckpointError, match=r"tokenizer has \d+ tokens, but text\.vocab_size is 9"):
        save_question_answering(tmp_path, small, TOKENIZER)


def test_answers_are_neither_cleaned_nor_cut() -> None:
    answers = encode_answers(TOKENIZER, ["left", "a blue star - stops a red circle"])
    assert answers.ids[0, :3].tolist() == TOKENIZER.convert_tokens_to_ids(["[CLS]", "left", "[SEP]"])
    assert answers.mask.sum(dim=1).tolist()[0] == 3
    assert answers.mask[1].all()
    assert TOKENIZER.unk_token_id in answers.ids[1]
