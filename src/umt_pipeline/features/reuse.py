"""A store begins with what earlier ones hold: a record is known by its content and made once.

What a record depends on is two things: :meth:`StoreHeader.record_identity` (teacher, codec, mask, sizes, code, packages) and
its own line of the index (:func:`matching_lines`: the video by its hash, the view as realised, the names that the mask is drawn
from). Of an earlier store with the same identity, finished or interrupted, the shards that hold wanted rows are taken over as
they are, by hard links; only rows that none of them holds are extracted, into shards of their own. What a codec has learnt is
taken over too and from then on fixed, because every record was encoded with it. Where the precision is left to the device, that
of an earlier store is taken over first (:func:`kept_precision`): in another one none of its records would be of use.

Rows of such a shard that are no longer wanted stay in it, dead. Where they, or shards with few rows, become too many, the live
records are copied into new shards. The teacher does not run for that.

Legend: R rows of the store to be made, W those of them that an earlier store holds.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from umt_pipeline.compute.names import Precision
from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import link_or_copy, linked_copy, sha256_file, staged_folder
from umt_pipeline.core.progress import progress
from umt_pipeline.features.index import (
    INDEX_FILE,
    index_table,
    places_of,
    read_index,
    rows_by_shard,
    write_index,
)
from umt_pipeline.features.manifest import (
    LEARNT_FILE,
    MANIFEST_FILE,
    REJECTS_FILE,
    FileEntry,
    StoreHeader,
    StoreManifest,
    read_manifest,
    shard_name,
)
from umt_pipeline.features.matching import matching_lines
from umt_pipeline.features.reading import ArrayFile, RecordReader
from umt_pipeline.features.rejects import rejects_in
from umt_pipeline.features.writer import PLAN_FILE, ShardWriter, files_in, read_plan, rows_in, write_plan

logger = logging.getLogger(__name__)

# Of all records in shards that were taken over, at most this share may be dead.
_MOST_DEAD = 0.3
# So many of these shards may be less than half full.
_MOST_SPARSE = 8
# Records that are copied at once.
_COPIED_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class _Earlier:
    """An earlier store, and where the wanted records lie in it.

    Attributes:
        folder: of it.
        rows_W: rows of the store to be made, int64.
        places_W2: shard and row in the shard of each, int64.
    """

    folder: Path
    rows_W: np.ndarray
    places_W2: np.ndarray


@dataclass(frozen=True, eq=False)
class _Taken:
    """Rows of the store to be made that lie in one shard of an earlier one.

    Attributes:
        shard: its folder.
        rows: which rows, int64.
        shard_rows: where each of them lies in it, int64.
        size: records in it, those that are not wanted included.
    """

    shard: Path
    rows: np.ndarray
    shard_rows: np.ndarray
    size: int

    @property
    def dead(self) -> int:
        """Records in it that are not wanted."""
        return self.size - len(self.rows)


def is_begun(folder: Path) -> bool:
    """Whether a store was begun or finished in a folder."""
    return (folder / PLAN_FILE).is_file() or (folder / MANIFEST_FILE).is_file()


def kept_precision(header: StoreHeader, earlier: Iterable[Path]) -> Precision | None:
    """Return what the teacher ran in for earlier stores whose records could be taken over, but for the precision.

    Args:
        header: what the records of a store to be made have in common; its precision is not looked at.
        earlier: folders of stores, as for :func:`begin_store`, which says which of them cannot be read.

    Returns:
        Of several stores the one that holds most records decides; None: there is none.
    """
    found: list[tuple[int, Precision, Path]] = []
    for folder in filter(is_begun, earlier):
        try:
            manifest = read_manifest(folder) if (folder / MANIFEST_FILE).is_file() else None
            begun = read_plan(folder) if manifest is None else manifest.header()
            asked = header.model_copy(update={"precision": begun.precision})
            if begun.record_identity().agrees_with(asked.record_identity()):
                rows = _rows_there(folder) if manifest is None else manifest.rows
                found.append((rows, begun.precision, folder))
        except (StoreError, OSError, ValueError):
            continue
    if not found:
        return None
    rows, precision, folder = max(found)
    logger.info("precision: %s, that of the %d records in %s: auto stays with it, unmeasured", precision, rows, folder)
    return precision


def begin_store(folder: Path, header: StoreHeader, plan: pa.Table, earlier: Iterable[Path]) -> int:
    """Begin a store with the records of earlier ones, whole or not at all.

    :func:`umt_pipeline.features.runner.extract` goes on from there.

    Args:
        folder: of the store, in which none was begun.
        header: what its records have in common.
        plan: its rows, as for :meth:`umt_pipeline.features.writer.UnfinishedStore.begin`.
        earlier: folders of stores, finished or not, of whatever settings; what is no store is passed over.

    Returns:
        How many of the rows were found. If none was, nothing is written.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    taken = _take(len(plan), _holding(header, plan, earlier))
    if not taken:
        return 0
    copied = _to_copy(taken, header.shard_rows)
    linked = [part for part in taken if part not in copied]
    sources = {row: (part.shard, at) for part in copied for row, at in zip(part.rows.tolist(), part.shard_rows, strict=True)}
    copies = _cut(np.array(sorted(sources), dtype=np.int64), header.shard_rows)
    found = np.concatenate([part.rows for part in taken])
    fresh = _cut(np.setdiff1d(np.arange(len(plan)), found), header.shard_rows)
    places_R2 = np.empty((len(plan), 2), dtype=np.int64)
    held = [(part.rows, part.shard_rows) for part in linked] + [(rows, np.arange(len(rows))) for rows in (*copies, *fresh)]
    for number, (rows, shard_rows) in enumerate(held):
        places_R2[rows, 0], places_R2[rows, 1] = number, shard_rows
    try:
        with staged_folder(folder) as staged:
            shards = staged / "shards"
            shards.mkdir()
            for number, part in enumerate(linked):
                linked_copy(part.shard, shards / shard_name(number))
            for number, rows in enumerate(copies, start=len(linked)):
                _copy(shards / shard_name(number), header, [sources[row] for row in rows.tolist()])
            if header.codec.sampled_tokens:
                link_or_copy(_learnt(taken[0].shard.parents[1]), staged / LEARNT_FILE)
            write_index(staged, index_table(plan, places_R2))
            write_plan(staged, header, len(found))
    except OSError as error:
        raise StoreError(f"feature store {folder}: cannot be begun: {error}. Make room and run again") from error
    if copied:
        logger.info("feature store: %d records copied, to be rid of dead ones and of small shards", len(sources))
    return len(found)


