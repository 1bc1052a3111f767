"""The feature store: shards of fixed-size records, memory-mapped, with a manifest that is written last.

    manifest.json                what the store is: see features.manifest
    index.parquet                one line per row (a view of a clip): its place (shard, row in the shard), video, split, view
                                 number, frames, crop, flip
    shards/00000/<array>.npy     pixels, attention, visible, targets[, scales]; the first axis is the row in the shard
    shards/00000/files.json      size and hash of each array file, written with them
    codec.safetensors            what the codec has learnt of the corpus, if it learns; written before the first shard

Rows are numbered in the order of the plan, a clip's views side by side. Their records may lie anywhere in the shards: what
features.reuse takes over from an earlier store comes first, what was extracted follows.

Legend: R rows, B rows read at once, T frames, S side of the view in pixels, N patches per frame, V visible patches per
view, P values per patch, K aligned layers, C target width.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.features.codecs import Coder, read_learnt
from umt_pipeline.features.manifest import INDEX_FILE, LEARNT_FILE, FileEntry, places_of, read_index, read_manifest
from umt_pipeline.video.views import View

if TYPE_CHECKING:
    import pandas as pd


class FeatureStore:
    """Random access to a finished store. Files are mapped on first use, so it can be pickled into worker processes.

    Args:
        folder: a store.

    Attributes:
        manifest: what the store is.
        table: one line per row.
        places_R2: shard and row in the shard of each row, int64.

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
        self.table = read_index(self.folder)
        self.places_R2 = places_of(self.table)
        self._maps: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return self.manifest.rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @cached_property
    def index(self) -> pd.DataFrame:
        """:attr:`table` for checks; training does without."""
        index: pd.DataFrame = self.table.to_pandas()
        return index

    def rows_for(self, split: str) -> np.ndarray:
        """Return the rows of a split, int64, in the order of the store.

        Raises:
            StoreError: the store holds no row of that split.
        """
        rows = np.flatnonzero(np.asarray(pc.equal(self.table["split"], split)))
        if len(rows) == 0:
            found = ", ".join(self.table["split"].unique().to_pylist()) or "no rows (views: 0 is for online training)"
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
        places = self.places_R2[rows].tolist()
        specs = self.manifest.arrays()
        result: dict[str, Tensor] = {}
        for name in specs if names is None else names:
            spec = specs[name]
            array = np.empty((len(rows), *spec.shape), dtype=spec.dtype)
            # One copy per record, straight from the mapped file: records are large, so this loop is not the cost.
            for index, (shard, shard_row) in enumerate(places):
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
                array = map_array(path)
            except (OSError, ValueError, RuntimeError) as error:
                raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
            expected = (spec.dtype, (entry.rows, *spec.shape))
            if (array.dtype, array.shape) != expected:
                found = f"{array.dtype} {array.shape}"
                raise StoreError(f"{path}: expected {expected[0]} {expected[1]}, found {found}")
            self._maps[key] = array
        return self._maps[key]


def map_array(path: Path) -> np.ndarray:
    """Map an array file into memory, read-only.

    torch maps it, because it keeps no file open: numpy's mapping holds a descriptor, of which a process may have no more than
    1024, and a store has several files per shard.

    Raises:
        OSError, RuntimeError: the file cannot be opened or mapped.
        ValueError: it is no array file, or a shorter one than it says.
    """
    with path.open("rb") as handle:
        np.lib.format.read_magic(handle)
        shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
        start, size = handle.tell(), handle.seek(0, 2)
    count = int(np.prod(shape))
    if size != start + count * dtype.itemsize:
        raise ValueError(f"expected {start + count * dtype.itemsize} bytes, found {size}")
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    mapped.flags.writeable = False
    return mapped[start:].view(dtype).reshape(shape)
