"""Captions of video files for the benchmark of stage 2: needs pandas and a tokenizer."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from common import Place

from umt_pipeline.data.captions import captioned_media
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece


def make_captions(place: Place, vocabulary: int, length: int) -> None:
    """Write a caption for each clip, all longer than the ``length`` tokens that the model takes, and a tokenizer for them."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 8))) for _ in range(500)]
    videos = pd.read_parquet(place.videos)
    texts = [" ".join(rng.choice(words, rng.integers(length, 2 * length))) for _ in range(len(videos))]
    captions = pd.DataFrame({"caption_id": range(len(videos)), "video_id": videos["video_id"], "caption": texts})
    # Files are repeated under other names: what makes them different media is the hash of the content.
    named = videos.assign(sha256=[hashlib.sha256(name.encode()).hexdigest() for name in videos["video_id"]])
    for name, table in zip(("samples", "captions"), captioned_media(named, captions), strict=True):
        write_mapped(place.folder / f"{name}.arrow", table)
    save_tokenizer(train_wordpiece(texts, vocabulary), place.folder / "tokenizer")
