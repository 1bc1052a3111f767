"""The score from which on something counts as found, so that "nothing found" is an answer.

Captions of files that are in the index should find something, captions of files that are not should find nothing. Where
there are too few of the second kind, a caption's own file, and all that have the same caption, are hidden from it.

Shapes: P captions that should find something, A that should find nothing, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.files import write_json
from umt_pipeline.core.progress import progress
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.captions import beside

# Fewer captions give error rates in steps of more than five per cent.
LEAST = 20
# More than that change a rate by less than two per cent, and take minutes on a CPU.
MOST = 2000
# Both error rates together, from which on there is no cut-off: guessing has 1. What hides right answers has to be worth it.
WORTH = 0.8
_TEXTS = 64


class Cutoff(Config):
    """A cut-off with the errors to expect of it.

    Attributes:
        score: cosine from which on something counts as found.
        missed: share of captions of files in the index for which nothing is found.
        invented: share of captions of other files for which something is found.
        present: captions that the first share is of.
        absent: captions that the second share is of.
        hidden: whether those are captions of files of the index that were hidden from them, for want of others.
        windows: of the index that it was calibrated on; the more there are, the better the best of them scores.
    """

    score: float
    missed: float = Field(ge=0, le=1)
    invented: float = Field(ge=0, le=1)
    present: int
    absent: int
    hidden: bool
    windows: int

    @property
    def sentence(self) -> str:
        """What it is, and how often it is wrong."""
        others = f"{self.absent:,} captions of {'files hidden from them' if self.hidden else 'files that are not in it'}"
        return (
            f"cut-off {self.score:.3f}: nothing is found for {self.missed:.1%} of {self.present:,} captions of files in the "
            f"index, something for {self.invented:.1%} of {others}"
        )


def cutoff_of(index: Index) -> Cutoff | None:
    """Return the cut-off that is kept with an index for its model and windows, if any; it outlives additions of files."""
    path = _cutoff_file(index)
    try:
        return Cutoff.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IndexingError(f"{path}: expected a cut-off, found: {error}; delete the file, and calibrate again") from error


def outdated_cutoff(index: Index) -> str | None:
    """Say that a cut-off does not count any more, where an index has one of its model, of other windows; None: it has not."""
    if not _kept(index) - {_cutoff_file(index)}:
        return None
    return (
        f"no cut-off: the one that was calibrated is of other windows than those of this index ({index.rule.told}), which "
        "score otherwise; all hits count as found. Calibrate again: `umt index` with --captions or --env"
    )


def keep_cutoff(index: Index, cutoff: Cutoff | str) -> Path:
    """Write a cut-off beside the generations of an index, in place of those before of its model; return the file.

    Args:
        index: an open index.
        cutoff: from :func:`calibrate`; why there is none: then the one before does not count any more, either.
    """
    path = _cutoff_file(index)
    if not isinstance(cutoff, str):
        write_json(path, cutoff.model_dump(mode="json"))
    for other in _kept(index) - ({path} if not isinstance(cutoff, str) else set()):
        other.unlink(missing_ok=True)
    return path


def _cutoff_file(index: Index) -> Path:
    # By model and windows: an index of others, built beside this, has its own, and longer windows score otherwise.
    rule = json.dumps(index.rule.model_dump(mode="json"), sort_keys=True)
    return index.folder / f"cutoff-{index.model.key[:16]}-{hashlib.sha256(rule.encode()).hexdigest()[:8]}.json"


def _kept(index: Index) -> set[Path]:
    """Return the files of all cut-offs of the model, of whatever windows."""
    return set(index.folder.glob(f"cutoff-{index.model.key[:16]}*.json"))


@dataclass(frozen=True)
class BestScores:
    """The best score that an index has for each of some captions, from which a cut-off is chosen.

    Attributes:
        present_P: of captions of files in the index.
        present_files: path of the file of each.
        absent_A: of captions that nothing in the index should fit.
        absent_files: path of the file of each.
        hidden: whether those are captions of files of the index that were hidden from them.
    """

    present_P: np.ndarray
    present_files: np.ndarray
    absent_A: np.ndarray
    absent_files: np.ndarray
    hidden: bool


def best_scores(embedder: Embedder, index: Index, captions: pd.DataFrame) -> BestScores:
    """Return the best score that an index has for each caption, or for evenly spaced ones of many.

    Args:
        embedder: the model of the index; it reads texts.
        index: an open index.
        captions: the columns of :func:`~umt_pipeline.serving.search.captions.read_captions`, without split ``train``.
    """
    found = beside(index, captions)
    rows_P = _spread(len(found.present))
    present = found.present.iloc[rows_P]
    present_PE = _embedded(embedder, present["caption"].tolist(), index.model.dim)
    best_P, files_P = _best(index, present_PE), present["path"].to_numpy()
    if len(found.absent) < LEAST:
        best_A = _best_elsewhere(index, present_PE, [found.right[row] for row in rows_P])
        some_A = np.isfinite(best_A)  # a caption that fits all files has nothing left to find
        return BestScores(best_P, files_P, best_A[some_A], files_P[some_A], hidden=True)
    absent = found.absent.iloc[_spread(len(found.absent))]
    absent_AE = _embedded(embedder, absent["caption"].tolist(), index.model.dim)
    return BestScores(best_P, files_P, _best(index, absent_AE), absent["path"].to_numpy(), hidden=False)


def calibrate(scores: BestScores, windows: int) -> Cutoff | str:
    """Return the cut-off at which both kinds of errors together are fewest, or why there is none.

    There is none if captions are few, or if it may hardly be better than guessing, whose two kinds of errors add up to 1.

    Args:
        scores: of captions.
        windows: of the index.
    """
    for name, count in (("in the index", len(scores.present_P)), ("that are not found there", len(scores.absent_A))):
        if count < LEAST:
            return f"no cut-off: expected at least {LEAST} held-out captions of files {name}, found {count}"
    missed, invented = error_rates(scores)
    # Captions of one file go wrong together: there are as many chances as files.
    files, others_files = len(np.unique(scores.present_files)), len(np.unique(scores.absent_files))
    spread = math.sqrt(missed * (1 - missed) / files + invented * (1 - invented) / others_files)
    if missed + invented + 2 * spread >= WORTH:
        others = "of others"
        remedy = "calibrate on more captions"
        if scores.hidden:
            others = "of the same captions while their own files were hidden"
            remedy = (
                f"if other files fit them as well, as where many are alike, calibrate on at least {LEAST} captions of files "
                "that are not in the index, too (--captions)"
            )
        return (
            f"no cut-off: it would find nothing for {missed:.1%} of captions of files in the index, and something for "
            f"{invented:.1%} {others}; that is hardly better than guessing, or there are too few captions to tell. All hits "
            f"count as found; {remedy}"
        )
    return Cutoff(
        score=fewest_errors(scores.present_P, scores.absent_A),
        missed=missed,
        invented=invented,
        present=len(scores.present_P),
        absent=len(scores.absent_A),
        hidden=scores.hidden,
        windows=windows,
    )


def fewest_errors(present_P: np.ndarray, absent_A: np.ndarray) -> float:
    """Return the score that parts two kinds best: in the middle between two neighbours, the lowest of equally good ones.

    Args:
        present_P: best scores of captions that should find something.
        absent_A: those of captions that should find nothing.
    """
    scores = np.unique(np.concatenate([present_P, absent_A]).astype(np.float64))
    cuts = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2])
    missed = np.searchsorted(np.sort(present_P), cuts) / len(present_P)
    invented = 1 - np.searchsorted(np.sort(absent_A), cuts) / len(absent_A)
    return float(cuts[np.argmin(missed + invented)])


def error_rates(scores: BestScores) -> tuple[float, float]:
    """Return the shares of captions that find nothing, and that find something, and should not.

    Each half of the files is judged by the cut-off that the other half chooses.
    """
    half_P, half_A = _halves(scores.present_files), _halves(scores.absent_files)
    missed = invented = 0
    for half in (False, True):
        # With the captions of a single file there is no other half.
        other_P = half_P != half if (half_P != half).any() else half_P == half
        other_A = half_A != half if (half_A != half).any() else half_A == half
        cut = fewest_errors(scores.present_P[other_P], scores.absent_A[other_A])
        missed += int((scores.present_P[half_P == half] < cut).sum())
        invented += int((scores.absent_A[half_A == half] >= cut).sum())
    return missed / len(half_P), invented / len(half_A)


def _halves(paths: np.ndarray) -> np.ndarray:
    """Return a half for each caption: all of a file are in the same."""
    return np.unique(paths, return_inverse=True)[1] % 2 == 1


def _spread(count: int) -> np.ndarray:
    """Return which of many captions are looked at: evenly spaced ones."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST)).astype(np.int64))


