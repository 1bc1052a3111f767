"""What the next stages will miss: told where the corpus is first counted, not where a training ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from umt_pipeline.pipelines.ingestion.listing import Listing
from umt_pipeline.pipelines.ingestion.params import IngestionParams

# Accepted videos of the first split below which the sizes of conf/base do not fit: its batches have 64 clips.
FEW_CLIPS = 64
# A caption is cut to some dozens of words; beyond so many characters it is no caption but a document, or a broken table.
LONG_CAPTION = 10_000

_PROMOTED = re.compile(r"-?\d+\.0")


def warnings(
    listing: Listing,
    videos: pd.DataFrame,
    accepted_tables: dict[str, pd.DataFrame],
    near_duplicates: dict[str, Any],
    params: IngestionParams,
) -> list[str]:
    """Return a sentence for each thing that works, but not as its owner may think, with what to do.

    Args:
        listing: all rows of the users' tables.
        videos: accepted videos and images.
        accepted_tables: accepted rows of the others.
        near_duplicates: from ``duplicates.same_pictures``.
        params: splits.
    """
    return [
        *_on_splits(videos, accepted_tables, params),
        *_on_tables(listing, accepted_tables),
        *_on_texts(accepted_tables),
        *_on_near_duplicates(near_duplicates),
    ]


def _on_splits(videos: pd.DataFrame, tables: dict[str, pd.DataFrame], params: IngestionParams) -> Iterator[str]:
    first, *held_out = params.splits
    moving = videos[videos["media"] == "video"]
    clips = {split: moving.loc[moving["split"] == split, "video_id"] for split in params.splits}
    if len(clips[first]) < FEW_CLIPS:
        yield (
            f"Split {first} has {len(clips[first])} videos, fewer than a batch of the standard parameters ({FEW_CLIPS}): each "
            "step trains on all of them. Add videos, or lower batch_size of the stages."
        )
    for split in held_out:
        if clips[split].empty:
            effect = "no setting can be chosen on it" if split == "validation" else "nothing is measured on it"
            yield (
                f"Split {split} has no video, so {effect}. Move videos to it in the table of videos, or take it out of "
                "ingestion.splits."
            )
    captioned = set(tables["captions"]["video_id"])
    if not captioned:
        yield "No video has a caption, so stage 2 cannot be trained and nothing searched by text. Give a table of captions."
        return
    if not captioned & set(videos.loc[videos["split"] == first, "video_id"]):
        yield f"No video or image of split {first} has a caption, so stage 2 cannot be trained. Caption some of them."
    for split in held_out:
        if split != "validation" and len(clips[split]) and not captioned & set(clips[split]):
            yield (
                f"No video of split {split} has a caption, so no search is measured on it. Caption some of its videos, or take "
                "it out of evaluation.retrieval_sets."
            )


def _on_tables(listing: Listing, tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    for name, read in listing.tables.items():
        if len(read.rows) and tables[name].empty:
            yield f"None of the {len(read.rows)} rows of table raw_{name} is accepted. The rejects say why; compare the paths."


def _on_texts(tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    length = tables["captions"]["caption"].str.len()
    if (length > LONG_CAPTION).any():
        yield (
            f"{int((length > LONG_CAPTION).sum())} captions are longer than {LONG_CAPTION} characters, the longest of "
            f"{int(length.max())}: only the first words are read. Look whether a quote is missing in the table."
        )
    for task, labels in tables["labels"].groupby("task")["label"]:
        if labels.map(lambda label: bool(_PROMOTED.fullmatch(label))).all():
            yield (
                f"All labels of task {task} end in .0, as a program writes whole numbers once a cell is empty. They are kept "
                "as text, as they stand; write them without .0 if they should equal others without."
            )


def _on_near_duplicates(near_duplicates: dict[str, Any]) -> Iterator[str]:
    if near_duplicates["across_splits"]:
        yield (
            f"{near_duplicates['across_splits']} groups of files look the same and are in several splits, so a model is tested "
            "on what it was trained on. Look at them in near_duplicates of the ingestion report, and see "
            "ingestion.on_near_duplicates_across_splits."
        )
