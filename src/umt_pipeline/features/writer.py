"""Writing a feature store: shard by shard, each whole or not there, by any number of processes on a shared folder.

What a store is to be, and where each row will lie, is decided and written down before the first shard is made (index.arrow,
plan.json, and paths.parquet: where the clips are read), so that whoever makes a shard makes the same bytes. A shard is written
under a temporary name of its maker's own and renamed; of two that make the same one, the first is kept. While the store is
unfinished, plan.json stands in for the manifest.

Legend: R rows, B rows written at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, staged_file, write_json
from umt_pipeline.features.codecs import ArraySpec, Coder, read_learnt, write_learnt
from umt_pipeline.features.index import (
    INDEX_FILE,
    PLACE,
    clip_codes,
    clip_count,
    index_table,
    places_of,
    read_index,
    rows_by_shard,
    rows_in_order,
    views_of,
    write_index,
)
from umt_pipeline.features.manifest import (
    LEARNT_FILE,
    MANIFEST_FILE,
    REJECTS_FILE,
    FileEntry,
    ShardColumns,
    StoreHeader,
    StoreManifest,
    read_manifest,
    shard_name,
)
from umt_pipeline.features.rejects import (
    Reject,
    read_rejects,
    rejects_in,
    rejects_table,
    restore_index,
    without,
    write_rejects,
    write_shard_rejects,
)
from umt_pipeline.video.views import View

PLAN_FILE = "plan.json"
PATHS_FILE = "paths.parquet"
FILES_FILE = "files.json"


class UnfinishedStore:
    """A store that is being made, as its folder tells every process that takes part.

    Args:
        folder: in which :meth:`begin` was called.

    Attributes:
        header: what the records have in common.
        rows: how many were planned.
        rows_found: how many of these come from earlier stores; 0 of a store that was finished before.
        rows_of: rows int64 of each shard, in the order in which they lie there.

    Raises:
        StoreError: nothing was begun there, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            begun = read_json(folder / PLAN_FILE)
        except FileNotFoundError:  # finished, maybe at this moment, by another one
            begun = read_manifest(folder).as_json()
        self._finished = (folder / MANIFEST_FILE).is_file()
        self.header = _header_in(begun)
        self.table = read_index(folder)
        self.rows = len(self.table)
        self.rows_found = int(begun.get("rows_found", 0))
        self.rows_of = rows_by_shard(places_of(self.table))

    @classmethod
    def begin(cls, folder: Path, header: StoreHeader, plan: pa.Table, paths: pa.Array) -> UnfinishedStore:
        """Write down what the store is to be, unless it is.

        Args:
            folder: made if missing. May hold the finished shards of earlier, interrupted work with equal arguments, and those
                that :func:`umt_pipeline.features.reuse.begin_store` took over.
            header: what the records have in common.
            plan: the rows, in order: :func:`umt_pipeline.features.index.plan_schema`.
            paths: the file of each row, relative to the folder of the media. They may be others than before.

        Raises:
            StoreError: the folder holds another store, or cannot be written.
        """
        table = index_table(plan, rows_in_order(len(plan), header.shard_rows))
        finished = (folder / MANIFEST_FILE).is_file()
        path = folder / (MANIFEST_FILE if finished else PLAN_FILE)
        with disk_errors(folder, header, 0, len(plan)):
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                # The index first: where there is a plan, there is an index.
                write_index(folder, table)
                write_plan(folder, header)
            if not finished:
                restore_index(folder)
                _close_gaps(folder)
                with staged_file(folder / PATHS_FILE) as staged:
                    parquet.write_table(pa.table({"path": paths}), staged)
        if differing := _differences(folder, header, table, read_json(path)):
            raise StoreError(f"{folder} holds another store: {'; '.join(differing)}. Delete the folder to start afresh")
        return cls(folder)

    @property
    def rows_done(self) -> int:
        """How many rows lie in finished shards."""
        return self.rows - sum(len(self.rows_of[shard]) for shard in self.missing)

    @property
    def missing(self) -> tuple[int, ...]:
        """The shards that are not there now, in order."""
        if self._finished:
            return ()
        there = {path.name for path in (self.folder / "shards").iterdir()}
        return tuple(shard for shard in range(len(self.rows_of)) if shard_name(shard) not in there)

    @cached_property
    def paths(self) -> pa.ChunkedArray:
        """The file of each row, relative to the folder of the media."""
        return parquet.read_table(self.folder / PATHS_FILE, read_dictionary=["path"])["path"]

    @cached_property
    def clips(self) -> int:
        """How many clips the rows are views of."""
        return clip_count(self.table)

    def clips_of(self, rows: np.ndarray) -> set[int]:
        """Return numbers of the clips that some rows are views of."""
        return set(clip_codes(self.table)[rows].tolist())

    def lines(self, rows: np.ndarray) -> pa.Table:
        """Return lines of the index."""
        return self.table.take(pa.array(rows))

    def files(self, rows: np.ndarray, media_root: Path) -> list[tuple[Path, View]]:
        """Return the file and the view of rows."""
        paths = self.paths.take(pa.array(rows)).to_pylist()
        views = views_of(self.lines(rows), self.header.view.size)
        return [(media_root / path, view) for path, view in zip(paths, views, strict=True)]

    def shard_folder(self, shard: int) -> Path:
        """Return where a shard lies once it is made."""
        return self.folder / "shards" / shard_name(shard)

    def rejects(self, shard: int) -> tuple[Reject, ...]:
        """Return the rows of a finished shard that could not be made."""
        return rejects_in(self.shard_folder(shard))

    def coder(self, learn: Callable[[], Tensor]) -> Coder:
        """Return what targets are encoded with. It learns once, and the result is kept for whoever goes on with this store.

        Args:
            learn: as :meth:`Codec.learn`, on a sample of the corpus; called if the codec learns and has not yet.

        Raises:
            StoreError: shards are there and what was learnt is not, or it cannot be read or written.
        """
        header, path = self.header, self.folder / LEARNT_FILE
        if header.codec.sampled_tokens == 0 or self.rows == 0:
            return Coder(header.codec)
        if not path.is_file():
            if done := self.rows_done:
                raise StoreError(
                    f"{self.folder}: {done} rows are encoded, but {LEARNT_FILE} is missing. Delete the folder to start afresh"
                )
            learnt = learn()
            with self.disk_errors(0):
                write_learnt(path, learnt)
        return Coder(header.codec, read_learnt(path, header.codec.learnt_shape(header.layers, header.target_dim)))

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written; only where no other one is at work here."""
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink(missing_ok=True)
        for leftover in (self.folder / "shards").glob(".*.part"):
            shutil.rmtree(leftover, ignore_errors=True)

    def give_up_rejects(self) -> int:
        """Remove the shards in which rows could not be made, so that they are tried again; return how many shards."""
        made = [shard for shard, rows in enumerate(self.rows_of) if self._rejects_of_rows(shard, len(rows))]
        for shard in made:
            shutil.rmtree(self.shard_folder(shard), ignore_errors=True)
        return len(made)

    def rejected(self) -> pa.Table:
        """Return the rows that will not be in the store, as :func:`umt_pipeline.features.rejects.read_rejects`."""
        found: dict[int, Reject] = {}
        for shard, rows in enumerate(self.rows_of):
            found |= {int(rows[reject.shard_row]): reject for reject in self._rejects_of_rows(shard, len(rows))}
        return rejects_table(self.table, self.paths, found) if found else read_rejects(self.folder)

    def finish(self) -> StoreManifest:
        """Write the manifest: from now on the folder is a store.

        Raises:
            StoreError: rows are missing.
        """
        if self._finished:
            self._clear()
            return read_manifest(self.folder)
        if missing := self.missing:
            rows = sum(len(self.rows_of[shard]) for shard in missing)
            raise StoreError(f"feature store {self.folder}: expected {self.rows} rows, found {self.rows - rows}")
        with self.disk_errors(self.rows):
            if len(rejected := self.rejected()):
                # In this order: a killed process leaves all that the whole index can be restored from.
                write_rejects(self.folder, rejected)
                write_index(self.folder, without(self.table, rejected))
            folders = [self.shard_folder(shard) for shard in range(len(self.rows_of))]
            shards = ShardColumns.of([rows_in(folder) for folder in folders], [files_in(folder) for folder in folders])
            rows = self.rows - len(rejected)
            learns = self.header.codec.sampled_tokens > 0 and rows > 0
            manifest = StoreManifest(
                **dict(self.header),
                rows=rows,
                rows_dead=sum(shards.rows) - rows,
                index=FileEntry.of(self.folder / INDEX_FILE),
                learnt=FileEntry.of(self.folder / LEARNT_FILE) if learns else None,
                rejects=FileEntry.of(self.folder / REJECTS_FILE) if len(rejected) else None,
                shards=shards,
            )
            write_json(self.folder / MANIFEST_FILE, manifest.as_json())
            self._clear()
        self._finished = True
        return manifest

    @contextmanager
    def disk_errors(self, row: int) -> Iterator[None]:
        """Turn an error of the disk, met at a row, into one that says what to do."""
        with disk_errors(self.folder, self.header, row, self.rows):
            yield

    def _rejects_of_rows(self, shard: int, rows: int) -> list[Reject]:
        # A shard that was taken over may name rejects of its first store, behind the rows of this one or among its dead ones:
        # those lie in no line of this index.
        places = places_of(self.table)[self.rows_of[shard], 1].tolist() if rows else []
        at = {place: number for number, place in enumerate(places)}
        return [replace(reject, shard_row=at[reject.shard_row]) for reject in self.rejects(shard) if reject.shard_row in at]

    def _clear(self) -> None:
        """Remove what only an unfinished store has, and what killed makers of shards left half-written."""
        for name in (PLAN_FILE, PATHS_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.remove_leftovers()


@contextmanager
def disk_errors(folder: Path, header: StoreHeader, row: int, rows: int) -> Iterator[None]:
    """Turn errors of the disk into ones that say what to do.

    Args:
        folder: of the store.
        header: of the store.
        row: that was to be written.
        rows: of the store.

    Raises:
        StoreError: for an OSError in the block.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"feature store {folder}: cannot write at row {row} of {rows}: {error}. Finished shards are kept; make room "
            f"({sum(header.row_bytes().values())} bytes per row) and run again"
        ) from error