def drop_damaged(folder: Path) -> None:
    """Make a finished store an unfinished one that lacks the shards which are not as they were written.

    A process that is killed here leaves a finished store that lacks no other ones, or the unfinished one. Its index is left as
    it is: whoever goes on brings it up to date (:meth:`umt_pipeline.features.writer.UnfinishedStore.begin`).

    Raises:
        StoreError: its manifest, its index or what its codec has learnt is damaged: nothing of it can be used.
    """
    manifest = read_manifest(folder)
    _require_small_files(folder, manifest)
    # Until the manifest is gone the plan says nothing; before that the shards must be, for nobody hashes those of a plan.
    write_plan(folder, manifest.header())
    for number in range(len(manifest.shards)):
        shard = folder / "shards" / shard_name(number)
        if not _is_whole(shard, manifest.shards.entries(number)):
            logger.warning("feature store: %s is not as it was written: its views are extracted again", shard)
            shutil.rmtree(shard, ignore_errors=True)
    (folder / MANIFEST_FILE).unlink()


def _holding(header: StoreHeader, plan: pa.Table, earlier: Iterable[Path]) -> list[_Earlier]:
    """Return the stores that hold wanted records, the one that holds most of them first."""
    stores: list[_Earlier] = []
    for folder in sorted(filter(is_begun, earlier)):
        try:
            stores.append(_held(folder, header, plan))
        except (StoreError, OSError, ValueError) as error:
            logger.warning("feature store: nothing is taken over from %s: %s", folder, error)
    stores = sorted((store for store in stores if len(store.rows_W)), key=lambda store: -len(store.rows_W))
    if header.codec.sampled_tokens and stores:
        # Codes of other code books mean other things.
        learnt = sha256_file(_learnt(stores[0].folder))
        stores = [store for store in stores if sha256_file(_learnt(store.folder)) == learnt]
    return stores


def _rows_there(folder: Path) -> int:
    """Return how many records an unfinished store holds."""
    return sum(rows_in(path) for path in (folder / "shards").iterdir() if not path.name.startswith("."))


