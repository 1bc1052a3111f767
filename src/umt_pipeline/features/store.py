"""The feature store: shards of fixed-size records, and a manifest that is written last.

    manifest.json                what the store is, and sizes and hashes of its files: see features.manifest
    index.arrow                  one line per row (a view of a clip): its place (shard, row in the shard), video, split, view
                                 number, frames, crop, flip: see features.index
    shards/00000/<array>.npy     pixels, attention, visible, targets[, scales]; the first axis is the row in the shard
    shards/00000/files.json      size and hash of each array file, written with them
    rejects.parquet              the clips' views that it lacks because a file could not be read, if there are such
    codec.safetensors            what the codec has learnt of the corpus, if it learns; written before the first shard

Rows are numbered in the order of the plan, a clip's views side by side. Their records may lie anywhere in the shards: what
features.reuse takes over from an earlier store comes first, what was extracted follows.

Legend: R rows, B rows read at once, T frames, S side of the view in pixels, N patches per frame, V visible patches per
view, P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.features.codecs import Coder, read_learnt
from umt_pipeline.features.index import INDEX_FILE, PLACE, clip_codes, column_of, read_index, views_of
from umt_pipeline.features.manifest import LEARNT_FILE, REJECTS_FILE, FileEntry, StoreManifest, read_manifest, shard_name
from umt_pipeline.features.reading import ArrayFile, RecordReader
from umt_pipeline.video.views import View


class StoreFiles:
    """What the array files of a finished store should be: called with the number of a shard and the name of an array."""

    def __init__(self, folder: Path, manifest: StoreManifest) -> None:
        self._shards, self._columns = folder / "shards", manifest.shards
        self.specs = manifest.arrays()

    def __call__(self, shard: int, name: str) -> ArrayFile:
        path = self._shards / shard_name(shard) / f"{name}.npy"
        return ArrayFile(path, self._columns.files[name].bytes[shard], self._columns.rows[shard], self.specs[name])


class FeatureStore:
    """Random access to a finished store. Nothing is read or opened before it is asked for, and little is kept.

    Several threads may read at once; it can be pickled into worker processes.

    Args:
        folder: a store.

    Attributes:
        manifest: what the store is.

    Raises:
        StoreError: no store there, one of another schema version, one that lacks a shard, or an index or code books that are
            not those that were written. A shard's files are looked at when they are first read; they are too large to be
            hashed at each opening: see :meth:`verify` and :func:`umt_pipeline.features.verify.verify_store`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._files = StoreFiles(self.folder, self.manifest)
        self._require_shards()
        small = list(self._small_files())
        self._check_sizes(small)
        self._check_hashes(small)
        self._index: pa.Table | None = None
        self._reader = RecordReader(self._files)

    def __len__(self) -> int:
        return self.manifest.rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    @property
    def index(self) -> pa.Table:
        """One line per row, in a mapped file: see :mod:`umt_pipeline.features.index`."""
        if self._index is None:
            self._index = read_index(self.folder)
        return self._index

    def rows_for(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64, in the order of the store.

        Raises:
            StoreError: the store holds no row of that split.
        """
        splits = column_of(self.index, "split")
        names = splits.dictionary.to_pylist() if len(splits) else []
        if split in names:
            rows = np.flatnonzero(splits.indices.to_numpy() == names.index(split))
            if len(rows):
                return rows
        found = ", ".join(names) or "no rows (views: 0 is for online training)"
        raise StoreError(f"feature store {self.folder}: expected rows of split {split!r}, found {found}")

    def first_rows(self) -> np.ndarray:
        """Return the first row of each clip, int64, in the order of the store."""
        return np.sort(np.unique(clip_codes(self.index), return_index=True)[1])

    def coder(self) -> Coder:
        """Return what the targets are decoded with.

        Raises:
            StoreError: what the codec has learnt cannot be read.
        """
        codec, shape = self.manifest.codec, (self.manifest.layers, self.manifest.target_dim)
        if self.manifest.learnt is None:
            return Coder(codec)
        return Coder(codec, read_learnt(self.folder / LEARNT_FILE, codec.learnt_shape(*shape)))

    def record(self, row: int) -> dict[str, Any]:
        """Return the line of the index that belongs to a row."""
        return self.index.slice(row, 1).to_pylist()[0]

    def view(self, row: int) -> View:
        """Return the recorded view of a row."""
        return views_of(self.index.slice(row, 1), self.manifest.view.size)[0]

    def read_raw(self, rows: np.ndarray, names: Iterable[str] | None = None, pin: bool = False) -> dict[str, Tensor]:
        """Copy rows of the arrays (all, or those named) into memory as they are stored, each with first axis B.

        Args:
            rows: which rows, in the order wanted.
            names: of the arrays.
            pin: into page-locked memory, from which a CUDA device copies while it computes.

        Raises:
            StoreError: a row that is not there, or a file that is no longer what the manifest says.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise StoreError(
                f"feature store {self.folder}: expected rows in [0, {len(self)}), found {rows.min()} to {rows.max()}"
            )
        shards_B, shard_rows_B = (column_of(self.index, name).to_numpy()[rows] for name in PLACE)
        specs = {name: self._files.specs[name] for name in (self._files.specs if names is None else names)}
        return self._reader.read(specs, shards_B.tolist(), shard_rows_B, pin)

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
        """Look at the size of every file, then hash every file again.

        Raises:
            StoreError: a file is not the one that was written; the message names it.
        """
        self._require_shards()
        self._check_sizes(self._all_files())
        self._check_hashes(self._all_files())

    def _require_shards(self) -> None:
        """One listing for all shards; to ask for each of their files takes minutes on a network's disk."""
        folder = self.folder / "shards"
        there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        missing = [name for name in map(shard_name, range(len(self.manifest.shards))) if name not in there]
        if missing:
            raise StoreError(
                f"{folder}: expected {len(self.manifest.shards)} shards, {len(missing)} of them are not there, the first is "
                f"{missing[0]}. Make the feature store again"
            )

    def _check_hashes(self, files: Iterable[tuple[Path, FileEntry]]) -> None:
        for path, entry in files:
            found = sha256_file(path)
            if found != entry.sha256:
                raise StoreError(f"{path}: expected SHA-256 {entry.sha256}, found {found}. Make the feature store again")

    def _check_sizes(self, files: Iterable[tuple[Path, FileEntry]]) -> None:
        for path, entry in files:
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
            if found != f"{entry.bytes} bytes":
                raise StoreError(f"{path}: expected {entry.bytes} bytes, found {found}. Make the feature store again")

    def _small_files(self) -> Iterable[tuple[Path, FileEntry]]:
        yield self.folder / INDEX_FILE, self.manifest.index
        if self.manifest.learnt is not None:
            yield self.folder / LEARNT_FILE, self.manifest.learnt
        if self.manifest.rejects is not None:
            yield self.folder / REJECTS_FILE, self.manifest.rejects

    def _all_files(self) -> Iterable[tuple[Path, FileEntry]]:
        yield from self._small_files()
        for shard in range(len(self.manifest.shards)):
            for name, entry in self.manifest.shards.entries(shard).items():
                yield self._files(shard, name).path, entry
