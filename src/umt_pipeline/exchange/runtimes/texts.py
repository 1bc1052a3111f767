"""Tokenizers that read raw captions: the cleaning that the package does before them becomes a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.exchange.runtimes.parts import IDS, MASK, ModelParts

# The rules themselves, so that there is one place where they stand.
from umt_pipeline.models.tokenizer import _DELETED, _SPACED, encode_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILE = "tokenizer.json"
# Texts that come out of the cleaning as others than they went in.
PROBES = (
    "It's a well-known <PERSON>!",
    'A "red" (box); 3/4 of it: 100% *moves*~ #left?',
    "  two   spaces,\ttabs and\nlines \n",
    "Éclair ÜBER straße, ein Ausflug…",
    "!?",
)


def raw_tokenizer(model: ModelParts) -> PreTrainedTokenizerFast:
    """Return a model's tokenizer for texts as they are: cleaned, cut to the model's length and padded by itself.

    Raises:
        CheckpointError: it does not make the same tokens of :data:`PROBES` as the package does.
    """
    from tokenizers import Regex, Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    own = model.tokenizer
    assert own is not None, "a model that reads texts has a tokenizer"
    backend = Tokenizer.from_str(own.backend_tokenizer.to_str())
    if model.clean_texts:
        cleaning = [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(_DELETED.pattern), ""),
            normalizers.Replace(Regex(_SPACED.pattern), " "),
            normalizers.Replace("<person>", "person"),
        ]
        # White space needs no cleaning: words are split at it, however much there is.
        backend.normalizer = normalizers.Sequence([*cleaning, *([backend.normalizer] if backend.normalizer else [])])
    backend.enable_truncation(model.text_length)
    backend.enable_padding(pad_id=own.pad_token_id, pad_token=str(own.pad_token))
    special = {f"{name}_token": str(getattr(own, f"{name}_token")) for name in ("pad", "unk", "cls", "sep", "mask")}
    raw = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=model.text_length, model_input_names=[IDS, MASK], **special
    )
    _require_same_tokens(model, raw, PROBES)
    return raw


def _require_same_tokens(model: ModelParts, raw: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    assert model.tokenizer is not None, "as in raw_tokenizer"
    ids_UL, mask_UL = encode_batch(model.tokenizer, texts, model.text_length, clean=model.clean_texts, pad_to=1)
    found = raw.backend_tokenizer.encode_batch(list(texts))
    for text, ids_L, mask_L, made in zip(texts, ids_UL, mask_UL, found, strict=True):
        expected = ids_L[mask_L].tolist()
        got = torch.tensor(made.ids)[torch.tensor(made.attention_mask).bool()].tolist()
        if got != expected:
            raise CheckpointError(
                f"{model.folder}: of the text {text!r} the exported tokenizer makes the tokens {got}, the model's own makes "
                f"{expected}: tokenizers of this kind cannot be exported"
            )
