"""How well an index answers: captions of its files are searched for, as a person would.

Shapes: Q captions, P captions that should find something, A that should find nothing.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.examples import spread
from umt_pipeline.evaluation.metrics import RECALL_AT
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.calibration import BestScores, Cutoff, best_scores, calibrate
from umt_pipeline.serving.search.captions import Captions, beside
from umt_pipeline.serving.search.reranking import WEIGHT
from umt_pipeline.serving.search.search import Hit, Query, search

# Queries that are asked: a share of them is then known to within five per cent.
_MOST = 500
_DEPTH = max(RECALL_AT)
# Overlap over union from which a place counts as the right one, as in the literature of moment retrieval.
IOU_AT = (0.3, 0.5, 0.7)
_EXAMPLES = 6


@dataclass(frozen=True)
class Asked:
    """A caption that was searched for, and what was found.

    Attributes:
        caption: the query.
        path: the file that it was written for.
        span: the seconds that it is about, if the table says so.
        hits: the best first.
        right: of each hit, whether its file has this caption.
    """

    caption: str
    path: str
    span: tuple[float, float] | None
    hits: tuple[Hit, ...]
    right: tuple[bool, ...]

    @property
    def rank(self) -> int | None:
        """Of the first hit in a right file, from 1; None: there is none."""
        return self.right.index(True) + 1 if True in self.right else None

    def iou(self, hit: Hit) -> float:
        """Return the overlap over union of a hit and the seconds that the caption is about; 0 in another file."""
        assert self.span is not None
        shared = min(hit.end_s, self.span[1]) - max(hit.start_s, self.span[0])
        both = max(hit.end_s, self.span[1]) - min(hit.start_s, self.span[0])
        return max(shared, 0.0) / both if hit.path == self.path and both > 0 else 0.0


@dataclass(frozen=True)
class SearchReport:
    """What was measured.

    Attributes:
        asked: by system, ``dual`` and maybe ``reranked``, what was found for each caption.
        chance: recall of a random order of the files, percent.
        scores: that the cut-off is chosen from.
        cutoff: the cut-off, or why there is none.
        milliseconds: of a query without re-ranking, the median and the 95th percentile; with it, if that was measured.
        records: all numbers with their protocols.
        facts: about the index, and what it takes.
    """

    asked: Mapping[str, Sequence[Asked]]
    chance: Mapping[str, float]
    scores: BestScores
    cutoff: Cutoff | str
    milliseconds: Mapping[str, Mapping[str, float]]
    records: Sequence[Record]
    facts: Mapping[str, Any]

    def values(self, system: str) -> dict[str, float]:
        """Return the metrics of a system, percent."""
        return scores_of(self.asked[system])

    def examples(self) -> list[Asked]:
        """Return captions to show, half of them found at once if there are so many, evenly spread."""
        asked = self.asked["dual"]
        hits = [one for one in asked if one.rank == 1]
        misses = [one for one in asked if one.rank != 1]
        wanted = min(len(hits), max(_EXAMPLES // 2, _EXAMPLES - len(misses)))
        return [*spread(hits, wanted), *spread(misses, _EXAMPLES - wanted)]


def measure(embedder: Embedder, index: Index, captions: pd.DataFrame, rerank: int = 0) -> SearchReport:
    """Search for each caption of a file of the index, or for 500 evenly spaced ones, and say how often it is found.

    Args:
        embedder: the model of the index; it reads texts.
        index: an open index.
        captions: the columns of :func:`~umt_pipeline.serving.search.captions.read_captions`, without split ``train``.
        rerank: places to rank anew with the matching head, in a second search; 0: there is none.

    Raises:
        ConfigError: no caption is of a file of the index.
        IndexingError: the index is of another model.
    """
    found = beside(index, captions)
    if found.present.empty:
        such = f", of files such as {captions['path'].iloc[0]}" if len(captions) else ""
        raise ConfigError(
            f"a report on {index.folder}: expected held-out captions of its files, found none in {len(captions):,} rows{such}; "
            f"its files have paths such as {index.files['path'].iloc[0]}, and rows of split 'train' do not count"
        )
    rows = spread(range(len(found.present)), _MOST)
    asked, milliseconds = {}, {}
    for system, places in {"dual": 0, "reranked": rerank}.items():
        if system == "dual" or places:
            asked[system], milliseconds[system] = _asked(embedder, index, found, rows, places)
    scores = best_scores(embedder, index, captions)
    splits = sorted({split for split in found.present["split"] if split})
    return SearchReport(
        asked=asked,
        chance=_chance(found, rows, len(index.files)),
        scores=scores,
        cutoff=calibrate(scores, len(index.windows)),
        milliseconds=milliseconds,
        records=[_record(index, embedder, splits, name, of, rerank) for name, of in asked.items()],
        facts=_facts(index),
    )


def scores_of(asked: Sequence[Asked]) -> dict[str, float]:
    """Return ``r1``, ``r5``, ``r10``: how often a right file is among the first hits, percent.

    If captions have seconds, also ``place``, the mean overlap over union of what they are about and the first hit in their
    file, 0 if there is none; and ``place_r1_50``: how often that of the first hit of all is at least 0.5 (30, 70: 0.3, 0.7).
    """
    ranks = np.array([np.inf if one.rank is None else one.rank for one in asked])
    values = {f"r{k}": 100 * float((ranks <= k).mean()) for k in RECALL_AT}
    spans = [one for one in asked if one.span is not None]
    if spans:
        first = np.array([one.iou(one.hits[0]) if one.hits else 0.0 for one in spans])
        own = [next((hit for hit in one.hits if hit.path == one.path), None) for one in spans]
        values["place"] = 100 * float(np.mean([one.iou(hit) if hit else 0.0 for one, hit in zip(spans, own, strict=True)]))
        values |= {f"place_r1_{100 * least:.0f}": 100 * float((first >= least).mean()) for least in IOU_AT}
    return values


def _asked(
    embedder: Embedder, index: Index, found: Captions, rows: Sequence[int], rerank: int
) -> tuple[list[Asked], dict[str, float]]:
    """Search for captions; return what was found, and the milliseconds that a query takes."""
    paths, asked, took = index.files["path"], [], []
    with progress("re-ranked search" if rerank else "search", len(rows), "caption") as show:
        for done, row in enumerate(rows, start=1):
            caption = found.present.iloc[row]
            answer = search(embedder, index, Query(text=caption["caption"], k=_DEPTH, rerank=rerank))
            right = set(paths.iloc[found.right[row]])
            span = (float(caption["start_s"]), float(caption["end_s"]))
            asked.append(
                Asked(
                    caption=caption["caption"],
                    path=caption["path"],
                    span=span if np.isfinite(span).all() else None,
                    hits=tuple(answer.hits),
                    right=tuple(hit.path in right for hit in answer.hits),
                )
            )
            took.append(answer.took["total"])
            show(done)
    return asked, {"median": float(np.median(took)), "95th percentile": float(np.percentile(took, 95))}


def _chance(found: Captions, rows: Sequence[int], files: int) -> dict[str, float]:
    """Return the recall of files in a random order."""
    wrong = np.array([files - len(found.right[row]) for row in rows], dtype=np.float64)
    values, miss = {}, np.ones(len(rows))
    for drawn in range(_DEPTH):
        miss *= np.clip(wrong - drawn, 0, None) / max(files - drawn, 1)
        values[f"r{drawn + 1}"] = 100 * float((1 - miss).mean())
    return {f"r{k}": values[f"r{k}"] for k in RECALL_AT}


def _record(
    index: Index, embedder: Embedder, splits: Sequence[str], system: str, asked: Sequence[Asked], rerank: int
) -> Record:
    unread = {hit.path for one in asked for hit in one.hits if hit.note and system == "reranked"}
    protocol = Protocol(
        split=", ".join(splits) or "all",
        annotation_sha256=rows_sha256(
            {"path": one.path, "caption": one.caption, "span": None if one.span is None else str(one.span)} for one in asked
        ),
        clips=len(index.files),
        queries=len(asked),
        failures=tuple(sorted(unread)),
        frames=embedder.view.frames,
        resolution=embedder.view.size,
        k=rerank if system == "reranked" else None,
        score_type="reranked" if system == "reranked" else "dual",
        precision=index.model.precision,
        settings={
            "windows": len(index.windows),
            **index.rule.model_dump(mode="json"),
            **({"rerank_weight": WEIGHT} if system == "reranked" else {}),
        },
        model=embedder.kind,
        checkpoint_sha256=embedder.key,
        seed=0,
    )
    return Record(task=f"search/{system}", values=scores_of(asked), protocol=protocol)


def _facts(index: Index) -> dict[str, Any]:
    # On Linux in kibibytes, on a Mac in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "files": len(index.files),
        "windows": len(index.windows),
        "hours of video": float(index.files["duration_s"].sum()) / 3600,
        "bytes of vectors, mapped into memory": 4 * index.model.dim * len(index.windows),
        "peak bytes of memory of this process, with the model": peak,
        "built": dict(index.facts),
    }
