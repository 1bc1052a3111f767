"""What an index is to hold, made up: files with random vectors, and no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.serving.embedding.shelf import Embedded
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.layout import Manifest, ModelFacts
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import Content, write_generation

DIM = 8
MODEL = ModelFacts(source="models/one", kind="stage2", key="a" * 64, dim=DIM, precision="fp32", frames=2, size=32)


def embedded(seed: int, windows: int, dim: int = DIM) -> Embedded:
    """Return unit vectors of windows of 10 seconds, 5 apart."""
    rng = np.random.default_rng(seed)
    vectors_WE = rng.standard_normal((windows, dim)).astype(np.float32)
    starts = 5.0 * np.arange(windows)
    return Embedded(np.stack([starts, starts + 10], axis=1), vectors_WE / np.linalg.norm(vectors_WE, axis=1, keepdims=True))


@dataclass
class Made:
    """Vectors by file, and how often each was asked for."""

    of: Mapping[str, Embedded]
    asked: list[str] = field(default_factory=list)

    def count(self, file_id: str) -> int:
        return len(self.of[file_id].spans_W2)

    def get(self, file_id: str) -> Embedded:
        self.asked.append(file_id)
        return self.of[file_id]


def content(paths: Mapping[str, str], identity: str = "one", model: ModelFacts = MODEL) -> Content:
    """Return what a generation is to hold of files, by their ids."""
    files = pd.DataFrame(
        {
            "file_id": pd.Series(list(paths), dtype=object),
            "path": pd.Series(list(paths.values()), dtype=object),
            "media": "video",
            "label": None,
            "split": None,
            "date": "2026-01-02T03:04:05+00:00",
        }
    )
    left_out = pd.DataFrame({"path": [], "reason": [], "detail": []}, dtype=str)
    return Content(identity, model, WindowRule(), files, left_out, {})


def write(folder: Path, of: Mapping[str, Embedded], paths: Mapping[str, str] | None = None) -> Manifest:
    """Write the next generation of an index, of all files that are given."""
    old = Index.open(folder) if (folder / "current.json").is_file() else None
    return write_generation(folder, old, content(paths or {name: f"/videos/{name}.mp4" for name in of}), Made(of))
