"""Captioned media as training data: two mapped tables, and captions that are tokenised where they are read.

Shapes: B samples, M captions, L text length.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import sha256_file, sha256_folder
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.samples import Corpus
from umt_pipeline.models.tokenizer import clean_caption, encode_batch, load_tokenizer
from umt_pipeline.video.views import counter_generator

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Batches are padded to a multiple of so many tokens: few shapes, for kernels and compilers.
PAD_TO = 8
# Captions that are tokenised to estimate how many are too long.
_SAMPLE = 1000


def captioned_media(
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    split: str = "train",
    weights: Mapping[str, float] | None = None,
    clean: bool = True,
    stage: str = "stage2",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join media and captions to what training reads.

    Args:
        videos: the clean video table.
        captions: the clean caption table.
        split: whose media.
        weights: of corpora by name; one of weight 0 is left out, one that is not named has weight 1.
        clean: whether captions are cleaned, so that one may turn out to be empty.
        stage: where messages say that the parameter ``corpora`` is.

    Returns:
        Samples: one row per medium with a usable caption, one corpus after the other: video_id, path, split, media, corpus,
        num_frames, height, width, media_id, first_caption, captions (how many). Captions: column caption, in their order.

    Raises:
        ConfigError: ``weights`` names an unknown corpus, or nothing is left: of all, or of a corpus that is not left out.
    """
    import pandas as pd  # read here and not by every rank and worker

    weights = weights or {}
    media = videos[videos["split"] == split]
    found = sorted(media["corpus"].unique())
    if unknown := sorted(set(weights) - set(found)):
        raise ConfigError(
            f"{stage}.corpora names {', '.join(unknown)}, but in table videos split {split!r} has "
            f"{', '.join(found) or 'no corpus'}"
        )
    media = media[media["corpus"].map(lambda corpus: weights.get(corpus, 1.0) > 0.0)]
    usable = usable_captions(captions, media["video_id"], clean, stage)
    counts = usable.groupby("video_id", sort=False).size()
    media = media.assign(captions=media["video_id"].map(counts).fillna(0).astype("int64"))
    samples = media[media["captions"] > 0].sort_values(["media", "corpus"], kind="stable", ignore_index=True)
    _check(samples, media, split, len(captions), len(usable), stage)
    samples["first_caption"] = samples["captions"].cumsum() - samples["captions"]
    # By content: the same picture in two corpora, or under two names, is one medium.
    samples["media_id"] = samples["sha256"].map(lambda digest: int(digest[:16], 16) >> 1).astype("int64")
    index_of = pd.Series(samples.index, index=samples["video_id"])
    order = usable["video_id"].map(index_of).to_numpy().argsort(kind="stable")
    columns = ["video_id", "path", "split", "media", "corpus", "num_frames", "height", "width"]
    kept = samples[[*columns, "media_id", "first_caption", "captions"]]
    return kept, usable[["caption"]].iloc[order].reset_index(drop=True)


def _check(samples: pd.DataFrame, media: pd.DataFrame, split: str, captions: int, usable: int, stage: str) -> None:
    if samples.empty:
        raise ConfigError(
            f"{stage}: none of the media of split {split!r} has a caption with words in it ({captions} rows in table "
            "captions); check table captions"
        )
    kept = (samples["corpus"] + " (" + samples["media"] + ")").value_counts()
    listed = (media["corpus"] + " (" + media["media"] + ")").value_counts(sort=False)
    if empty := sorted(set(media["corpus"]) - set(samples["corpus"])):
        raise ConfigError(
            f"{stage}: none of the {int(media['corpus'].isin(empty).sum())} media of {', '.join(empty)} has a caption with "
            f"words in it; check table captions, or leave them out: {stage}.corpora: {{{empty[0]}: 0}}"
        )
    counts = ", ".join(f"{name} {kept.get(name, 0)} of {size}" for name, size in listed.items())
    logger.info("%s: %d captions; media with captions: %s", stage, usable, counts)


