"""The user's table of videos, read: which rows are worth a look at their file, and which are wrong already.

Shapes: R rows of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.ingestion.duplicates import listed_twice
from umt_pipeline.pipelines.ingestion.media_paths import MediaFiles, PathNames, folded
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.ingestion.rows import (
    MAX_LISTED,
    Problem,
    Refused,
    Reject,
    Rejects,
    RejectsWriter,
    blank_cells,
    check_bad_rows,
    first_reasons,
    found_in,
    named,
)
from umt_pipeline.pipelines.ingestion.tables import normal_paths
from umt_pipeline.schemas import NOTHING_LOST, Column, RowReason, select_columns
from umt_pipeline.schemas.mapping import name_column
from umt_pipeline.schemas.models import KNOWN_MEDIA, MEDIA
from umt_pipeline.schemas.texts import shown
from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.tables.keys import hash_rows, repeated
from umt_pipeline.tables.spill import Spill, SpilledRows


@dataclass(frozen=True)
class ListedVideos:
    """The table of videos and images.

    Attributes:
        rows: all of its rows: ``video``, the path as the file is called; ``written``, the path as it is in the table;
            ``split``, ``corpus``; if the table has them, ``media`` and ``video_id``.
        rejects: those refused before any file was opened.
        open_R: bool, the others.
        whole_R: bool, rows whose file is called by its whole path where the table has no ``video_id``.
        first_of: by row, the first row that names the same file, where that is another one.
        corpora: rows of each corpus.
        ignored: the user's columns that were not used.
    """

    rows: SpilledRows
    rejects: Rejects
    open_R: np.ndarray
    whole_R: np.ndarray
    first_of: Mapping[int, int]
    corpora: Mapping[str, int]
    ignored: list[str]

    def paths(self) -> Iterator[str]:
        """Yield the paths of the files that are to be opened."""
        for block in self.rows.blocks("video"):
            yield from block["video"][self.open_R[block.index]]

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Yield the rows whose files are to be opened, each with ``video_id``; at least one block."""
        columns = [name for name in self.rows.columns if name != "written"]
        for block in self.rows.blocks(*columns):
            block = block[self.open_R[block.index]]
            if "video_id" not in block:
                ids = _ids(block["video"], self.whole_R[block.index])
                block = block.assign(video_id=pd.Series(ids, block.index, dtype=str))
            yield block


def read_videos(raw: Blocks, media: Path, params: IngestionParams, spill: Spill) -> tuple[ListedVideos, PathNames]:
    """Read the table of videos and images.

    Args:
        raw: the user's table.
        media: folder of the files, to find out what a path is called there.
        params: columns, allowed splits, what to do with bad rows and with a file in two splits.
        spill: where the rows are kept.

    Returns:
        The table; what its paths are called in other tables.

    Raises:
        TableError: there are no rows, a column is missing, too few rows can be used, or a row is wrong and may not be.
    """
    read = _Reading(media, params, spill)
    for block in raw:
        read.add(block)
    if not read.count:
        raise TableError("Table raw_videos: expected at least one row, found none.")
    rows, bad_rows = read.rows.finish(), read.rejects.finish()
    open_R = np.concatenate(read.open)
    video_of = partial(_texts, rows, "video")

    twins = _asked(repeated(np.concatenate(read.folded)), video_of)
    refused = {row: told for row, told in read.files.missing_twins(twins).items() if open_R[row]}
    open_R[list(refused)] = False

    refused |= _listed_twice(rows, _repeated(read.videos, open_R), params)
    open_R[list(refused)] = False
    whole_R = np.zeros(len(rows), bool)
    if "video_id" in rows.columns:
        again = _same_ids(rows.take(_repeated(read.names, open_R), "video_id"), params.mapping("videos"))
        refused |= again
        open_R[list(again)] = False
    else:
        (open_rows,) = np.nonzero(open_R)
        paths_at = lambda places: video_of(open_rows[places])  # noqa: E731
        whole_R[open_rows] = called_by_whole_path(np.concatenate(read.names)[open_rows], paths_at)

    rejects = Rejects((bad_rows,)) + named(refused, _asked(np.array(sorted(refused), np.int64), video_of))
    check_bad_rows("videos", rejects, params.on_bad_row)
    check_share(rejects, len(rows), params)
    read.paths.end(video_of)
    first_of = _first_rows(_asked(repeated(np.concatenate(read.videos)), video_of))
    return ListedVideos(rows, rejects, open_R, whole_R, first_of, read.corpora, read.ignored), read.paths