def _held(folder: Path, header: StoreHeader, plan: pa.Table) -> _Earlier:
    """Return where the wanted records lie in an earlier store; none do if its records are made otherwise."""
    none = _Earlier(folder, np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64))
    manifest = read_manifest(folder) if (folder / MANIFEST_FILE).is_file() else None
    found = read_plan(folder) if manifest is None else manifest.header()
    if not found.record_identity().agrees_with(header.record_identity()):
        return none
    if manifest is not None:
        _require_small_files(folder, manifest)
    elif header.codec.sampled_tokens and not _learnt(folder).is_file():
        return none  # it was interrupted before its codec had learnt, or has lost what that was
    table = read_index(folder)
    lines_R = matching_lines(plan, table)
    rows_W = np.flatnonzero(lines_R >= 0)
    places_W2 = places_of(table)[lines_R[rows_W]]
    names = {path.name for path in (folder / "shards").iterdir()}
    there = [shard for shard in np.unique(places_W2[:, 0]).tolist() if shard_name(shard) in names]
    unread = [(shard, reject.shard_row) for shard in there for reject in rejects_in(folder / "shards" / shard_name(shard))]
    unread_N2 = np.array(unread, dtype=np.int64).reshape(-1, 2)
    kept_W = np.isin(places_W2[:, 0], there) & ~np.isin(_numbers(places_W2), _numbers(unread_N2))
    return _Earlier(folder, rows_W[kept_W], places_W2[kept_W])


def _numbers(places_N2: np.ndarray) -> np.ndarray:
    """Return a number for each place, int64 [N]."""
    return (places_N2[:, 0] << 32) + places_N2[:, 1]


def _take(rows: int, stores: Sequence[_Earlier]) -> list[_Taken]:
    """Choose for each wanted row the first store that has it in a shard which is as it was written."""
    open_R = np.ones(rows, dtype=bool)
    taken: list[_Taken] = []
    for store in stores:
        open_W = open_R[store.rows_W]
        rows_W, places_W2 = store.rows_W[open_W], store.places_W2[open_W]
        by_shard = [(number, held) for number, held in enumerate(rows_by_shard(places_W2)) if len(held)]
        with progress("records of earlier stores", len(by_shard), "shard") as show:
            for done, (number, held) in enumerate(by_shard, start=1):
                shard_folder = store.folder / "shards" / shard_name(number)
                if not _is_whole(shard_folder):
                    logger.warning("feature store: %s is not as it was written: its views are extracted again", shard_folder)
                    continue
                open_R[rows_W[held]] = False
                taken.append(_Taken(shard_folder, rows_W[held], places_W2[held, 1], rows_in(shard_folder)))
                show(done)
    return taken


def _to_copy(taken: Sequence[_Taken], shard_rows: int) -> list[_Taken]:
    """Return the shards whose live records are to lie in new ones."""
    copied: list[_Taken] = []
    if sum(part.dead for part in taken) > _MOST_DEAD * sum(part.size for part in taken):
        copied = [part for part in taken if part.dead > _MOST_DEAD * part.size]
    sparse = [part for part in taken if part not in copied and 2 * len(part.rows) < shard_rows]
    return copied + (sparse if len(sparse) > _MOST_SPARSE else [])


def _cut(rows: np.ndarray, shard_rows: int) -> list[np.ndarray]:
    return [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]


def _copy(folder: Path, header: StoreHeader, records: Sequence[tuple[Path, int]]) -> None:
    """Write a shard of records that lie elsewhere: (folder of the shard, row in it) of each."""
    specs = header.arrays()
    shard = ShardWriter(folder, len(records), specs)

    def describe(source: Path, name: str) -> ArrayFile:
        return ArrayFile(source / f"{name}.npy", files_in(source)[name].bytes, rows_in(source), specs[name])

    reader = RecordReader(describe)
    shard.open()
    for start in range(0, len(records), _COPIED_AT_ONCE):
        sources, rows = zip(*records[start : start + _COPIED_AT_ONCE], strict=True)
        shard.append({name: tensor.numpy() for name, tensor in reader.read(specs, sources, np.array(rows)).items()})
    shard.close()


def _is_whole(shard: Path, files: Mapping[str, FileEntry] | None = None) -> bool:
    """Whether a shard's arrays are as they were written: as the manifest says, or without one as what lies beside them says."""
    try:
        files = files_in(shard) if files is None else files
        return all(FileEntry.of(shard / f"{name}.npy") == entry for name, entry in files.items())
    except (OSError, ValueError):
        return False


def _require_small_files(folder: Path, manifest: StoreManifest) -> None:
    expected = {INDEX_FILE: manifest.index, LEARNT_FILE: manifest.learnt, REJECTS_FILE: manifest.rejects}
    for name, entry in expected.items():
        if entry is not None and not ((folder / name).is_file() and FileEntry.of(folder / name) == entry):
            raise StoreError(f"{folder / name} is not as it was written")


def _learnt(store: Path) -> Path:
    return store / LEARNT_FILE