def usable_captions(
    captions: pd.DataFrame, video_ids: pd.Series, clean: bool = True, stage: str = "stage2"
) -> pd.DataFrame:
    """Return the captions of the given media that are not empty, once cleaned, in order of video and caption id."""
    kept = captions[captions["video_id"].isin(set(video_ids))]
    has_words = kept["caption"].map(lambda text: bool((clean_caption(text) if clean else text).strip())).astype(bool)
    if empty := int((~has_words).sum()):
        logger.warning("%s: %d of %d captions have no word in them and are left out", stage, empty, len(kept))
    return kept[has_words].sort_values(["video_id", "caption_id"], ignore_index=True)


class Captions:
    """The captions of samples. Picklable: table and tokenizer are opened on first use, in each worker.

    Args:
        samples: table of samples, as :func:`captioned_media` makes it.
        captions: table of captions, likewise.
        tokenizer: folder of the tokenizer.
        max_length: longest text.
        clean: whether captions are cleaned by the published rules.
    """

    def __init__(self, samples: Path, captions: Path, tokenizer: Path, max_length: int, clean: bool = True) -> None:
        self.samples, self._captions = MappedTable(samples), MappedTable(captions)
        self._tokenizer_folder, self._max_length, self._clean = Path(tokenizer), max_length, clean
        self._tokenizer: PreTrainedTokenizerFast | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        if self._tokenizer is None:
            # Its own threads would fight with the loader's workers, and a few captions at a time need none.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            self._tokenizer = load_tokenizer(self._tokenizer_folder)
        return self._tokenizer

    def corpora(self, weights: Mapping[str, float], group_by_media: bool) -> tuple[Corpus, ...]:
        """Return the corpora of the samples, in order; batches are of one kind of media if ``group_by_media``."""
        runs = self.samples.table.select(["media", "corpus"]).group_by(["media", "corpus"], use_threads=False)
        return tuple(
            Corpus(
                name=f"{run['corpus']} ({run['media']})",
                size=run["count_all"],
                weight=weights.get(run["corpus"], 1.0),
                group=run["media"] if group_by_media else "",
            )
            for run in runs.aggregate([([], "count_all")]).to_pylist()
        )

    def draw(self, index: int, number: int, count: int) -> np.ndarray:
        """Return ``count`` rows of a sample's captions, different ones if it has so many, by a hash of (medium, pass)."""
        sample = self.samples.row(index)
        own = np.arange(sample["captions"])
        drawn = counter_generator("caption", sample["video_id"], number).permutation(np.resize(own, max(count, len(own))))
        return sample["first_caption"] + drawn[:count]

    def encode(self, rows_M: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return token ids [M, L] and mask [M, L] of captions, padded to the longest of them."""
        texts = self._captions.texts("caption", rows_M)
        return encode_batch(self.tokenizer, texts, self._max_length, clean=self._clean, pad_to=PAD_TO)

    def warn_of_cuts(self, setting: str = "stage2.text.max_length") -> None:
        """Log how many captions are longer than ``max_length``, estimated from some of them.

        Args:
            setting: the parameter that decides it.
        """
        rows = np.linspace(0, len(self._captions) - 1, min(_SAMPLE, len(self._captions))).astype(np.int64)
        _, mask_ML = self.encode(rows)
        full = int((mask_ML.sum(dim=1) == self._max_length).sum())
        if full:
            logger.warning(
                "%d of %d captions looked at fill %s (%d tokens), longer ones are cut: raise it, or the number of words that "
                "the tokenizer knows",
                full,
                len(rows),
                setting,
                self._max_length,
            )


class CaptionSource(Config):
    """Captions of samples, as a run's spec names them.

    Attributes:
        samples: table of samples, as :func:`captioned_media` makes it.
        captions: table of captions, likewise.
        tokenizer: folder of the tokenizer.
        max_length: longest text in tokens.
        clean: whether captions are cleaned by the published rules.
    """

    samples: Path
    captions: Path
    tokenizer: Path
    max_length: int
    clean: bool = True

    def open(self, setting: str = "stage2.text.max_length") -> Captions:
        """Open the tables and the tokenizer, and warn if many captions will be cut; ``setting`` decides where."""
        captions = Captions(self.samples, self.captions, self.tokenizer, self.max_length, self.clean)
        captions.warn_of_cuts(setting)
        return captions

    def inputs(self) -> dict[str, str]:
        """Return hashes of what the paths lead to."""
        tables = {"samples": sha256_file(self.samples), "captions": sha256_file(self.captions)}
        return {**tables, "tokenizer": sha256_folder(self.tokenizer)}
