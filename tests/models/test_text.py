"""Caption cleaning, the trained tokenizer and the BERT that is cut in two."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import BertConfig, BertForMaskedLM, BertModel

from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.models.text import TextConfig, TextModel, check_pretrained_bert, load_pretrained_bert
from umt_pipeline.models.tokenizer import (
    SPECIAL_TOKENS,
    clean_caption,
    encode_batch,
    load_tokenizer,
    save_tokenizer,
    train_wordpiece,
)

CAPTIONS = ["A red circle moves left.", "a blue square stops, then goes on", "the small-striped star grows / shrinks"]
CONFIG = TextConfig(
    vocab_size=60, dim=16, layers=3, fusion_layer=1, heads=2, mlp_dim=32, max_positions=12, vision_dim=10
)
quick = settings(max_examples=50, deadline=None, derandomize=True)


def test_text_layers_match_transformers_bert_and_missing_cross_attention_is_listed(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path)
    model = TextModel(CONFIG).eval()
    report = load_pretrained_bert(model, str(tmp_path))
    assert report.missing
    assert all(".crossattention." in key for key in report.missing)
    assert not report.unexpected
    ids, mask = torch.randint(5, 60, (2, 6)), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = bert.bert(ids, mask, output_hidden_states=True).hidden_states
        torch.testing.assert_close(model.encode(ids, mask), expected[CONFIG.fusion_layer], atol=1e-6, rtol=1e-5)
        last = expected[-1]
        torch.testing.assert_close(model.mlm_logits(last), bert.cls(last), atol=1e-6, rtol=1e-5)


def tiny_bert(folder: Path, **changes: int) -> BertForMaskedLM:
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BertConfig(**(sizes | {"intermediate_size": 32, "max_position_embeddings": 12} | changes))
    bert = BertForMaskedLM(config).eval()
    bert.save_pretrained(folder)
    return bert


def test_a_bert_without_language_head_is_refused_unless_a_new_one_is_asked_for(tmp_path: Path) -> None:
    bert = BertModel(tiny_bert(tmp_path).config)
    bert.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"no masked-language head, .*text\.new_language_head: true"):
        load_pretrained_bert(TextModel(CONFIG), str(tmp_path))
    model = TextModel(CONFIG.model_copy(update={"new_language_head": True}))
    fresh = model.mlm_transform.dense.weight.detach().clone()
    report = load_pretrained_bert(model, str(tmp_path))
    assert {name.split(".")[0] for name in report.missing if "crossattention" not in name} == {"mlm_transform", "mlm_bias"}
    assert torch.equal(model.mlm_transform.dense.weight, fresh), "the head starts as a new model's does"
    assert torch.equal(model.embeddings.word_embeddings.weight, bert.embeddings.word_embeddings.weight)
    check_pretrained_bert(model.config)


def test_the_option_takes_a_head_that_is_there_and_excuses_nothing_else(tmp_path: Path) -> None:
    allowed = CONFIG.model_copy(update={"new_language_head": True})
    bert = tiny_bert(tmp_path)
    model = TextModel(allowed)
    load_pretrained_bert(model, str(tmp_path))
    assert torch.equal(model.mlm_transform.dense.weight, bert.cls.predictions.transform.dense.weight)
    for left_out, named in (("cls.predictions.transform.dense.weight", "cls"), ("bert.encoder.layer.0", "bert.encoder")):
        state = {key: tensor for key, tensor in bert.state_dict().items() if not key.startswith(left_out)}
        bert.save_pretrained(tmp_path, state_dict=state)
        with pytest.raises(CheckpointError, match=rf"lacks \d+ BERT keys: {named}"):
            load_pretrained_bert(TextModel(allowed), str(tmp_path))


def test_a_model_of_another_kind_under_berts_names_is_refused(tmp_path: Path) -> None:
    bert = tiny_bert(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**bert.config.to_dict(), "model_type": "xlm-roberta"}))
    with pytest.raises(CheckpointError, match="expected a model of type 'bert', found 'xlm-roberta'"):
        load_pretrained_bert(TextModel(CONFIG.model_copy(update={"new_language_head": True})), str(tmp_path))


def test_a_bert_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    tiny_bert(tmp_path, vocab_size=61)
    with pytest.raises(CheckpointError, match=r"text\.vocab_size is 60, checkpoint has 61"):
        load_pretrained_bert(TextModel(CONFIG), str(tmp_path))


def test_a_missing_checkpoint_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"text\.pretrained"):
        load_pretrained_bert(TextModel(CONFIG), str(tmp_path / "nothing"))


def test_padding_changes_nothing_and_fusion_sees_later_words() -> None:
    torch.manual_seed(0)
    model = TextModel(CONFIG).eval()
    ids, vision = torch.randint(5, 60, (1, 6)), torch.randn(1, 4, 10)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        padded = model.fuse(model.encode(ids, mask), mask, vision)
        short = model.fuse(model.encode(ids[:, :4], mask[:, :4]), mask[:, :4], vision)
        other = ids.clone()
        other[0, 3] = 5 + (ids[0, 3] - 4) % 55
        changed = model.fuse(model.encode(other, mask), mask, vision)
    torch.testing.assert_close(padded[:, :4], short, atol=1e-6, rtol=1e-5)
    # Not causal, although transformers calls the layer a decoder.
    assert not torch.allclose(padded[:, 0], changed[:, 0])


def test_clips_can_be_shared_by_texts() -> None:
    torch.manual_seed(0)
    model = TextModel(CONFIG).eval()
    ids, mask, vision = torch.randint(5, 60, (5, 6)), torch.ones(5, 6), torch.randn(2, 4, 10)
    clips = torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        text = model.encode(ids, mask)
        torch.testing.assert_close(model.fuse(text, mask, vision, clips), model.fuse(text, mask, vision[clips]))


@pytest.mark.parametrize("fusion_layer", [0, 3])
def test_config_needs_both_kinds_of_layers(fusion_layer: int) -> None:
    with pytest.raises(ValidationError, match="fusion_layer"):
        TextConfig.model_validate(CONFIG.model_dump() | {"fusion_layer": fusion_layer})


# --- captions and tokenizer ---


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("It's a well-known <PERSON>!", "its a well known person"),
        ('He said: "Stop (now)?" ~ #1; *', "he said stop now 1"),
        ("and/or   more\t\ttext\n\n", "and or more text"),
        (" - ", ""),
    ],
)
def test_published_cleaning_rules(caption: str, cleaned: str) -> None:
    assert clean_caption(caption) == cleaned


@quick
@given(st.text())
def test_cleaned_captions_hold_no_deleted_sign(caption: str) -> None:
    cleaned = clean_caption(caption)
    assert not set(cleaned) & set(",.'!?\"()*#:;~-/")
    assert "  " not in cleaned
    assert cleaned == cleaned.strip(" ")


def test_encoding_pads_cuts_and_reads_back(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(CAPTIONS, vocab_size=400, max_length=12)
    ids, mask = encode_batch(tokenizer, ["A RED circle!", "the red star " * 9], length=8)
    assert ids.shape == mask.shape == (2, 8)
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    special = dict(zip(SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), strict=True))
    assert ids[0, 0] == special["[CLS]"]
    assert ids[0, 4] == special["[SEP]"]
    assert ids[1, 7] == special["[SEP]"]
    assert (ids[0, 5:] == special["[PAD]"]).all()
    assert mask.sum(1).tolist() == [5, 8]
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "a red circle"
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = load_tokenizer(tmp_path / "tokenizer")
    assert torch.equal(encode_batch(again, CAPTIONS, 12)[0], encode_batch(tokenizer, CAPTIONS, 12)[0])
    assert again.get_vocab() == tokenizer.get_vocab()
    assert special["[PAD]"] == again.pad_token_id == 0


def test_unknown_words_fall_back_to_pieces_and_unknown_letters_to_unk() -> None:
    tokenizer = train_wordpiece(CAPTIONS, vocab_size=400)
    assert tokenizer.unk_token_id not in encode_batch(tokenizer, ["redder"], 8)[0]
    assert tokenizer.unk_token_id in encode_batch(tokenizer, ["жук"], 8)[0]


def test_encoding_nothing_gives_empty_tensors() -> None:
    ids, mask = encode_batch(train_wordpiece(CAPTIONS, 60), [], 8)
    assert ids.shape == mask.shape == (0, 8)


def test_vocabulary_is_full_and_holds_the_frequent_words() -> None:
    tokenizer = train_wordpiece(["red"] * 9 + CAPTIONS, vocab_size=50)
    assert len(tokenizer) == 50
    assert "red" in tokenizer.get_vocab()


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 10"):
        train_wordpiece(CAPTIONS, vocab_size=10)


def test_vocabulary_does_not_depend_on_the_order_of_captions() -> None:
    source = random.Random(0)
    words = ["".join(source.choices("abcdef", k=source.randint(2, 6))) for _ in range(40)]
    captions = [" ".join(source.choices(words, k=5)) for _ in range(80)]
    vocab = train_wordpiece(captions, 90).get_vocab()
    assert sorted(vocab.values()) == list(range(90))
    for _ in range(3):
        source.shuffle(captions)
        assert train_wordpiece(captions, 90).get_vocab() == vocab
