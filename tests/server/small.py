"""Small videos, a tiny model, their index, and a server of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from starlette.testclient import TestClient

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables
from tests.serving.folders import write_folder
from tests.video_files import write_video
from umt_pipeline.core.files import sha256_file
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.server.app import make_app, make_serving
from umt_pipeline.server.known import Known, write_known_clip
from umt_pipeline.server.limits import Limits
from umt_pipeline.server.shelf import Served
from umt_pipeline.server.state import Serving
from umt_pipeline.serving.embedding.shelf import Embedded
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.layout import ModelFacts
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import Content, write_generation
from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.serving.models import Model

# Names, codings and labels of the videos; a browser plays one of them as it is.
VIDEOS = (
    ("one.mp4", "libx264", "ring"),
    ("two.mp4", "libx264", "star"),
    ("old.avi", "mpeg4", "ring"),
    ("bare.mp4", "libx264", None),
)
RULE = WindowRule(length_s=1.0, stride_s=1.0, snap_s=0.0)


@dataclass(frozen=True)
class Small:
    """What is served.

    Attributes:
        folder: of everything.
        tables: whose words the model knows.
    """

    folder: Path
    tables: Tables

    @property
    def videos(self) -> Path:
        """Folder of the videos, of three seconds each."""
        return self.folder / "videos"

    @property
    def model(self) -> Path:
        """Folder of a stage-2 model."""
        return self.folder / "stage2"

    @property
    def index(self) -> Path:
        """Folder of its index."""
        return self.folder / "index"

    def other(self, kind: str, seed: int = 1) -> Path:
        """Return another model's folder."""
        folder = self.folder / f"{kind}-{seed}"
        return folder if folder.is_dir() else write_folder(kind, folder, self.tables, seed=seed)

    def served(self, name: str = "tiny", source: Path | None = None, index: Path | None = None, **options: Any) -> Served:
        """Return a model with its index, ready."""
        clip = self.folder / "known.mp4"
        if not clip.exists():
            write_known_clip(clip)
        model = umt.load(source or self.model, **options)
        opened = Index.open(index or self.index) if model.embedder is not None else None
        return Served(name, model, opened, Known.of(model, clip))


def make_small(folder: Path) -> Small:
    """Make videos, a model and an index in a folder."""
    small = Small(folder, make_tables(folder / "tables", ("train", "test")))
    for number, (name, codec, _) in enumerate(VIDEOS):
        write_video(small.videos / name, 24, codec=codec, fps=8, first_number=50 * number, height=96, width=128)
    write_folder("stage2", small.model, small.tables)
    build_index(small.index, umt.load(small.model), sorted(small.videos.iterdir()))
    return small


class _InMemory:
    def __init__(self, of: dict[str, Embedded]) -> None:
        self._of = of

    def count(self, file_id: str) -> int:
        return len(self._of[file_id].vectors_WE)

    def get(self, file_id: str) -> Embedded:
        return self._of[file_id]


def build_index(folder: Path, model: Model, paths: Sequence[Path]) -> Index:
    """Write a generation of an index of videos, a window for each of their three seconds."""
    embedder = model.embedder
    assert embedder is not None
    label_of = {name: label for name, _, label in VIDEOS}
    rows, vectors = [], {}
    for path in paths:
        file_id, spans = sha256_file(path), [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
        frames = np.stack([clip_of(path, embedder.view, span) for span in spans])
        vectors[file_id] = Embedded(np.array(spans), embed(model, frames))
        day = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
        rows.append((file_id, str(path), "video", 3.0, label_of.get(path.name), "test", day))
    files = pd.DataFrame(rows, columns=["file_id", "path", "media", "duration_s", "label", "split", "date"])
    facts = ModelFacts(
        source=str(model.source), kind=model.kind, key=embedder.key, dim=embedder.dim, precision="fp32",
        frames=embedder.view.frames, size=embedder.view.size,
    )  # fmt: skip
    left_out = pd.DataFrame({"path": [], "reason": [], "detail": []}, dtype=str)
    content = Content("small", facts, RULE, files, left_out, {})
    folder.mkdir(exist_ok=True)
    write_generation(folder, None, content, _InMemory(vectors))
    return Index.open(folder)


def embed(model: Model, frames_BTSSC: np.ndarray) -> np.ndarray:
    """Return unit vectors of clips."""
    assert model.embedder is not None
    return model.embedder.encode_clips(torch.from_numpy(frames_BTSSC)).numpy()


@contextmanager
def started(
    served: Sequence[Served], cache: Path, limits: Limits | None = None, token: str | None = None
) -> Iterator[tuple[TestClient, Serving]]:
    """Yield a client of a server in this process, and the server's parts."""
    serving = make_serving(served, cache, limits)
    app = make_app(serving, token, only_loopback=True)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client, serving