class _Reading:
    """The first pass over the table: what each row says by itself, and hashes of what rows may have in common."""

    def __init__(self, media: Path, params: IngestionParams, spill: Spill) -> None:
        self._mapping, self._splits = params.mapping("videos"), params.splits
        self.files, self.paths = MediaFiles(media), PathNames()
        self.rows, self.rejects = spill.writer(), RejectsWriter(spill)
        self.corpora: Counter[str] = Counter()
        self.ignored: list[str] = []
        self.open: list[np.ndarray] = []
        self.videos: list[np.ndarray] = []
        self.folded: list[np.ndarray] = []
        self.names: list[np.ndarray] = []
        self.count = 0

    def add(self, block: pd.DataFrame) -> None:
        selected = select_columns(block, self._mapping, "raw_videos", "ingestion.columns.videos", self.count)
        rows, self.ignored = selected.table, selected.ignored
        written = normal_paths(rows["video"])
        refused = first_reasons(rows, selected.bad, _problems(rows, self._mapping, self._splits))
        paths, unclear = self.files.match(written.tolist(), self.count)
        rows["video"] = pd.Series(paths, index=rows.index, dtype=str)
        refused = {**unclear, **refused}
        self.rows.add(rows.assign(written=written))
        self.rejects.add(named(refused, dict(zip(rows.index, paths, strict=True)) if refused else {}))
        self.paths.add(written.tolist(), paths)
        self.corpora.update(Counter(rows["corpus"]))
        self.open.append(~rows.index.isin(list(refused)))
        self.videos.append(hash_rows(rows, "video"))
        self.folded.append(hash_rows(pd.DataFrame({"path": pd.Series(map(folded, paths), dtype=str)}), "path"))
        names = rows["video_id"] if "video_id" in rows else pd.Series(map(stem, paths), dtype=str)
        self.names.append(hash_rows(names.to_frame("name"), "name"))
        self.count += len(rows)


def _texts(rows: SpilledRows, column: str, places: np.ndarray) -> list[str]:
    return rows.take(places, column)[column].tolist()


def _asked(rows: np.ndarray, video_of: Callable[[np.ndarray], list[str]]) -> dict[int, str]:
    return dict(zip(rows.tolist(), video_of(rows), strict=True))


def _first_rows(paths: Mapping[int, str]) -> dict[int, int]:
    firsts: dict[str, int] = {}
    return {row: first for row, path in paths.items() if (first := firsts.setdefault(path, row)) != row}


def _repeated(hashes: list[np.ndarray], open_R: np.ndarray) -> np.ndarray:
    """Return those open rows that may be equal to another open one."""
    (rows,) = np.nonzero(open_R)
    return rows[repeated(np.concatenate(hashes)[rows])]


def _listed_twice(rows: SpilledRows, repeated_rows: np.ndarray, params: IngestionParams) -> Refused:
    found = rows.take(repeated_rows, "video", "split", "written")
    return listed_twice(found[["video", "split"]], found["written"], params)


