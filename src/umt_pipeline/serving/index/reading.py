"""An index of videos, opened for search: its files, its windows, and the nearest of them to a vector.

Shapes: n windows, Q queries, K found for each, E embedding width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.layout import (
    DELETED_FILE,
    FILES_FILE,
    LEFT_OUT_FILE,
    Manifest,
    ModelFacts,
    Pointer,
    check_files,
    damaged,
    generation_folder,
    read_manifest,
    read_pointer,
)
from umt_pipeline.serving.index.segments import Segment

__all__ = ["Index", "ModelFacts"]

# A build may remove the generation that was pointed at a moment ago.
_TRIES = 3


class Index:
    """One generation of an index; it stays what it is, whatever is built beside it. To be closed, or used in a ``with`` block.

    Args:
        folder: of the index.
        pointer: to the generation.

    Attributes:
        folder: of the index.
        manifest: what the generation says of itself.
        segments: its vectors.
        files: a row for each video or image: file_id (SHA-256 of its bytes), path (absolute), media (``video`` or ``image``),
            duration_s, label, split (None where nothing is known), date (ISO, of its last change), n_windows.
        left_out: a row for each file that is not in it: path, reason, detail.
        windows: a row for each window, by its number: file (row of ``files``), start_s, end_s.

    Raises:
        IndexingError: the generation is damaged, or of another version.
    """

    _closed = False

    def __init__(self, folder: Path, pointer: Pointer) -> None:
        self.folder = folder
        self._pointer = pointer
        self.manifest: Manifest = read_manifest(folder, pointer)
        check_files(folder, self.manifest)
        where = generation_folder(folder, pointer.generation)
        self.segments = tuple(Segment.open(where, facts) for facts in self.manifest.segments)
        deleted = np.load(where / DELETED_FILE)
        total = sum(segment.facts.rows for segment in self.segments)
        self._rows = np.delete(np.arange(total, dtype=np.int64), deleted)
        self._numbers = np.full(total, -1, dtype=np.int64)
        self._numbers[self._rows] = np.arange(len(self._rows))
        self._live = self._numbers >= 0
        self._starts = np.cumsum([0, *(segment.facts.rows for segment in self.segments)])
        # All is read now: the folder may be removed while this generation serves on.
        self.files = pd.read_parquet(where / FILES_FILE)
        self.left_out = pd.read_parquet(where / LEFT_OUT_FILE)
        self.windows = self._windows()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open the newest whole generation.

        Raises:
            IndexingError: there is none, or it is damaged, or of another version.
        """
        folder = Path(folder)
        for tries in range(_TRIES):
            pointer = read_pointer(folder)
            if pointer is None:
                found = "an index of which no generation is whole" if folder.is_dir() and any(folder.iterdir()) else "none"
                raise IndexingError(
                    f"{folder}: expected an index, found {found}. Build one: `umt index FOLDER --model MODEL --out {folder}`; "
                    "a build that was interrupted goes on where it was"
                )
            try:
                return cls(folder, pointer)
            except (IndexingError, FileNotFoundError):
                if tries + 1 == _TRIES or read_pointer(folder) == pointer:
                    raise
        raise AssertionError("the last try returns or raises")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; what is asked of vectors from then on is an error."""
        self.segments, self._closed = (), True

    @property
    def generation(self) -> int:
        """Its number."""
        return self.manifest.generation

    @property
    def edition(self) -> str:
        """Tells this generation of this index from all others: the begin of the hash of its ``index.json``, 16 digits."""
        return self._pointer.sha256[:16]

    @property
    def identity(self) -> str:
        """Of what its vectors depend on besides the files."""
        return self.manifest.identity

    @property
    def sha256(self) -> dict[str, str]:
        """The hash of each of its files."""
        return self.manifest.sha256

    @property
    def model(self) -> ModelFacts:
        """The model whose vectors it holds."""
        return self.manifest.model

    @property
    def rule(self) -> WindowRule:
        """How its files were cut."""
        return self.manifest.rule

    @property
    def facts(self) -> dict[str, Any]:
        """Counts of files and windows, seconds, bytes."""
        return self.manifest.facts

    def nearest(self, queries_QE: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the windows whose vectors are nearest to each query.

        Args:
            queries_QE: unit vectors.
            k: how many are wanted, K.
            allowed: bool [n]: of these windows only; None: of all.

        Returns:
            scores float32 [Q, K], the cosines, falling; and numbers of windows int64 [Q, K]. Where fewer than K are allowed:
            -inf and -1.

        Raises:
            IndexingError: the queries have another width than the vectors: they are of another model; or it was closed.
        """
        self._require_open()
        queries_QE = np.ascontiguousarray(queries_QE, dtype=np.float32)
        if queries_QE.ndim != 2 or queries_QE.shape[1] != self.model.dim:
            raise IndexingError(
                f"{self.folder}: expected queries of {self.model.dim} numbers, as {self.model.source} makes them, found "
                f"shape {queries_QE.shape}: search with the model of the index"
            )
        wanted = self._wanted(allowed)
        scores = [np.full((len(queries_QE), k), -np.inf, dtype=np.float32)]
        rows = [np.full((len(queries_QE), k), -1, dtype=np.int64)]
        for segment, start in zip(self.segments, self._starts[:-1], strict=True):
            own = None if wanted is None else wanted[start : start + segment.facts.rows]
            scores_QK, rows_QK = segment.nearest(queries_QE, k, own)
            scores.append(scores_QK)
            rows.append(np.where(rows_QK < 0, -1, rows_QK + start))
        scores_QN, rows_QN = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
        order_QK = np.lexsort((rows_QN, -scores_QN), axis=1)[:, :k]
        found_QK = np.take_along_axis(rows_QN, order_QK, axis=1)
        numbers_QK = np.where(found_QK < 0, -1, self._numbers[found_QK] if len(self._numbers) else -1)
        return np.take_along_axis(scores_QN, order_QK, axis=1), numbers_QK

    def vectors(self, windows: np.ndarray) -> np.ndarray:
        """Return the vectors of windows by their numbers, float32 [n, E].

        Raises:
            IndexError: there is no such window.
            IndexingError: it was closed.
        """
        self._require_open()
        rows = self._rows[np.asarray(windows, dtype=np.int64)]
        found = np.empty((len(rows), self.model.dim), dtype=np.float32)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number, segment in enumerate(self.segments):
            own = which == number
            found[own] = segment.vectors_NE[rows[own] - self._starts[number]]
        return found

    def deleted(self) -> tuple[np.ndarray, ...]:
        """Return, of each segment, its rows that are not in the index any more."""
        gone = np.flatnonzero(self._numbers < 0)
        return tuple(
            gone[(gone >= start) & (gone < end)] - start for start, end in zip(self._starts[:-1], self._starts[1:], strict=True)
        )

    def changed(self) -> bool:
        """Whether another generation is served by now: time to open the index anew."""
        try:
            return read_pointer(self.folder) not in (None, self._pointer)
        except IndexingError:
            return False  # what is open is whole, and serves on

    def require_model(self, key: str, source: str) -> None:
        """Refuse to be searched with another model.

        Args:
            key: of the :class:`~umt_pipeline.serving.embedder.Embedder`.
            source: what it was loaded from, for the message.

        Raises:
            IndexingError: the vectors are another model's.
        """
        if key != self.model.key:
            raise IndexingError(
                f"{self.folder}: expected the model whose vectors it holds, {self.model.source} (key {self.model.key[:12]}), "
                f"found {source} (key {key[:12]}). Search with that model, or build an index of this one: "
                f"`umt index FOLDER --model {source} --out {self.folder}`; the old one serves until the new one is whole"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise IndexingError(f"{self.folder}: generation {self.generation} was closed: open the index again")

    def _windows(self) -> pd.DataFrame:
        table = pd.concat([segment.table for segment in self.segments], ignore_index=True).iloc[self._rows]
        files = pd.Index(self.files["file_id"]).get_indexer(table["file_id"])
        if (files < 0).any():
            raise damaged(self.folder, f"{self.folder}: expected each window to be of one of the files, found others")
        columns = {"file": files.astype(np.int64), "start_s": table["start_s"].to_numpy(), "end_s": table["end_s"].to_numpy()}
        return pd.DataFrame(columns)

    def _wanted(self, allowed: np.ndarray | None) -> np.ndarray | None:
        """Return which rows of the segments may be found; None: all."""
        if len(self._rows) == len(self._numbers):
            return allowed  # each row is a window
        if allowed is None:
            return self._live
        wanted = np.zeros(len(self._live), dtype=bool)
        wanted[self._live] = allowed
        return wanted
