"""What was accepted, counted block by block.

Shapes: F files that can be used, R rows of a block.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from umt_pipeline.pipelines.ingestion.accepting import PLACE, Accepted, AcceptedVideos
from umt_pipeline.pipelines.ingestion.tables import KINDS

# A caption is cut to some dozens of words; beyond so many characters it is no caption but a document, or a broken table.
LONG_CAPTION = 10_000

_PROMOTED = re.compile(r"-?\d+\.0")


@dataclass
class Part:
    """Files of a split or corpus, their captions, and those of videos; seconds of the videos."""

    videos: int = 0
    images: int = 0
    captions: int = 0
    video_captions: int = 0
    seconds: float = 0.0

    def told(self) -> dict[str, float]:
        """Return what the report says of it."""
        hours = round(self.seconds / 3600, 6)
        return {"videos": self.videos, "images": self.images, "captions": self.captions, "hours": hours}


@dataclass
class Summary:
    """What was accepted.

    Attributes:
        splits: by their names.
        corpora: by their names.
        rows: of the tables about media.
        codecs: files of each.
        by_split: of those tables with counts of their own, by split.
        long_captions: captions of more than :data:`LONG_CAPTION` characters.
        longest_caption: in characters.
        promoted_tasks: tasks whose labels all end in ``.0``.
        seconds: of all videos.
    """

    splits: dict[str, Part]
    corpora: dict[str, Part]
    rows: dict[str, int]
    codecs: Counter[str] = field(default_factory=Counter)
    by_split: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    long_captions: int = 0
    longest_caption: int = 0
    promoted_tasks: list[str] = field(default_factory=list)
    seconds: float = 0.0


def summarise(videos: AcceptedVideos, tables: Mapping[str, Accepted], splits: Sequence[str], corpora: Sequence[str]) -> Summary:
    """Count what was accepted.

    Args:
        videos: what became of the videos.
        tables: what became of the other tables, by name.
        splits: all there may be, in order.
        corpora: all there are, in order.
    """
    rows = {name: len(table) for name, table in tables.items()}
    found = Summary({split: Part() for split in splits}, {corpus: Part() for corpus in corpora}, rows)
    split_F, corpus_F, still_F = _count_files(found, videos)
    captions_F = np.zeros(len(videos.rows), np.int32)
    for block in tables["captions"].blocks("caption", PLACE):
        length_R = block["caption"].str.len()
        found.long_captions += int((length_R > LONG_CAPTION).sum())
        found.longest_caption = max(found.longest_caption, int(length_R.max()) if len(block) else 0)
        np.add.at(captions_F, block[PLACE].to_numpy(), 1)
    for number, part in enumerate(found.splits.values()):
        part.captions = int(captions_F[split_F == number].sum())
        part.video_captions = int(captions_F[(split_F == number) & ~still_F].sum())
    for number, part in enumerate(found.corpora.values()):
        part.captions = int(captions_F[corpus_F == number].sum())
    found.promoted_tasks = _promoted(tables["labels"])
    for kind in KINDS:
        of_split = {split: kind.counts(_of_split(tables[kind.name], split_F, number)) for number, split in enumerate(splits)}
        if found.rows[kind.name] and any(of_split.values()):
            found.by_split[kind.name] = of_split
    return found


def _count_files(found: Summary, videos: AcceptedVideos) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the accepted files; return the numbers of their splits and corpora, -1 for others, and whether they are images."""
    split_F, corpus_F = (np.full(len(videos.rows), -1, np.int16) for _ in range(2))
    still_F = np.zeros(len(videos.rows), bool)
    for places, rows in videos.placed("split", "corpus", "media", "codec", "duration_s"):
        found.codecs.update(Counter(rows["codec"]))
        found.seconds += float(rows["duration_s"].sum())
        still_F[places] = rows["media"] != "video"
        for numbers_F, column, parts in ((split_F, "split", found.splits), (corpus_F, "corpus", found.corpora)):
            for number, (name, part) in enumerate(parts.items()):
                own = rows[column] == name
                numbers_F[places[own]] = number
                part.images += int(still_F[places[own]].sum())
                part.videos += int((~still_F[places[own]]).sum())
                part.seconds += float(rows.loc[own, "duration_s"].sum())
    return split_F, corpus_F, still_F


def _of_split(table: Accepted, split_F: np.ndarray, number: int) -> Iterator[pd.DataFrame]:
    for block in table.blocks(*table.columns, PLACE):
        yield block[split_F[block[PLACE]] == number]


def _promoted(labels: Accepted) -> list[str]:
    """Return the tasks whose labels all look like whole numbers that became fractions."""
    promoted: dict[str, bool] = {}
    for block in labels.blocks("task", "label"):
        for task, own in block.groupby("task")["label"]:
            promoted[str(task)] = promoted.get(str(task), True) and all(map(_PROMOTED.fullmatch, own.unique()))
    return sorted(task for task, all_are in promoted.items() if all_are)
