"""Caption cleaning and a WordPiece tokenizer trained on the captions at hand.

Shapes: B captions, L tokens.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: whoever has token ids already needs none.
    from transformers import PreTrainedTokenizerFast

# [PAD] is 0 as in every BERT: its embeddings keep row 0 at zero.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"

_DELETED = re.compile(r"[,.'!?\"()*#:;~]")
_SPACED = re.compile(r"[-/]")
_RUNS = re.compile(r"\s{2,}")


def clean_caption(caption: str) -> str:
    """Normalise a caption by the published rules.

    Lower case; punctuation deleted; hyphens and slashes become spaces; ``<person>`` becomes ``person``; runs of white
    space become one space; outer spaces and trailing newlines are stripped. ``"It's a well-known <PERSON>!"`` becomes
    ``"its a well known person"``.
    """
    caption = _SPACED.sub(" ", _DELETED.sub("", caption.lower())).replace("<person>", "person")
    return _RUNS.sub(" ", caption).rstrip("\n").strip(" ")


def train_wordpiece(
    captions: Iterable[str], vocab_size: int, max_length: int = 512, *, clean: bool = True
) -> PreTrainedTokenizerFast:
    """Train a BERT-style tokenizer on captions.

    The same captions in any order give the same vocabulary and ids. (The ``tokenizers`` library's own trainer does not:
    its result depends on the order of a randomly seeded hash map.)

    Args:
        captions: training texts.
        vocab_size: most tokens in the vocabulary, special tokens included; fewer if every word is a token before that.
        max_length: longest text that the model takes, kept as the tokenizer's ``model_max_length``.
        clean: whether captions are cleaned by :func:`clean_caption` first.

    Raises:
        ConfigError: ``vocab_size`` does not hold the special tokens and the captions' characters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.BertPreTokenizer()
    texts = map(clean_caption, captions) if clean else captions
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower()))
    vocab = {token: index for index, token in enumerate(_learn_vocabulary(words, vocab_size))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix=CONTINUATION))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _learn_vocabulary(words: Counter[str], vocab_size: int) -> list[str]:
    """Merge the most frequent neighbours until the vocabulary is full; ties go to the smaller pair of strings."""
    pieces = {word: [word[0], *(CONTINUATION + letter for letter in word[1:])] for word in words}
    vocabulary = [*SPECIAL_TOKENS, *sorted({piece for parts in pieces.values() for piece in parts})]
    if len(vocabulary) > vocab_size:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but special tokens and single characters are {len(vocabulary)}: raise it"
        )
    known = set(vocabulary)
    counts: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            words_with[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(vocabulary) < vocab_size:
        negative_count, pair = heapq.heappop(heap)
        if counts[pair] != -negative_count or negative_count == 0:
            continue  # The entry is out of date; the current count has its own.
        merged = pair[0] + pair[1].removeprefix(CONTINUATION)
        if merged not in known:
            known.add(merged)
            vocabulary.append(merged)
        changed: set[tuple[str, str]] = set()
        for word in words_with.pop(pair):
            before = pieces[word]
            after = pieces[word] = _merge(before, pair, merged)
            for old in pairwise(before):
                counts[old] -= words[word]
                changed.add(old)
            for new in pairwise(after):
                counts[new] += words[word]
                words_with[new].add(word)
                changed.add(new)
        for other in changed - {pair}:
            heapq.heappush(heap, (-counts[other], other))
    return vocabulary


def _merge(parts: list[str], pair: tuple[str, str], merged: str) -> list[str]:
    result: list[str] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            result.append(merged)
            index += 2
        else:
            result.append(parts[index])
            index += 1
    return result


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files into ``folder``, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))


def load_tokenizer(source: Path | str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder, or from a hub name that transformers can read.

    Raises:
        CheckpointError: nothing readable there, or a tokenizer without BERT's special tokens.
    """
    from transformers import AutoTokenizer

    if isinstance(source, Path) and not source.is_dir():
        raise CheckpointError(f"{source} holds no tokenizer: no such folder")
    try:
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(str(source))  # type: ignore[assignment]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source} cannot be read as a tokenizer: {error}") from error
    absent = [name for name in ("pad", "cls", "sep", "mask", "unk") if getattr(tokenizer, f"{name}_token_id") is None]
    if absent:
        raise CheckpointError(f"{source}: the tokenizer has no {', '.join(absent)} token; it must be a BERT-style one")
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int, folder: Path) -> None:
    """Check that a model folder's tokenizer fits its model.

    Raises:
        CheckpointError: the tokenizer has ids that the model has no embedding for.
    """
    if len(tokenizer) > vocab_size:
        raise CheckpointError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, but text.vocab_size is {vocab_size}")


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], length: int, *, clean: bool = True, pad_to: int | None = None
) -> tuple[Tensor, Tensor]:
    """Turn captions into token ids of equal length.

    Args:
        tokenizer: from :func:`train_wordpiece` or :func:`load_tokenizer`.
        captions: raw texts.
        length: longest text; longer ones are cut (the last token stays [SEP]).
        clean: whether they are cleaned by :func:`clean_caption` first.
        pad_to: pad to the longest text rounded up to a multiple of this, instead of to ``length``.

    Returns:
        Ids [B, L] int64 and mask [B, L] bool, True at tokens.
    """
    texts = [clean_caption(caption) for caption in captions] if clean else list(captions)
    if not texts:
        return torch.zeros((0, length), dtype=torch.int64), torch.zeros((0, length), dtype=torch.bool)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids_BL, mask_BL = encoded["input_ids"], encoded["attention_mask"].bool()
    if pad_to is not None:
        longest = int(mask_BL.sum(dim=1).max())
        ids_BL, mask_BL = (x[:, : -(-longest // pad_to) * pad_to] for x in (ids_BL, mask_BL))
    return ids_BL, mask_BL
