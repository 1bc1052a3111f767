"""What the next stages will miss: told where the corpus is first counted, not where a training ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.summary import LONG_CAPTION, Summary

# Accepted videos of the first split below which the sizes of conf/base do not fit: its batches have 64 clips.
FEW_CLIPS = 64


def warnings(
    found: Summary, rows_in: Mapping[str, int], near_duplicates: Mapping[str, Any], params: IngestionParams
) -> list[str]:
    """Return a sentence for each thing that works, but not as its owner may think, with what to do.

    Args:
        found: what was accepted.
        rows_in: rows of each of the users' tables about media.
        near_duplicates: from ``duplicates.same_pictures``.
        params: splits.
    """
    return [
        *_on_splits(found, params),
        *_on_tables(found, rows_in),
        *_on_texts(found),
        *_on_near_duplicates(near_duplicates),
    ]


def _on_splits(found: Summary, params: IngestionParams) -> Iterator[str]:
    first, *held_out = params.splits
    videos = {split: found.splits[split].videos for split in params.splits}
    if videos[first] < FEW_CLIPS:
        yield (
            f"Split {first} has {videos[first]} videos, fewer than a batch of the standard parameters ({FEW_CLIPS}): each "
            "step trains on all of them. Add videos, or lower batch_size of the stages."
        )
    for split in held_out:
        if not videos[split]:
            effect = "no setting can be chosen on it" if split == "validation" else "nothing is measured on it"
            yield (
                f"Split {split} has no video, so {effect}. Move videos to it in the table of videos, or take it out of "
                "ingestion.splits."
            )
    if not found.rows["captions"]:
        yield "No video has a caption, so stage 2 cannot be trained and nothing searched by text. Give a table of captions."
        return
    if not found.splits[first].captions:
        yield f"No video or image of split {first} has a caption, so stage 2 cannot be trained. Caption some of them."
    for split in held_out:
        if split != "validation" and videos[split] and not found.splits[split].video_captions:
            yield (
                f"No video of split {split} has a caption, so no search is measured on it. Caption some of its videos, or take "
                "it out of evaluation.retrieval_sets."
            )


def _on_tables(found: Summary, rows_in: Mapping[str, int]) -> Iterator[str]:
    for name, rows in rows_in.items():
        if rows and not found.rows[name]:
            yield f"None of the {rows} rows of table raw_{name} is accepted. The rejects say why; compare the paths."


def _on_texts(found: Summary) -> Iterator[str]:
    if found.long_captions:
        yield (
            f"{found.long_captions} captions are longer than {LONG_CAPTION} characters, the longest of "
            f"{found.longest_caption}: only the first words are read. Look whether a quote is missing in the table."
        )
    for task in found.promoted_tasks:
        yield (
            f"All labels of task {task} end in .0, as a program writes whole numbers once a cell is empty. They are kept "
            "as text, as they stand; write them without .0 if they should equal others without."
        )


def _on_near_duplicates(near_duplicates: Mapping[str, Any]) -> Iterator[str]:
    if near_duplicates["across_splits"]:
        yield (
            f"{near_duplicates['across_splits']} groups of files look the same and are in several splits, so a model is tested "
            "on what it was trained on. Look at them in near_duplicates of the ingestion report, and see "
            "ingestion.on_near_duplicates_across_splits."
        )
