"""Texts that people type: what of them can be read, and what a model reads of it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import TeacherEncoder, VideoTextEncoder
from umt_pipeline.models.tokenizer import clean_caption
from umt_pipeline.serving.embedder import Embedder

# Far beyond what any model reads of a text; more is a file given by mistake.
MAX_TEXT = 20_000


def clean_text(text: str) -> str:
    """Return a text without control characters and spaces that say nothing.

    Raises:
        ConfigError: nothing is left, or it is longer than 20,000 characters.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"the text: expected at most {MAX_TEXT:,} characters, found {len(text):,}: ask with a sentence")
    # Cc: control characters, Cs: halves of characters, which come of bytes that are no text. No tokenizer wants them.
    printable = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    cleaned = " ".join(printable.split())
    if not cleaned:
        raise ConfigError("the text: expected a sentence or a word, found nothing to read")
    return cleaned


@dataclass(frozen=True)
class Reading:
    """What a model reads of a text.

    Attributes:
        tokens: that the text has.
        unknown: those of which the model knows nothing but that something stood there.
        limit: tokens that the model reads; later ones are cut off.
    """

    tokens: int
    unknown: int
    limit: int

    @property
    def nothing(self) -> bool:
        """Whether the model knows no word of the text, so that it says the same of every such text."""
        return self.unknown == self.tokens

    @property
    def notes(self) -> list[str]:
        """What somebody who typed the text should know."""
        if self.nothing:
            return ["the model knows no word of this text: it was trained with other words, or another script"]
        notes = []
        if self.unknown:
            notes.append(f"{self.unknown} of the text's {self.tokens} tokens are unknown to the model")
        if self.tokens > self.limit:
            notes.append(f"the model reads the first {self.limit} of the text's {self.tokens} tokens")
        return notes


def reading_of(embedder: Embedder, text: str) -> Reading:
    """Return what a model that reads texts reads of one.

    Args:
        embedder: the model.
        text: from :func:`clean_text`.

    Raises:
        ConfigError: the model reads no text.
    """
    encoder = embedder.encoder
    if isinstance(encoder, VideoTextEncoder):
        tokenizer = encoder.tokenizer
        read = clean_caption(text) if encoder.model.config.clean_captions else text
        ids = tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"]
        # Two positions are those of the marks of a text's begin and end.
        return Reading(len(ids), sum(token == tokenizer.unk_token_id for token in ids), encoder.text_length(None) - 2)
    if isinstance(encoder, TeacherEncoder) and embedder.reads_text:
        # Byte pairs: no text is unknown. Padding is 0 in the tokenizers of open_clip.
        tokenizer = encoder.teacher.tokenizer
        limit = int(tokenizer.context_length) - 2
        words = tokenizer.encode(text) if hasattr(tokenizer, "encode") else tokenizer(text)[0].nonzero()[1:-1]
        return Reading(len(words), 0, limit)
    raise ConfigError(f"a model of kind {embedder.kind!r} reads no text: expected one of stage 2, retrieval or a CLIP")
