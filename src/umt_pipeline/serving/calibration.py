"""The score from which on something counts as found, so that "nothing found" is an answer.

Captions of files that are in the index should find something, captions of files that are not should find nothing. Where
there are too few of the second kind, a caption's own file, and all that have the same caption, are hidden from it.

Shapes: P captions that should find something, A that should find nothing, E embedding width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import IndexingError
from umt_pipeline.core.files import write_json
from umt_pipeline.core.progress import progress
from umt_pipeline.serving.captions import beside
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index

# Fewer captions give error rates in steps of more than five per cent.
LEAST = 20
# More than that change a rate by less than two per cent, and take minutes on a CPU.
MOST = 2000
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
    """Return the cut-off that is kept with an index for its model, if there is one; it outlives additions of files."""
    path = _cutoff_file(index)
    try:
        return Cutoff.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IndexingError(f"{path}: expected a cut-off, found: {error}; delete the file, and calibrate again") from error


def keep_cutoff(index: Index, cutoff: Cutoff) -> Path:
    """Write a cut-off beside the generations of an index, in place of the one before; return the file."""
    path = _cutoff_file(index)
    write_json(path, cutoff.model_dump(mode="json"))
    return path


def _cutoff_file(index: Index) -> Path:
    # By model: an index of another one, built beside this, has its own.
    return index.folder / f"cutoff-{index.model.key[:16]}.json"


def calibrate(embedder: Embedder, index: Index, captions: pd.DataFrame) -> Cutoff | str:
    """Return the cut-off of an index at which both kinds of errors together are fewest, or why there is none.

    The error rates are not those of the captions that the cut-off was chosen by: half of the files choose the cut-off that
    the other half is judged by, and the other way round.

    Args:
        embedder: the model of the index; it reads texts.
        index: an open index.
        captions: the columns of :func:`umt_pipeline.serving.captions.read_captions`; those of split ``train`` are left out.
    """
    found = beside(index, captions)
    kept = _spread(len(found.present))
    if len(kept) < LEAST:
        return f"no cut-off: expected at least {LEAST} held-out captions of files in the index, found {len(kept)}"
    present = found.present.iloc[kept]
    present_PE = _embedded(embedder, present["caption"].tolist())
    best_P = index.nearest(present_PE, 1)[0][:, 0]
    hidden = len(found.absent) < LEAST
    if hidden:
        best_A = np.array([_hidden(index, vector, found.right[row]) for vector, row in zip(present_PE, kept, strict=True)])
        paths_A = present["path"].to_numpy()
        paths_A, best_A = paths_A[np.isfinite(best_A)], best_A[np.isfinite(best_A)]
    else:
        absent = found.absent.iloc[_spread(len(found.absent))]
        best_A = index.nearest(_embedded(embedder, absent["caption"].tolist()), 1)[0][:, 0]
        paths_A = absent["path"].to_numpy()
    if len(best_A) < LEAST:
        return f"no cut-off: expected at least {LEAST} captions that nothing in the index fits, found {len(best_A)}"
    missed, invented = _judged(best_P, _halves(present["path"].to_numpy()), best_A, _halves(paths_A))
    return Cutoff(
        score=fewest_errors(best_P, best_A),
        missed=missed,
        invented=invented,
        present=len(best_P),
        absent=len(best_A),
        hidden=hidden,
        windows=len(index.windows),
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


def _judged(best_P: np.ndarray, half_P: np.ndarray, best_A: np.ndarray, half_A: np.ndarray) -> tuple[float, float]:
    """Return both shares of errors, each half judged by the cut-off of the other."""
    missed = invented = 0
    for half in (False, True):
        chosen_P, chosen_A = best_P[half_P != half], best_A[half_A != half]
        cut = fewest_errors(chosen_P, chosen_A) if len(chosen_P) and len(chosen_A) else fewest_errors(best_P, best_A)
        missed += int((best_P[half_P == half] < cut).sum())
        invented += int((best_A[half_A == half] >= cut).sum())
    return missed / len(best_P), invented / len(best_A)


def _halves(paths: np.ndarray) -> np.ndarray:
    """Return a half for each caption: all of a file are in the same."""
    return np.unique(paths, return_inverse=True)[1] % 2 == 1


def _spread(count: int) -> np.ndarray:
    """Return which of many captions are looked at: evenly spaced ones."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, MOST)).astype(np.int64))


def _embedded(embedder: Embedder, texts: list[str]) -> np.ndarray:
    parts = []
    with progress("captions", len(texts), "caption") as show:
        for start in range(0, len(texts), _TEXTS):
            parts.append(embedder.encode_texts(texts[start : start + _TEXTS]).numpy())
            show(min(start + _TEXTS, len(texts)))
    return np.concatenate(parts)


def _hidden(index: Index, vector_E: np.ndarray, files: np.ndarray) -> float:
    """Return the best score of a caption's vector among the windows of other files; -inf: there are none."""
    allowed_n = ~np.isin(index.windows["file"].to_numpy(), files)
    scores_11, windows_11 = index.nearest(vector_E[None], 1, allowed_n)
    return float(scores_11[0, 0]) if windows_11[0, 0] >= 0 else -np.inf
