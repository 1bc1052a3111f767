"""Writing a feature store: shard by shard, so that an interrupted writer loses at most the shard it was at.

A shard is written under a temporary name and renamed, so a shard that is there is whole. Where each row will lie is decided and
written down (index.parquet, plan.json) before the first one is made, so that whoever goes on makes the same bytes. While the
store is unfinished, plan.json stands in for the manifest.

Legend: R rows, B rows written at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.features.codecs import ArraySpec, Coder, read_learnt, write_learnt
from umt_pipeline.features.manifest import (
    INDEX_FILE,
    LEARNT_FILE,
    MANIFEST_FILE,
    PLACE,
    FileEntry,
    ShardEntry,
    StoreHeader,
    StoreManifest,
    index_table,
    places_of,
    read_index,
    read_manifest,
    rows_by_shard,
    rows_in_order,
    write_index,
)

if TYPE_CHECKING:
    import pandas as pd  # given by whoever has tables of it; training itself needs none

PLAN_FILE = "plan.json"
FILES_FILE = "files.json"


class FeatureStoreWriter:
    """Writes a store row by row into a folder; a new writer on the same folder goes on at the first unfinished shard.

    Args:
        folder: made if missing. May hold the finished shards of an earlier, interrupted writer with equal arguments, and those
            that :func:`umt_pipeline.features.reuse.begin_store` took over.
        header: what the records have in common.
        index: the rows, in order: video_id, split, view_number, frame_indices, crop, flip, video_sha256.

    Attributes:
        rows: how many the store is to have.
        rows_done: how many are there.
        rows_found: how many of these come from earlier stores; 0 of a store that was finished before.
        missing: at first, the rows int64 of each shard that is to be made, in the order in which :meth:`append` wants them.

    Raises:
        StoreError: the folder holds shards of another store, or cannot be written.
    """

    def __init__(self, folder: Path, header: StoreHeader, index: pd.DataFrame) -> None:
        self.folder = folder
        self.header = header
        self.rows = len(index)
        self.rows_found = 0
        self._shard: ShardWriter | None = None
        self._finished = (folder / MANIFEST_FILE).is_file()
        with self._disk_errors(0):
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            # What a killed writer was at when it died; a shard of that kind is cleared when it is begun anew.
            for leftover in folder.glob(".*.part"):
                leftover.unlink()
            rows_of = rows_by_shard(places_of(self._claim(index)))
        self._shards = len(rows_of)
        there = [self._finished or self._folder(shard).is_dir() for shard in range(self._shards)]
        self._to_write = [shard for shard in range(self._shards) if not there[shard]]
        self.missing = tuple(rows_of[shard] for shard in self._to_write)
        self.rows_done = self.rows - sum(map(len, self.missing))

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
            if self.rows_done:
                raise StoreError(
                    f"{self.folder}: {self.rows_done} rows are encoded, but {LEARNT_FILE} is missing. Delete the folder to "
                    "start afresh"
                )
            learnt = learn()
            with self._disk_errors(0):
                write_learnt(path, learnt)
        return Coder(header.codec, read_learnt(path, header.codec.learnt_shape(header.layers, header.target_dim)))

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the next rows of :attr:`missing`: every array of ``header.arrays()`` with first axis B, of one shard.

        Raises:
            StoreError: the disk is full or cannot be written; the shards finished so far stay and will be used.
        """
        with self._disk_errors(self.rows_done):
            if self._shard is None:
                made = len(self.missing) - len(self._to_write)
                self._shard = ShardWriter(self._folder(self._to_write[0]), len(self.missing[made]), self.header.arrays())
                self._shard.open()
            self._shard.append(arrays)
            self.rows_done += len(arrays["visible"])
            if self._shard.done:
                self._shard.close()
                self._shard = None
                self._to_write.pop(0)

    def close(self) -> StoreManifest:
        """Write the manifest: from now on the folder is a store.

        Raises:
            StoreError: rows are missing.
        """
        if self._finished:
            # Left by one that was killed before its last step.
            (self.folder / PLAN_FILE).unlink(missing_ok=True)
            return read_manifest(self.folder)
        if self.rows_done != self.rows:
            raise StoreError(f"feature store {self.folder}: expected {self.rows} rows, found {self.rows_done}")
        with self._disk_errors(self.rows):
            shards = tuple(self._entry(shard) for shard in range(self._shards))
            dead = sum(shard.rows for shard in shards) - self.rows
            index = FileEntry.of(self.folder / INDEX_FILE)
            learnt = FileEntry.of(self.folder / LEARNT_FILE) if self.header.codec.sampled_tokens and self.rows else None
            manifest = StoreManifest(
                **dict(self.header), rows=self.rows, rows_dead=dead, index=index, learnt=learnt, shards=shards
            )
            write_json(self.folder / MANIFEST_FILE, manifest.as_json())
            (self.folder / PLAN_FILE).unlink()
        self._finished = True
        return manifest

    @contextmanager
    def _disk_errors(self, row: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._shard is not None:
                self._shard.abandon()
                self._shard = None
            raise StoreError(
                f"feature store {self.folder}: cannot write at row {row} of {self.rows}: {error}. Finished shards are "
                f"kept; make room ({sum(self.header.row_bytes().values())} bytes per row) and run again"
            ) from error

    def _claim(self, index: pd.DataFrame) -> pa.Table:
        """Write down what the store is to be, unless it is; refuse a folder in which another one was begun."""
        table = index_table(index, rows_in_order(self.rows, self.header.shard_rows))
        path = self.folder / (MANIFEST_FILE if self._finished else PLAN_FILE)
        if not path.is_file():
            write_plan(self.folder, self.header, table)
            return table
        begun = read_json(path)
        differing = self.header.identity().differences(_header_in(begun).identity())
        found = read_index(self.folder)
        if not found.drop_columns(PLACE).equals(table.drop_columns(PLACE)):
            differing.append("its clips or their views are others")
        if differing:
            raise StoreError(f"{self.folder} holds another store: {'; '.join(differing)}. Delete the folder to start afresh")
        self.rows_found = begun.get("rows_found", 0)
        return found

    def _folder(self, shard: int) -> Path:
        return self.folder / "shards" / shard_name(shard)

    def _entry(self, shard: int) -> ShardEntry:
        folder = self._folder(shard)
        return ShardEntry(name=folder.name, rows=rows_in(folder), files=read_json(folder / FILES_FILE))


class ShardWriter:
    """Writes one shard under a temporary name, hashing on the way; with ordinary writes, so a full disk is an error."""

    def __init__(self, folder: Path, rows: int, specs: Mapping[str, ArraySpec]) -> None:
        self.folder = folder
        self.rows = rows
        self.specs = specs
        self.written = 0
        self.staged = folder.with_name(f".{folder.name}.part")
        self.handles: dict[str, BufferedRandom] = {}
        self.hashes = {name: hashlib.sha256() for name in specs}

    def open(self) -> None:
        shutil.rmtree(self.staged, ignore_errors=True)
        self.staged.mkdir()
        for name, spec in self.specs.items():
            handle = self.handles[name] = (self.staged / f"{name}.npy").open("w+b")
            header = {"descr": spec.dtype.str, "fortran_order": False, "shape": (self.rows, *spec.shape)}
            np.lib.format.write_array_header_1_0(handle, header)
            handle.seek(0)
            self.hashes[name].update(handle.read())

    @property
    def done(self) -> bool:
        return self.written == self.rows

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
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

    def close(self) -> None:
        entries: dict[str, dict[str, Any]] = {}
        for name, handle in self.handles.items():
            handle.flush()
            os.fsync(handle.fileno())
            entries[name] = {"bytes": handle.tell(), "sha256": self.hashes[name].hexdigest()}
            handle.close()
        write_json(self.staged / FILES_FILE, entries)
        self.staged.rename(self.folder)

    def abandon(self) -> None:
        """Give the room of an unfinished shard back."""
        for handle in self.handles.values():
            # Closing writes what is buffered, which can fail again.
            with suppress(OSError):
                handle.close()
        shutil.rmtree(self.staged, ignore_errors=True)


def shard_name(shard: int) -> str:
    """Return the name of the folder of a shard."""
    return f"{shard:05d}"


def rows_in(folder: Path) -> int:
    """Return how many records the folder of a shard holds."""
    return len(np.load(folder / "visible.npy", mmap_mode="r"))


def write_plan(folder: Path, header: StoreHeader, table: pa.Table, rows_found: int = 0) -> None:
    """Write down what a store is to be and where its rows are to lie.

    Args:
        folder: of the store.
        header: what its records have in common.
        table: its index.
        rows_found: of its rows, how many were taken from earlier stores.
    """
    # The index first: where there is a plan, there is an index.
    write_index(folder, table)
    write_json(folder / PLAN_FILE, {**header.model_dump(mode="json"), "rows_found": rows_found})


def read_plan(folder: Path) -> StoreHeader:
    """Return what the records of an unfinished store have in common.

    Raises:
        ValueError: it cannot be read.
    """
    return _header_in(read_json(folder / PLAN_FILE))


def _header_in(document: Mapping[str, Any]) -> StoreHeader:
    return StoreHeader.model_validate({key: document[key] for key in StoreHeader.model_fields if key in document})
