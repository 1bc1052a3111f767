"""Exported tokenizers make the package's tokens of raw captions."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.evaluation.tiny import make_tables
from tests.serving.folders import write_folder
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.exchange.runtimes import texts
from umt_pipeline.exchange.runtimes.parts import ModelParts, load_parts
from umt_pipeline.exchange.runtimes.texts import raw_tokenizer
from umt_pipeline.models.tokenizer import encode_batch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelParts:
    folder = tmp_path_factory.mktemp("texts")
    return load_parts(write_folder("stage2", folder / "stage2", make_tables(folder / "media", ("train",))))


def test_raw_captions_become_the_same_tokens(model: ModelParts, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    letters = list(string.ascii_letters + string.digits + string.punctuation + " \t\n" * 8 + "éßÜ中…")
    words = ["a disc 0 goes left", "<PERSON>", "star", "well-known", ""]
    captions = [" ".join(rng.choice(words, 3)) + "".join(rng.choice(letters, int(rng.integers(0, 30)))) for _ in range(300)]
    raw_tokenizer(model).backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(captions)
    assert model.tokenizer is not None
    ids, mask = encode_batch(model.tokenizer, captions, model.text_length, pad_to=1)
    np.testing.assert_array_equal([text.ids for text in found], ids)
    np.testing.assert_array_equal([text.attention_mask for text in found], mask)
    assert len(found[0].ids) == model.text_length == 12, "long texts are cut"
    one = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(["star"])
    assert len(one[0].ids) < 12, "and short ones are padded to the longest of them only"


def test_a_tokenizer_that_makes_other_tokens_is_refused(model: ModelParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_SPACED", texts._DELETED)
    with pytest.raises(CheckpointError, match="exported tokenizer makes the tokens"):
        raw_tokenizer(model)
