"""Generations of an index, written beside the one that serves, and put in its place when they are whole.

Shapes: n vectors of a segment, E embedding width.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.files import link_or_copy, sha256_file, staged_folder, write_json
from umt_pipeline.serving.index.layout import (
    DELETED_FILE,
    FILE_COLUMNS,
    FILES_FILE,
    FORMAT,
    GENERATIONS,
    LEFT_OUT_FILE,
    MANIFEST_FILE,
    Manifest,
    ModelFacts,
    SegmentFacts,
    generation_folder,
    write_pointer,
)
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.segments import Segment, write_segment
from umt_pipeline.serving.shelf import Vectors
from umt_pipeline.serving.windows import WindowRule

logger = logging.getLogger(__name__)

# Each segment is searched by itself, and each costs a file to open and a list to merge.
MOST_SEGMENTS = 8
# Of a segment's rows: what is deleted is still stored, and still compared.
MOST_DELETED = 0.2
# The one that serves, and the one before it: somebody may be about to open that.
KEPT_GENERATIONS = 2


@dataclass(frozen=True)
class Content:
    """What a generation is to hold.

    Args:
        identity: of what the vectors depend on besides the files.
        model: whose vectors they are.
        rule: by which files were cut.
        files: columns file_id, path, media, label, split, date; a row for each video.
        left_out: columns path, reason, detail; a row for each file that is not in it.
        facts: what else is to be known, as JSON: seconds.
    """

    identity: str
    model: ModelFacts
    rule: WindowRule
    files: pd.DataFrame
    left_out: pd.DataFrame
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """Which segments of the generation before stay, which rows of them are deleted, and which are written again.

    Args:
        kept: their numbers.
        deleted: of each segment before, rows that are not wanted any more.
        merged: numbers of the segments whose rows go into the new one.
    """

    kept: tuple[int, ...]
    deleted: tuple[np.ndarray, ...]
    merged: tuple[int, ...]


def write_generation(folder: Path, old: Index | None, content: Content, added: Vectors) -> Manifest:
    """Write the next generation and let it be the one that is served.

    Only files that the generation before does not have are taken from ``added``; its other vectors stay in the files that
    they are in, under a second name (a hard link), and what went is listed as deleted. Where segments or deleted rows have
    become many, they are written again, into one.

    Args:
        folder: of the index; the caller is the only one who writes there.
        old: the generation that is served, if any. Its vectors are used if its identity is the same.
        content: what the new one is to hold.
        added: where vectors are had from that ``old`` does not have.

    Returns:
        What the new generation says of itself.

    Raises:
        IndexingError: what comes out is not what went in, to the last window; the old generation serves on.
    """
    usable = old if old is not None and old.identity == content.identity else None
    wanted = set(content.files["file_id"])
    if len(wanted) != len(content.files):
        raise IndexingError(f"expected each file once, found {len(content.files)} rows of {len(wanted)} files")
    segments = usable.segments if usable is not None else ()
    dead = usable.deleted() if usable is not None else ()
    new = _new(segments, dead, wanted)
    plan = _plan(segments, dead, wanted, sum(map(added.count, new)))
    generation = _last(folder) + 1
    target = generation_folder(folder, generation)
    with staged_folder(target) as staged:
        facts = [_link(segments[number], staged) for number in plan.kept]
        pieces = [_rows_of(segments[number], plan.deleted[number]) for number in plan.merged]
        fresh = write_segment(staged, content.model.dim, pieces, new, added)
        facts += [fresh] if fresh is not None else []
        starts = np.cumsum([0, *(segment.rows for segment in facts)])
        deleted = [plan.deleted[number] + start for number, start in zip(plan.kept, starts, strict=False)]
        np.save(staged / DELETED_FILE, np.concatenate([np.empty(0, dtype=np.int64), *deleted]))
        files = _counted(staged, facts, np.load(staged / DELETED_FILE), content.files)
        files.to_parquet(staged / FILES_FILE, index=False)
        content.left_out.to_parquet(staged / LEFT_OUT_FILE, index=False)
        counts = _counts(content, files, usable, int(starts[-1]) - sum(map(len, deleted)), len(new))
        manifest = Manifest(
            format=FORMAT,
            generation=generation,
            identity=content.identity,
            model=content.model,
            rule=content.rule,
            segments=tuple(facts),
            sha256=_hashes(staged, usable),
            facts={**content.facts, **counts, "bytes": sum(path.stat().st_size for path in staged.iterdir())},
        )
        write_json(staged / MANIFEST_FILE, manifest.model_dump(mode="json"))
        _to_disk(staged)
    write_pointer(folder, generation)
    _remove_old(folder, generation)
    return manifest


def _plan(segments: Sequence[Segment], dead: Sequence[np.ndarray], wanted: Collection[str], rows: int) -> _Plan:
    """Say what becomes of each segment, when so many rows are added."""
    deleted = []
    for segment, before in zip(segments, dead, strict=True):
        gone = ~segment.table["file_id"].isin(wanted).to_numpy()
        gone[before] = True
        deleted.append(np.flatnonzero(gone))
    live = [segment.facts.rows - len(rows_d) for segment, rows_d in zip(segments, deleted, strict=True)]
    numbers = [number for number in range(len(segments)) if live[number]]
    merged = {number for number in numbers if len(deleted[number]) > MOST_DELETED * segments[number].facts.rows}
    kept = sorted(set(numbers) - merged, key=lambda number: live[number])
    taken = rows + sum(live[number] for number in merged)
    if len(kept) + (taken > 0) > MOST_SEGMENTS:
        # The smallest first, and those that are not larger than all before: each vector is written again few times.
        while kept and (len(kept) >= MOST_SEGMENTS // 2 or live[kept[0]] <= taken):
            merged.add(kept[0])
            taken += live[kept.pop(0)]
    return _Plan(tuple(sorted(kept)), tuple(deleted), tuple(sorted(merged)))


def _new(segments: Sequence[Segment], dead: Sequence[np.ndarray], wanted: Collection[str]) -> list[str]:
    """Return the files that no segment has, in order."""
    known: set[str] = set()
    for segment, before in zip(segments, dead, strict=True):
        known.update(np.delete(segment.table["file_id"].to_numpy(dtype=object), before))
    return sorted(set(wanted) - known)


def _link(segment: Segment, staged: Path) -> SegmentFacts:
    for path in segment.paths():
        link_or_copy(path, staged / path.name)
    return segment.facts


def _rows_of(segment: Segment, deleted: np.ndarray) -> tuple[Segment, np.ndarray]:
    return segment, np.delete(np.arange(segment.facts.rows), deleted)


def _counted(staged: Path, facts: Sequence[SegmentFacts], deleted: np.ndarray, files: pd.DataFrame) -> pd.DataFrame:
    """Return the files with the seconds that their windows cover, and how many there are of each.

    Raises:
        IndexingError: a window is of no file, or a file has no window or two at one place.
    """
    tables = [pd.read_parquet(staged / segment.table_file) for segment in facts]
    empty = pd.DataFrame({"file_id": pd.Series(dtype=str), "start_s": [], "end_s": []})
    windows = pd.concat([empty, *tables], ignore_index=True)
    windows = windows.iloc[np.delete(np.arange(len(windows)), deleted)]
    n_windows, ends = windows["file_id"].value_counts(), windows.groupby("file_id")["end_s"].max()
    if strangers := set(n_windows.index) - set(files["file_id"]):
        raise IndexingError(f"expected windows of the files of the index, found some of {len(strangers)} others")
    if twice := int(windows.duplicated(["file_id", "start_s"]).sum()):
        raise IndexingError(f"expected each window once, found {twice} twice")
    counted = files.assign(
        duration_s=files["file_id"].map(ends).astype("float64"),
        n_windows=files["file_id"].map(n_windows).fillna(0).astype("int64"),
    )[list(FILE_COLUMNS)]
    if len(without := counted.loc[counted["n_windows"] == 0, "path"]):
        raise IndexingError(f"expected at least one window of each file, found none of {', '.join(without[:3])}")
    return counted


def _counts(content: Content, files: pd.DataFrame, usable: Index | None, windows: int, new: int) -> dict[str, Any]:
    """Return the numbers of files and windows.

    Raises:
        IndexingError: they do not add up.
    """
    if windows != (out := int(files["n_windows"].sum())):
        raise IndexingError(f"expected {windows} windows, as there are vectors, found {out} windows of files")
    copies = int((content.left_out["reason"] == "same_content").sum())
    failed = len(content.left_out) - copies
    found = content.facts.get("found", len(files) + len(content.left_out))
    if found != len(files) + copies + failed:
        raise IndexingError(
            f"expected {found} files, as were found in the folder, found {len(files)} with windows, {copies} copies of those, "
            f"and {failed} that cannot be read"
        )
    before = set(usable.files["file_id"]) if usable is not None else set()
    counts = {"found": found, "indexed": len(files), "copies": copies, "failed": failed, "added": new}
    return {"files": {**counts, "removed": len(before - set(files["file_id"]))}, "windows": windows}


def _hashes(staged: Path, usable: Index | None) -> dict[str, str]:
    known = usable.sha256 if usable is not None else {}
    names = sorted(path.name for path in staged.iterdir())
    # Names of segments are hashes of their content, and files of one name are one file.
    return {
        name: known[name] if name in known and name.startswith("segment-") else sha256_file(staged / name) for name in names
    }


def _to_disk(staged: Path) -> None:
    """Wait until the disk has it all: the old generation is removed soon."""
    for path in staged.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _last(folder: Path) -> int:
    return max((int(path.name) for path in (folder / GENERATIONS).glob("[0-9]*")), default=0)


def _remove_old(folder: Path, generation: int) -> None:
    numbers = sorted(int(path.name) for path in (folder / GENERATIONS).glob("[0-9]*"))
    for number in [number for number in numbers if number <= generation][:-KEPT_GENERATIONS]:
        shutil.rmtree(generation_folder(folder, number), ignore_errors=True)