class ShardWriter:
    """Writes one shard under a temporary name of its own, hashing on the way; with ordinary writes, so a full disk is an error.

    Args:
        folder: becomes the shard.
        rows: how many it has.
        specs: its arrays.
    """

    def __init__(self, folder: Path, rows: int, specs: Mapping[str, ArraySpec]) -> None:
        self.folder = folder
        self.rows = rows
        self.specs = specs
        self.written = 0
        # Two that make the same shard do not meet: a maker that was thought dead may still be writing.
        self.staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.part")
        self.rejects: list[Reject] = []
        self.handles: dict[str, BufferedRandom] = {}
        self.hashes = {name: hashlib.sha256() for name in specs}

    def open(self) -> None:
        """Make its files."""
        self.staged.mkdir()
        for name, spec in self.specs.items():
            handle = self.handles[name] = (self.staged / f"{name}.npy").open("w+b")
            header = {"descr": spec.dtype.str, "fortran_order": False, "shape": (self.rows, *spec.shape)}
            np.lib.format.write_array_header_1_0(handle, header)
            handle.seek(0)
            self.hashes[name].update(handle.read())

    @property
    def done(self) -> bool:
        """Whether all rows are written."""
        return self.written == self.rows

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write its next rows: every array with first axis B.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        count = len(arrays["visible"])
        if set(arrays) != set(self.specs) or self.written + count > self.rows:
            raise ValueError(f"expected at most {self.rows - self.written} rows of {set(self.specs)}, found {count}")
        for name, spec in self.specs.items():
            array = np.ascontiguousarray(arrays[name])
            if array.dtype != spec.dtype or array.shape != (count, *spec.shape):
                expected = f"{spec.dtype} {(count, *spec.shape)}"
                raise ValueError(f"{name}: expected {expected}, found {array.dtype} {array.shape}")
            self.handles[name].write(array.data)
            self.hashes[name].update(array.data)
        self.written += count

    def close(self) -> bool:
        """Put it in its place, unless another maker has; return whether it is this one's.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        entries: dict[str, dict[str, Any]] = {}
        for name, handle in self.handles.items():
            handle.flush()
            os.fsync(handle.fileno())
            entries[name] = {"bytes": handle.tell(), "sha256": self.hashes[name].hexdigest()}
            handle.close()
        write_json(self.staged / FILES_FILE, entries)
        write_shard_rejects(self.staged, tuple(self.rejects))
        try:
            self.staged.rename(self.folder)
        except OSError:
            if not self.folder.is_dir():
                raise
            shutil.rmtree(self.staged, ignore_errors=True)
            return False
        return True

    def abandon(self) -> None:
        """Give the room of an unfinished shard back."""
        for handle in self.handles.values():
            # Closing writes what is buffered, which can fail again.
            with suppress(OSError):
                handle.close()
        shutil.rmtree(self.staged, ignore_errors=True)


def rows_in(folder: Path) -> int:
    """Return how many records the folder of a shard holds."""
    return len(np.load(folder / "visible.npy", mmap_mode="r"))


def files_in(folder: Path) -> dict[str, FileEntry]:
    """Return size and hash of the array files in the folder of a shard, as they were written.

    Raises:
        OSError, ValueError: what says so cannot be read.
    """
    return {name: FileEntry.model_validate(entry) for name, entry in read_json(folder / FILES_FILE).items()}


def write_plan(folder: Path, header: StoreHeader, rows_found: int = 0) -> None:
    """Write down what a store is to be, beside its index, which says where its rows are to lie.

    Args:
        folder: of the store.
        header: what its records have in common.
        rows_found: of its rows, how many were taken from earlier stores.
    """
    write_json(folder / PLAN_FILE, {**header.model_dump(mode="json"), "rows_found": rows_found})


def read_plan(folder: Path) -> StoreHeader:
    """Return what the records of an unfinished store have in common.

    Raises:
        ValueError: it cannot be read.
    """
    return _header_in(read_json(folder / PLAN_FILE))


def _close_gaps(folder: Path) -> None:
    """Have the rows of shards that are not there lie one after the other: one that was lost is made without its dead rows."""
    table = read_index(folder)
    places_R2 = places_of(table)
    there = {path.name for path in (folder / "shards").iterdir()}
    gaps = False
    for shard, rows in enumerate(rows_by_shard(places_R2)):
        if shard_name(shard) not in there and len(rows) and places_R2[rows[-1], 1] != len(rows) - 1:
            places_R2[rows, 1] = np.arange(len(rows))
            gaps = True
    if gaps:
        write_index(folder, index_table(table, places_R2))


def _header_in(document: Mapping[str, Any]) -> StoreHeader:
    return StoreHeader.model_validate({key: document[key] for key in StoreHeader.model_fields if key in document})


def _differences(folder: Path, header: StoreHeader, table: pa.Table, begun: Mapping[str, Any]) -> list[str]:
    """Return what of a store that was begun is not as wanted, for people."""
    differing = header.identity().differences(_header_in(begun).identity())
    wanted = without(table, read_rejects(folder)) if begun.get("rejects") else table
    if not read_index(folder).drop_columns(PLACE).equals(wanted.drop_columns(PLACE)):
        differing.append("its clips or their views are others")
    return differing