def _embedded(embedder: Embedder, texts: list[str], dim: int) -> np.ndarray:
    parts = [np.zeros((0, dim), dtype=np.float32)]
    with progress("captions", len(texts), "caption") as show:
        for start in range(0, len(texts), _TEXTS):
            parts.append(embedder.encode_texts(texts[start : start + _TEXTS]).numpy())
            show(min(start + _TEXTS, len(texts)))
    return np.concatenate(parts)


def _best(index: Index, vectors_PE: np.ndarray) -> np.ndarray:
    """Return the best score of each vector, float32 [P]."""
    parts = [index.nearest(block_BE, 1)[0][:, 0] for block_BE in _blocks(vectors_PE)]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _best_elsewhere(index: Index, vectors_PE: np.ndarray, hidden_P: Sequence[np.ndarray]) -> np.ndarray:
    """Return the best score of each vector among windows of files that are not hidden from it, float32 [P]; -inf: none."""
    file_n = index.windows["file"].to_numpy()
    windows_of = np.bincount(file_n, minlength=len(index.files))
    best_P = np.full(len(vectors_PE), -np.inf, dtype=np.float32)
    at = 0
    for block_BE in _blocks(vectors_PE):
        # Beyond all windows of the hidden files there is another one, if the index has one.
        most = max(int(windows_of[hidden].sum()) for hidden in hidden_P[at : at + len(block_BE)]) + 1
        scores_BK, windows_BK = index.nearest(block_BE, min(most, len(file_n)))
        for scores_K, windows_K in zip(scores_BK, windows_BK, strict=True):
            other_K = (windows_K >= 0) & ~np.isin(file_n[windows_K], hidden_P[at])
            if other_K.any():
                best_P[at] = scores_K[other_K.argmax()]
            at += 1
    return best_P


def _blocks(vectors_PE: np.ndarray) -> list[np.ndarray]:
    # Few at a time: an exact search holds the scores of all of them.
    return np.split(vectors_PE, range(_TEXTS, len(vectors_PE), _TEXTS)) if len(vectors_PE) else []
