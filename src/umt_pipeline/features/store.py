"""The feature store: shards of fixed-size records, memory-mapped, with a manifest that is written last.

    manifest.json                what the store is: see features.manifest
    index.parquet                one line per row (a view of a clip): video, split, view number, frames, crop, flip
    shards/00000/<array>.npy     pixels, attention, visible, targets[, scales]; the first axis is the row in the shard
    shards/00000/files.json      size and hash of each array file, written with them
    codec.safetensors            what the codec has learnt of the corpus, if it learns; written before the first shard

A shard is written under a temporary name and renamed, so a shard that is there is whole, and an interrupted writer goes
on at the first one that is not.

Legend: R rows, B rows read at once, T frames, S side of the view in pixels, N patches per frame, V visible patches per
view, P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.features.codecs import ArraySpec, Coder, read_learnt, write_learnt
from umt_pipeline.features.manifest import (
    INDEX_FILE,
    LEARNT_FILE,
    MANIFEST_FILE,
    FileEntry,
    ShardEntry,
    StoreHeader,
    StoreManifest,
    index_table,
    read_index,
    read_manifest,
    write_index,
)
from umt_pipeline.video.views import View

_PLAN_FILE = "plan.json"
_FILES_FILE = "files.json"


class FeatureStoreWriter:
    """Writes a store row by row into a folder; a new writer on the same folder goes on at the first unfinished shard.

    Args:
        folder: made if missing. May hold the finished shards of an earlier, interrupted writer with equal arguments.
        header: what the records have in common.
        index: the rows to come, in order: video_id, split, view_number, frame_indices, crop, flip, video_sha256.

    Raises:
        StoreError: the folder holds shards of another store, or cannot be written.
    """

    def __init__(self, folder: Path, header: StoreHeader, index: pd.DataFrame) -> None:
        self.folder = folder
        self.header = header
        self.rows = len(index)
        self._shard: _ShardWriter | None = None
        self._finished = (folder / MANIFEST_FILE).is_file()
        with self._disk_errors(0):
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            self._claim(index)
        self.next_row = self._first_missing_row()

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
            if self.next_row:
                raise StoreError(
                    f"{self.folder}: {self.next_row} rows are encoded, but {LEARNT_FILE} is missing. Delete the folder to "
                    "start afresh"
                )
            learnt = learn()
            with self._disk_errors(0):
                write_learnt(path, learnt)
        return Coder(header.codec, read_learnt(path, header.codec.learnt_shape(header.layers, header.target_dim)))

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the next rows: every array of ``header.arrays()`` with first axis R, not beyond the end of a shard.

        Raises:
            StoreError: the disk is full or cannot be written; the shards finished so far stay and will be used.
        """
        with self._disk_errors(self.next_row):
            if self._shard is None:
                rows = min(self.header.shard_rows, self.rows - self.next_row)
                folder = self.folder / "shards" / _shard_name(self.next_row // self.header.shard_rows)
                self._shard = _ShardWriter(folder, rows, self.header.arrays())
                self._shard.open()
            self._shard.append(arrays)
            self.next_row += len(arrays["visible"])
            if self._shard.done:
                self._shard.close()
                self._shard = None

    def close(self) -> None:
        """Write the manifest: from now on the folder is a store.

        Raises:
            StoreError: rows are missing.
        """
        if self._finished:
            return
        if self.next_row != self.rows:
            raise StoreError(f"feature store {self.folder}: expected {self.rows} rows, found {self.next_row}")
        with self._disk_errors(self.rows):
            shards = tuple(self._entry(shard) for shard in range(-(-self.rows // self.header.shard_rows)))
            index = FileEntry.of(self.folder / INDEX_FILE)
            learnt = FileEntry.of(self.folder / LEARNT_FILE) if self.header.codec.sampled_tokens and self.rows else None
            manifest = StoreManifest(**dict(self.header), rows=self.rows, index=index, learnt=learnt, shards=shards)
            write_json(self.folder / MANIFEST_FILE, manifest.as_json())
            (self.folder / _PLAN_FILE).unlink()
        self._finished = True

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

    def _claim(self, index: pd.DataFrame) -> None:
        """Write down what the store is to be; refuse a folder in which another one was begun."""
        table = index_table(index, self.header.shard_rows)
        path = self.folder / (MANIFEST_FILE if self._finished else _PLAN_FILE)
        if not path.is_file():
            # The index first: where there is a plan, there is an index.
            write_index(self.folder, table)
            write_json(path, self.header.model_dump(mode="json"))
            return
        begun = read_json(path)
        header = StoreHeader.model_validate({key: begun[key] for key in StoreHeader.model_fields if key in begun})
        differing = self.header.identity().differences(header.identity())
        if not read_index(self.folder).equals(table):
            differing.append("its clips or their views are others")
        if differing:
            raise StoreError(f"{self.folder} holds another store: {'; '.join(differing)}. Delete the folder to start afresh")

    def _first_missing_row(self) -> int:
        if self._finished:
            return self.rows
        row = 0
        while row < self.rows and (self.folder / "shards" / _shard_name(row // self.header.shard_rows)).is_dir():
            row += self.header.shard_rows
        return min(row, self.rows)

    def _entry(self, shard: int) -> ShardEntry:
        name = _shard_name(shard)
        rows = min(self.header.shard_rows, self.rows - shard * self.header.shard_rows)
        return ShardEntry(name=name, rows=rows, files=read_json(self.folder / "shards" / name / _FILES_FILE))


class FeatureStore:
    """Random access to a finished store. Files are mapped on first use, so it can be pickled into worker processes.

    Args:
        folder: a store.

    Raises:
        StoreError: no store there, one of another schema version, a file that is missing or of the wrong size, or an index
            or code books that are not those that were written. Shards are too large to be hashed at each opening: see
            :meth:`verify` and :func:`umt_pipeline.features.verify.verify_store`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._check_sizes()
        self._check_hashes(self._small_files())
        self.index = read_index(self.folder).to_pandas()
        self._maps: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def rows_for(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64, in the order of the store.

        Raises:
            StoreError: the store holds no row of that split.
        """
        rows = self.index.loc[self.index["split"] == split, "row"].to_numpy(np.int64)
        if len(rows) == 0:
            found = ", ".join(map(str, self.index["split"].unique())) or "no rows (views: 0 is for online training)"
            raise StoreError(f"feature store {self.folder}: expected rows of split {split!r}, found {found}")
        return rows

    def coder(self) -> Coder:
        """Return what the targets are decoded with.

        Raises:
            StoreError: what the codec has learnt cannot be read.
        """
        codec, shape = self.manifest.codec, (self.manifest.layers, self.manifest.target_dim)
        if self.manifest.learnt is None:
            return Coder(codec)
        return Coder(codec, read_learnt(self.folder / LEARNT_FILE, codec.learnt_shape(*shape)))

    def view(self, row: int) -> View:
        """Return the recorded view of a row."""
        record = self.index.iloc[row]
        return View.from_dict({**dict(record), "size": self.manifest.view.size})

    def read_raw(self, rows: np.ndarray, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Copy rows of the arrays (all, or those named) into memory as they are stored, each with first axis B.

        Raises:
            StoreError: a row that is not there, or a file that is no longer what the manifest says.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise StoreError(
                f"feature store {self.folder}: expected rows in [0, {len(self)}), found {rows.min()} to {rows.max()}"
            )
        shards_B, shard_rows_B = np.divmod(rows, self.manifest.shard_rows)
        addresses = list(zip(shards_B.tolist(), shard_rows_B.tolist(), strict=True))
        specs = self.manifest.arrays()
        result: dict[str, Tensor] = {}
        for name in specs if names is None else names:
            spec = specs[name]
            array = np.empty((len(rows), *spec.shape), dtype=spec.dtype)
            # One copy per record, straight from the mapped file: records are large, so this loop is not the cost.
            for index, (shard, shard_row) in enumerate(addresses):
                array[index] = self._map(shard, name)[shard_row]
            result[name] = torch.from_numpy(array)
        return result

    def read(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Read rows, decoded.

        Returns:
            visible int64 [B,V] · targets float16 or float32 [K,B,V,C] · attention float16 [B,T,N] · and, by the store's
            ``pixels``, patches uint8 [B,V,P] or frames uint8 [B,T,S,S,3].

        Raises:
            StoreError: as :meth:`read_raw`.
        """
        raw = self.read_raw(rows)
        return {
            "visible": raw["visible"].long(),
            "targets": self.coder().decode(raw).transpose(0, 1),
            "attention": raw["attention"],
            "patches" if self.manifest.pixels == "visible" else "frames": raw["pixels"],
        }

    def verify(self) -> None:
        """Hash every file again.

        Raises:
            StoreError: a file is not the one that was written; the message names it.
        """
        self._check_sizes()
        self._check_hashes(self._files())

    def _check_hashes(self, files: Iterable[tuple[Path, FileEntry]]) -> None:
        for path, entry in files:
            found = sha256_file(path)
            if found != entry.sha256:
                raise StoreError(f"{path}: expected SHA-256 {entry.sha256}, found {found}. Make the feature store again")

    def _small_files(self) -> Iterable[tuple[Path, FileEntry]]:
        yield self.folder / INDEX_FILE, self.manifest.index
        if self.manifest.learnt is not None:
            yield self.folder / LEARNT_FILE, self.manifest.learnt

    def _files(self) -> Iterable[tuple[Path, FileEntry]]:
        yield from self._small_files()
        for shard in self.manifest.shards:
            for name, entry in shard.files.items():
                yield self.folder / "shards" / shard.name / f"{name}.npy", entry

    def _check_sizes(self) -> None:
        for path, entry in self._files():
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
            if found != f"{entry.bytes} bytes":
                raise StoreError(f"{path}: expected {entry.bytes} bytes, found {found}. Make the feature store again")

    def _map(self, shard: int, name: str) -> np.ndarray:
        key = (shard, name)
        if key not in self._maps:
            entry = self.manifest.shards[shard]
            path = self.folder / "shards" / entry.name / f"{name}.npy"
            spec = self.manifest.arrays()[name]
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
            expected = (spec.dtype, (entry.rows, *spec.shape))
            if (array.dtype, array.shape) != expected:
                found = f"{array.dtype} {array.shape}"
                raise StoreError(f"{path}: expected {expected[0]} {expected[1]}, found {found}")
            # A plain view of the mapping: indexing numpy's memmap class costs several times more.
            self._maps[key] = array.view(np.ndarray)
        return self._maps[key]


class _ShardWriter:
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
        write_json(self.staged / _FILES_FILE, entries)
        self.staged.rename(self.folder)

    def abandon(self) -> None:
        """Give the room of an unfinished shard back."""
        for handle in self.handles.values():
            # Closing writes what is buffered, which can fail again.
            with suppress(OSError):
                handle.close()
        shutil.rmtree(self.staged, ignore_errors=True)


def _shard_name(shard: int) -> str:
    return f"{shard:05d}"
