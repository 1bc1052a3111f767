"""What an ingestion's page asks of every accepted file, as a few bytes for each.

Shapes: F accepted files, R rows of a block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.tables.keys import KeyIndex, digests, hash_rows, repeated

# No rule asks for more frames or pixels.
_MOST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Facts:
    """Of the accepted files, in their order.

    Attributes:
        ids: finds files by ``video_id``.
        split_F: int8, number of the split.
        still_F: bool, whether it is an image.
        frames_F: int32.
        sides_F: int32, pixels of the shorter side.
        seconds_F: float64.
        again_F: bool, whether an earlier file has the same bytes.
        rows_of: by table, int32 [F], rows about each.
    """

    ids: KeyIndex
    split_F: np.ndarray
    still_F: np.ndarray
    frames_F: np.ndarray
    sides_F: np.ndarray
    seconds_F: np.ndarray
    again_F: np.ndarray
    rows_of: Mapping[str, np.ndarray]

    def split_of(self, rows: pd.DataFrame) -> np.ndarray:
        """Return the number of the split of each row's video, int8 [R]."""
        return self.split_F[self.ids.find(digests(rows["video_id"]))]


class KnownFile(NamedTuple):
    """An accepted file: its place among them, and its split."""

    place: int
    split: str


def read_facts(videos: Blocks, tables: Mapping[str, Blocks], splits: Sequence[str]) -> Facts:
    """Read what is asked of every file.

    Args:
        videos: accepted files.
        tables: accepted rows about them.
        splits: all there may be.
    """
    ids: list[np.ndarray] = []
    split, still, frames, sides, seconds, content = [], [], [], [], [], []
    for block in videos.only("video_id", "split", "media", "num_frames", "width", "height", "duration_s", "sha256"):
        ids.append(digests(block["video_id"]))
        split.append(block["split"].map({name: number for number, name in enumerate(splits)}).to_numpy(np.int8))
        still.append((block["media"] != "video").to_numpy(bool))
        frames.append(block["num_frames"].clip(upper=_MOST).to_numpy(np.int32))
        sides.append(block[["width", "height"]].min(axis=1).clip(upper=_MOST).to_numpy(np.int32))
        seconds.append(block["duration_s"].to_numpy(np.float64))
        content.append(hash_rows(block, "sha256"))
    index = KeyIndex(ids)
    del ids
    again_F = _again(np.concatenate(content))
    rows_of = {name: np.zeros(len(index), np.int32) for name in tables}
    for name, table in tables.items():
        for block in table.only("video_id"):
            np.add.at(rows_of[name], index.find(digests(block["video_id"])), 1)
    return Facts(
        ids=index,
        split_F=np.concatenate(split),
        still_F=np.concatenate(still),
        frames_F=np.concatenate(frames),
        sides_F=np.concatenate(sides),
        seconds_F=np.concatenate(seconds),
        again_F=again_F,
        rows_of=rows_of,
    )


def find_files(videos: Blocks, paths: Iterable[str]) -> dict[str, KnownFile]:
    """Return the accepted ones of some files, by their paths."""
    known: dict[str, KnownFile] = {}
    wanted, start = set(paths), 0
    for block in videos.only("path", "split") if wanted else ():
        (here,) = np.nonzero(block["path"].isin(wanted).to_numpy(bool))
        found = block.iloc[here]
        places = (start + here).tolist()
        known |= {path: KnownFile(*told) for path, *told in zip(found["path"], places, found["split"], strict=True)}
        start += len(block)
    return known


def count_rejects(rejects: Blocks) -> dict[tuple[str, str], int]:
    """Return how many rows of which table have which reason."""
    counts: Counter[tuple[str, str]] = Counter()
    for block in rejects.only("table", "reason"):
        counts.update(zip(block["table"], block["reason"], strict=True))
    return dict(sorted(counts.items()))


def _again(content_F: np.ndarray) -> np.ndarray:
    """Return which files have the content of an earlier one, bool [F]."""
    again_F = np.zeros(len(content_F), bool)
    places = repeated(content_F)
    again_F[places] = pd.Series(content_F[places]).duplicated()
    return again_F
