"""What a search costs in one process: an index of drawn windows is built, opened, and asked.

Shapes: n windows, Q queries, K found, E embedding width.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from drawn_windows import PER_FILE, World
from model_folders import sentences
from serve_clients import memory_mib

from umt_pipeline import load
from umt_pipeline.core.files import link_or_copy
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.gathering import Asked
from umt_pipeline.serving.embedding.shelf import Embedded
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.building import build_index as index_folder
from umt_pipeline.serving.index.layout import ModelFacts
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import Content, write_generation
from umt_pipeline.serving.search.search import Filters, Query, search

K, SECONDS_OF_WINDOW = 10, 1.0
# Labels, and the share of the files that have them: what a filter leaves.
LABELS = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}
WARM_UP = 10
BLOCK = 50_000


@dataclass(frozen=True)
class Latency:
    """Of queries one after another, in ms, of which the text; of the index alone; and the share of the right windows."""

    p50: float
    p95: float
    text_p50: float
    index_p50: float
    index_p95: float
    recall: float


@dataclass(frozen=True)
class Measured:
    """One index, and what a search in it costs.

    Args:
        model: whose text encoder asks.
        windows: n.
        dim: E.
        kind: of the index, as it says itself.
        build_s: from vectors in memory to an index that can be opened.
        disk_mib: all its files.
        vectors_mib: of them the vectors themselves.
        open_s: to open it, hashes checked.
        own_mib: memory that a process has of its own after all queries, more than before it was opened.
        mapped_mib: pages of files that it has mapped by then; the system takes them back when it needs them.
        latency: by filter; "" is none.
        rerank_s: seconds of a query that is re-ranked, by the number of windows; empty: not measured.
    """

    model: str
    windows: int
    dim: int
    kind: str
    build_s: float
    disk_mib: float
    vectors_mib: float
    open_s: float
    own_mib: float
    mapped_mib: float
    latency: dict[str, Latency]
    rerank_s: dict[int, float]


def linked_media(media: Path, folder: Path, files: int) -> list[str]:
    """Return so many paths, which are links to a few files that can be decoded."""
    folder.mkdir(parents=True)
    found = []
    for number, path in enumerate(itertools.islice(itertools.cycle(sorted(media.iterdir())), files)):
        link = folder / f"{number:06d}{path.suffix}"
        link_or_copy(path, link)
        found.append(str(link))
    return found


class DrawnVectors:
    """Vectors of files, as a build of an index reads them; they are in memory, so that drawing them is not timed."""

    def __init__(self, world: World) -> None:
        self._vectors_nE = np.empty((world.windows, world.dim), dtype=np.float32)
        start = 0
        for block_nE in world.blocks():
            self._vectors_nE[start : start + len(block_nE)] = block_nE
            start += len(block_nE)

    def count(self, file_id: str) -> int:
        return len(self._rows(file_id))

    def get(self, file_id: str) -> Embedded:
        vectors_WE = self._rows(file_id)
        starts_W = SECONDS_OF_WINDOW * np.arange(len(vectors_WE))
        return Embedded(np.stack([starts_W, starts_W + SECONDS_OF_WINDOW], axis=1), vectors_WE)

    def _rows(self, file_id: str) -> np.ndarray:
        start = PER_FILE * int(file_id, 16)
        return self._vectors_nE[start : start + PER_FILE]


def files_table(world: World, paths: Sequence[str]) -> pd.DataFrame:
    """Return what an index says of its files, whose numbers are their names."""
    counts = [math.ceil(share * len(paths)) for share in LABELS.values()]
    labels = np.repeat([*LABELS, "rest"], [*counts, len(paths) - sum(counts)])
    dates = [datetime.fromtimestamp(Path(path).stat().st_mtime, UTC).isoformat() for path in paths]
    return pd.DataFrame(
        {
            "file_id": [f"{number:064x}" for number in range(len(paths))],
            "path": paths,
            "media": "video",
            "duration_s": PER_FILE * SECONDS_OF_WINDOW,
            "label": world.rng(7).permutation(labels),
            "split": "train",
            "date": dates,
        }
    )


def build_index(model_folder: Path, folder: Path, world: World, paths: Sequence[str]) -> dict[str, object]:
    """Write an index of drawn windows as `umt index` writes one, once it has the vectors."""
    embedder = load(model_folder).embedder
    assert embedder is not None
    vectors, view = DrawnVectors(world), embedder.view
    content = Content(
        identity="drawn",
        model=ModelFacts(
            source=str(model_folder),
            kind=embedder.kind,
            key=embedder.key,
            dim=world.dim,
            precision=embedder.encoder.precision,
            frames=view.frames,
            size=view.size,
        ),
        rule=WindowRule(length_s=SECONDS_OF_WINDOW, stride_s=SECONDS_OF_WINDOW, snap_s=0.0),
        files=files_table(world, paths),
        left_out=pd.DataFrame({name: pd.Series(dtype=str) for name in ("path", "reason", "detail")}),
        facts={},
    )
    began = time.perf_counter()
    manifest = write_generation(folder, None, content, vectors)
    seconds = time.perf_counter() - began
    kinds = {json.dumps(segment.search) for segment in manifest.segments}
    assert len(kinds) == 1
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {
        "kind": json.loads(kinds.pop())["kind"],
        "build_s": seconds,
        "disk_mib": sum(sizes) / 2**20,
        "vectors_mib": sum(path.stat().st_size for path in folder.rglob("*.npy")) / 2**20,
    }


def measure_search(model_folder: Path, index_folder: Path, queries: int, rerank: Sequence[int]) -> dict[str, object]:
    """Ask an index, one query after another."""
    model = load(model_folder)
    assert model.embedder is not None
    texts = sentences()[:queries]
    queries_QE = model.embed_texts(texts).numpy()
    before = memory_mib()
    began = time.perf_counter()
    with Index.open(index_folder) as index:
        opened = time.perf_counter() - began
        asked = {label: ask_texts(model.embedder, index, queries_QE, label) for label in ("", *LABELS)}
        after = memory_mib()
        reranked = {}
        for count in rerank:
            start = time.perf_counter()
            search(model.embedder, index, Query(text=texts[0], k=K, rerank=count))
            reranked[count] = time.perf_counter() - start
        # At last: it reads all vectors, which are counted as memory then.
        latency = {label: one.latency(index, queries_QE) for label, one in asked.items()}
    return {
        "open_s": opened,
        "own_mib": after["RssAnon"] - before["RssAnon"],
        "mapped_mib": after["RssFile"] - before["RssFile"],
        "latency": latency,
        "rerank_s": reranked,
    }


@dataclass(frozen=True)
class AskedTexts:
    """Queries that were asked one after another.

    Args:
        took_ms: of each.
        text_ms: of it, the text.
        index_ms: of each, when the index alone was asked.
        found_QK: windows that it found.
        allowed: bool [n], windows that might be found; None: all.
    """

    took_ms: list[float]
    text_ms: list[float]
    index_ms: list[float]
    found_QK: np.ndarray
    allowed: np.ndarray | None

    def latency(self, index: Index, queries_QE: np.ndarray) -> Latency:
        """Sum up; what was found is compared with what each window answers."""
        (p50, p95), (index_p50, index_p95) = (np.percentile(ms, (50, 95)).tolist() for ms in (self.took_ms, self.index_ms))
        share = recall(self.found_QK, exact(index, queries_QE, self.allowed))
        return Latency(p50, p95, float(np.median(self.text_ms)), index_p50, index_p95, share)


def ask_texts(embedder: Embedder, index: Index, queries_QE: np.ndarray, label: str = "") -> AskedTexts:
    """Ask for the first sentences, whose vectors are known, among files of a label, if one is given."""
    filters = Filters(label=label or None)
    allowed = filters.allowed(index)
    index_ms, found_QK = ask_index(index, queries_QE, allowed)
    texts = sentences()[: len(queries_QE)]
    took_ms, text_ms = [], []
    for text in [*texts[:WARM_UP], *texts]:
        start = time.perf_counter()
        found = search(embedder, index, Query(text=text, k=K, filters=filters))
        took_ms.append(1000 * (time.perf_counter() - start))
        text_ms.append(found.took["embed"])
    return AskedTexts(took_ms[WARM_UP:], text_ms[WARM_UP:], index_ms, found_QK, allowed)


def ask_index(index: Index, queries_QE: np.ndarray, allowed: np.ndarray | None) -> tuple[list[float], np.ndarray]:
    """Return the ms of each query and the windows [Q, K] that were found."""
    took, found = [], []
    for query_E in [*queries_QE[:WARM_UP], *queries_QE]:
        start = time.perf_counter()
        found.append(index.nearest(query_E[None], K, allowed)[1][0])
        took.append(1000 * (time.perf_counter() - start))
    return took[WARM_UP:], np.stack(found[WARM_UP:])


def exact(index: Index, queries_QE: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Return the nearest windows [Q, K] of all that are allowed, each compared."""
    rows_n = np.arange(len(index.windows)) if allowed is None else np.flatnonzero(allowed)
    best_Qm, best_rows_Qm = [], []
    for start in range(0, len(rows_n), BLOCK):
        block_n = rows_n[start : start + BLOCK]
        scores_Qn = queries_QE @ index.vectors(block_n).T
        top_QK = np.argsort(-scores_Qn, axis=1)[:, :K] if len(block_n) <= K else np.argpartition(-scores_Qn, K, axis=1)[:, :K]
        best_Qm.append(np.take_along_axis(scores_Qn, top_QK, axis=1))
        best_rows_Qm.append(block_n[top_QK])
    scores_Qm, rows_Qm = np.concatenate(best_Qm, axis=1), np.concatenate(best_rows_Qm, axis=1)
    return np.take_along_axis(rows_Qm, np.argsort(-scores_Qm, axis=1)[:, :K], axis=1)


def recall(found_QK: np.ndarray, right_QK: np.ndarray) -> float:
    """Return the share of the right windows that were found."""
    return float(np.mean([np.isin(right_K, found_K).mean() for found_K, right_K in zip(found_QK, right_QK, strict=True)]))


@dataclass(frozen=True)
class Folder:
    """A folder of real files, indexed and asked.

    Args:
        model: what embedded them.
        facts: counts of files and windows, seconds of each part, bytes.
        kind: of the index.
        latency: of queries without a filter.
    """

    model: str
    facts: dict[str, Any]
    kind: str
    latency: Latency


def measure_folder(title: str, model_folder: Path, folder: Path, videos: Path, queries: int) -> Folder:
    """Index a folder as `umt index` does, and ask."""
    model = load(model_folder)
    assert model.embedder is not None
    built = index_folder(folder, Asked(videos), model.embedder, str(model_folder))
    queries_QE = model.embed_texts(sentences()[:queries]).numpy()
    with Index.open(folder) as index:
        latency = ask_texts(model.embedder, index, queries_QE).latency(index, queries_QE)
    return Folder(title, built.manifest.facts, built.manifest.segments[0].search["kind"], latency)
