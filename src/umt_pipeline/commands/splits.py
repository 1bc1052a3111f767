"""Which split a video is in: by the hash of its path, or by a table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from umt_pipeline.commands.corpus import TABLE_SPLITS, as_files, local_table, table_with, written_paths
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.tables.files import SUFFIXES
from umt_pipeline.tables.staging import is_address
from umt_pipeline.video.media import is_image

SPLITS = ("train", "validation", "test")
_TABLE = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES))}))(?::(.+))?", re.IGNORECASE)

Assign = Callable[[Sequence[str]], pd.DataFrame]
"""From paths to the table ``video, split``; a path of no split is not in it."""


def read_splits(text: str) -> tuple[Assign, str]:
    """Return how new files are assigned, and what a corpus' record says of it.

    Args:
        text: three shares, such as ``80,10,10``; or ``FILE`` or ``FILE:COLUMN``, a table with columns video and split, or one
            of this name; or ``table``: no new file has a split.

    Raises:
        ConfigError: it is something else.
        TableError: the table lacks a column, or says of a video two splits or one that there is not.
    """
    if text == TABLE_SPLITS:
        return lambda videos: pd.DataFrame({"video": [], "split": []}, dtype=str), TABLE_SPLITS
    if named := _TABLE.fullmatch(text):
        path = Path(named[1])
        listed = _listed_splits(path, named[2] or "split")
        return lambda videos: _splits_of(videos, listed, path), TABLE_SPLITS
    shares = parse_shares(text)
    return lambda videos: assign_splits(videos, shares), text


def local_splits(project: Path, text: str) -> str:
    """Return what :func:`read_splits` takes; a table that is named by an address is brought here.

    Raises:
        ConfigError: it cannot be brought here.
    """
    named = _TABLE.fullmatch(text)
    if named is None or not is_address(text):
        return text
    return f"{local_table(project, named[1])}:{named[2] or 'split'}"


def parse_shares(text: str) -> tuple[float, float, float]:
    """Return three numbers that sum to 100.

    Raises:
        ConfigError: ``text`` is something else.
    """
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--splits: expected three numbers such as 80,10,10, or a table such as splits.csv:split; found '{text}'."
        ) from None
    if min(train, validation, test) < 0 or abs(train + validation + test - 100) > 1e-6:
        raise ConfigError(f"--splits: expected numbers from 0 up that sum to 100; found '{text}'.")
    return train, validation, test


def assign_splits(videos: Sequence[str], shares: tuple[float, float, float]) -> pd.DataFrame:
    """Return the table ``video, split``.

    A video's split depends on the hash of its path alone, so it stays where it is when others come or go. Images are trained
    on and never measured on: all are of split train.
    """
    train, validation, _ = shares
    found = {}
    for video in videos:
        point = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") / 2**64 * 100
        by_hash = SPLITS[0] if point < train else SPLITS[1] if point < train + validation else SPLITS[2]
        found[video] = SPLITS[0] if is_image(Path(video)) else by_hash
    return _frame(found)


def _frame(splits: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"video": list(splits), "split": list(splits.values())}, dtype=str)


def _listed_splits(path: Path, column: str) -> pd.DataFrame:
    table = table_with(path, "video", column)
    # A table of captions or labels has several rows of a video, which agree.
    rows = pd.DataFrame({"video": written_paths(table["video"]), "split": table[column]})
    listed = rows.drop_duplicates()
    if len(wrong := listed[~listed["split"].isin(SPLITS)]):
        raise TableError(
            f"{path}, column '{column}': expected one of {', '.join(SPLITS)}; found {wrong['split'].iloc[0]!r} of video "
            f"'{wrong['video'].iloc[0]}'. Rename the split in the table."
        )
    return _once_each(listed, path)


def _splits_of(videos: Sequence[str], listed: pd.DataFrame, path: Path) -> pd.DataFrame:
    # Paths that differ may mean one file: in two Unicode forms.
    rows = _once_each(listed.assign(video=as_files(listed["video"], videos)).drop_duplicates(), path)
    known = dict(zip(rows["video"], rows["split"], strict=True))
    return _frame({video: known[video] for video in videos if video in known})


def _once_each(listed: pd.DataFrame, path: Path) -> pd.DataFrame:
    if len(twice := listed[listed["video"].duplicated()]):
        raise TableError(f"{path}: expected one split per video, found several of '{twice['video'].iloc[0]}'. Keep one.")
    return listed