def check_share(rejects: Rejects, listed: int, params: IngestionParams) -> None:
    """End a run that would leave too much out.

    Args:
        rejects: of the table of videos.
        listed: all of its rows.
        params: the share that may be lost.

    Raises:
        TableError: more is lost than may be, or all; a file that another row has is not lost.
    """
    counts: Counter[str] = Counter()
    first: list[Reject] = []
    for reject in rejects:
        if reject.reason not in NOTHING_LOST:
            counts[reject.reason] += 1
            first += [reject] if len(first) < MAX_LISTED else []
    share = counts.total() / listed
    if share <= params.max_rejected_share and len(rejects) < listed:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()))
    shown_first = "".join(f"\n  row {one.row}, {one.video}: {one.reason}: {one.detail}" for one in first)
    raise TableError(
        f"Table raw_videos: {counts.total()} of {listed} videos ({share:.0%}) cannot be used; expected at most "
        f"{params.max_rejected_share:.0%} (ingestion.max_rejected_share) and one usable video. By reason: {reasons}. "
        f"First:{shown_first}\nCheck that the paths in the table fit the media folder, repair the files, or raise the limit."
    )


def stem(path: str) -> str:
    """Return a path without the suffix of its file."""
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return path[: dot - len(name)] if 0 < dot < len(name) - 1 else path


def video_ids(paths: Sequence[str]) -> list[str]:
    """Name videos by their paths without suffix; where two would be called the same, by their whole paths.

    Args:
        paths: relative paths with ``/``, all different.

    Returns:
        One name per path, all different.
    """
    hashes = hash_rows(pd.DataFrame({"stem": pd.Series(map(stem, paths), dtype=str)}), "stem")
    whole = called_by_whole_path(hashes, lambda rows: [paths[row] for row in rows.tolist()])
    return _ids(paths, whole)


def _ids(paths: Iterable[str], whole_R: np.ndarray) -> list[str]:
    return [path if whole else stem(path) for path, whole in zip(paths, whole_R.tolist(), strict=True)]


def called_by_whole_path(hash_R: np.ndarray, paths_at: Callable[[np.ndarray], Sequence[str]]) -> np.ndarray:
    """Tell which videos are called by their whole paths, as without suffix another one would be called the same.

    Args:
        hash_R: hashes of the paths without suffix.
        paths_at: returns the paths, all different, of some rows.

    Returns:
        bool [R].
    """
    whole_R = np.zeros(len(hash_R), bool)
    hash_R = hash_R.copy()
    while True:
        # More than one pass: the whole path "a.mp4" may be another file's path without suffix ("a.mp4.avi").
        asked = repeated(hash_R)
        paths = paths_at(asked)
        ids = _ids(paths, whole_R[asked])
        counts = Counter(ids)
        new = [place for place, name in enumerate(ids) if counts[name] > 1 and not whole_R[asked[place]]]
        if not new:
            return whole_R
        whole_R[asked[new]] = True
        changed = pd.DataFrame({"path": pd.Series([paths[place] for place in new], dtype=str)})
        hash_R[asked[new]] = hash_rows(changed, "path")


def _problems(rows: pd.DataFrame, mapping: Mapping[str, Column], splits: Sequence[str]) -> Iterator[Problem]:
    yield from blank_cells(rows, mapping, "video", "corpus")
    expected = f"{name_column('split', mapping)}: expected one of {', '.join(splits)}"
    yield ~rows["split"].isin(splits), RowReason.UNKNOWN_SPLIT, partial(found_in, "split", expected)
    if "media" in rows:
        expected = f"{name_column('media', mapping)}: expected {KNOWN_MEDIA}"
        yield ~rows["media"].isin(MEDIA), RowReason.UNKNOWN_MEDIA, partial(found_in, "media", expected)
    if "video_id" in rows:
        yield from blank_cells(rows, mapping, "video_id")


def _same_ids(rows: pd.DataFrame, mapping: Mapping[str, Column]) -> Refused:
    """Refuse rows that call another file what an earlier row calls its own."""
    if "video_id" not in rows:
        return {}
    expected = f"{name_column('video_id', mapping)}: expected a name that no earlier row has"
    again = rows.loc[rows["video_id"].duplicated(), "video_id"]
    found = zip(again.index.tolist(), again.tolist(), strict=True)
    return {row: (RowReason.DUPLICATE_ID, f"{expected}, found {shown(name)}") for row, name in found}
