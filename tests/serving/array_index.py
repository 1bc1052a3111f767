"""An index in memory, and models that say what a test wants: what search does with answers, whatever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from umt_pipeline.core.files import sha256_file
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.shelf import Embedded
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.layout import ModelFacts
from umt_pipeline.serving.index.nearest import exact
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import Content, write_generation
from umt_pipeline.serving.inputs import clip_of

KEY = "ab" * 32


class ArrayIndex(Index):
    """An index whose vectors lie in memory.

    Args:
        vectors_NE: unit vectors.
        windows: file, start_s, end_s of each.
        files: columns of :attr:`Index.files`, as far as a test cares.
        folder: what it says of itself.
        key: of its model.
        rule: of its windows; None: the usual one.
    """

    def __init__(
        self,
        vectors_NE: np.ndarray,
        windows: Sequence[tuple[int, float, float]],
        files: Mapping[str, Sequence[Any]] | None = None,
        folder: Path = Path("videos.index"),
        key: str = KEY,
        rule: WindowRule | None = None,
    ) -> None:
        self._rule = rule or WindowRule()
        self.folder, self.vectors_NE = folder, np.asarray(vectors_NE, dtype=np.float32)
        self.__dict__["windows"] = pd.DataFrame(windows, columns=["file", "start_s", "end_s"]).astype({"file": "int64"})
        count = int(self.windows["file"].max()) + 1 if len(windows) else 0
        default: dict[str, Sequence[Any]] = {
            "file_id": [f"{row:064x}" for row in range(count)],
            "path": [f"/videos/{row}.mp4" for row in range(count)],
            "media": ["video"] * count,
            "duration_s": self.windows.groupby("file")["end_s"].max().tolist(),
            "label": [None] * count,
            "split": [None] * count,
            "date": ["2024-05-01T12:00:00+00:00"] * count,
            "n_windows": self.windows.groupby("file").size().tolist(),
        }
        self.__dict__["files"] = pd.DataFrame({**default, **(files or {})})
        self._model = ModelFacts(
            source="tiny", kind="stage2", key=key, dim=self.vectors_NE.shape[1], precision="fp32", frames=2, size=32
        )

    @property
    def model(self) -> ModelFacts:
        return self._model

    @property
    def rule(self) -> WindowRule:
        return self._rule

    @property
    def facts(self) -> dict[str, Any]:
        return {"seconds": 1.5}

    @property
    def generation(self) -> int:
        return 1

    def nearest(self, queries_QE: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        return exact(self.vectors_NE, np.asarray(queries_QE, dtype=np.float32), k, allowed)

    def vectors(self, windows: np.ndarray) -> np.ndarray:
        return self.vectors_NE[np.asarray(windows, dtype=np.int64)]


class SaidEmbedder(Embedder):
    """A model that gives each text the vector that a test says."""

    def __init__(self, vector_of: Mapping[str, Sequence[float]]) -> None:
        object.__setattr__(self, "vector_of", vector_of)
        object.__setattr__(self, "kind", "said")

    @property
    def key(self) -> str:  # type: ignore[override]
        return KEY

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([unit(self.vector_of[text]) for text in texts])  # type: ignore[attr-defined]


def indexed(embedder: Embedder, clips: list[Path], folder: Path) -> ArrayIndex:
    """Windows of a second and a half, two of each clip."""
    windows = [(row, start, start + 1.5) for row in range(len(clips)) for start in (0.0, 1.5)]
    frames = np.stack([clip_of(clips[row], embedder.view, span) for row, *span in windows])  # type: ignore[arg-type]
    files = {
        "file_id": [sha256_file(path) for path in clips],
        "path": [str(path) for path in clips],
        "label": [("disc", "star", None)[number % 3] for number in range(len(clips))],
        "split": ["test", "train"] * (len(clips) // 2),
        "date": [pd.Timestamp(path.stat().st_mtime, unit="s", tz="UTC").isoformat() for path in clips],
    }
    return ArrayIndex(embedder.encode_clips(torch.from_numpy(frames)).numpy(), windows, files, folder, embedder.key)


class _Held(NamedTuple):
    """Windows and vectors of files, for :func:`write_index`."""

    of_file: Mapping[str, Embedded]

    def count(self, file_id: str) -> int:
        return len(self.of_file[file_id].spans_W2)

    def get(self, file_id: str) -> Embedded:
        return self.of_file[file_id]


def write_index(index: ArrayIndex, folder: Path, source: Path) -> Path:
    """Write an index in memory as a generation on disk.

    Args:
        index: what it is to hold.
        folder: of the index.
        source: its model's folder.
    """
    of_file = {}
    for file, rows in index.windows.groupby("file"):
        spans_W2 = rows[["start_s", "end_s"]].to_numpy(dtype=np.float64)
        of_file[index.files["file_id"][file]] = Embedded(spans_W2, index.vectors_NE[rows.index])
    content = Content(
        identity="tiny",
        model=index.model.model_copy(update={"source": str(source)}),
        rule=index.rule,
        files=index.files.drop(columns="n_windows"),
        left_out=pd.DataFrame(columns=["path", "reason", "detail"]),
        facts={},
    )
    write_generation(folder, None, content, _Held(of_file))
    return folder


def unit(numbers: Sequence[float]) -> list[float]:
    """Return a vector of the same direction and length 1."""
    found = np.asarray(numbers, dtype=np.float64)
    return (found / np.linalg.norm(found)).tolist()
