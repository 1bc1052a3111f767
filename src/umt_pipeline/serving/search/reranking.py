"""Places ranked anew with the matching head, on frames that are read for the purpose.

They are ordered by the weighted sum of :mod:`umt_pipeline.evaluation.reranking` with the weight of a perfect head, a half:
whoever searches has no captions to choose another one by, and the head alone would throw the cosine away.

Shapes: B windows of a batch, T frames of a view of side S.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.serving.search.hits import Place

# Windows for which the tokens of a clip are in memory at a time.
_BATCH = 8
# Of the matching head, beside the cosine.
WEIGHT = 0.5


@dataclass(frozen=True)
class Match:
    """What the matching head says of a window and a text.

    Attributes:
        logit: of a match.
        log_odds: of a match: the difference to the logit of none.
    """

    logit: float
    log_odds: float


def rematched(embedder: Embedder, index: Index, text: str, places: Sequence[Place]) -> dict[int, Match | str]:
    """Return, by window number, how well the best window of each place and a text belong together, or why that is not known.

    Args:
        embedder: a model with a matching head.
        index: that the places are of.
        text: the query.
        places: what to look at.

    Returns:
        What the head says of each window, or a text: its file has vanished, or cannot be read any more.
    """
    paths, windows = index.files["path"], index.windows

    def load(window: int) -> np.ndarray:
        row = windows.iloc[window]
        span = (float(row["start_s"]), float(row["end_s"]))
        return clip_of(Path(paths.iloc[int(row["file"])]), embedder.view, span if span[1] > span[0] else None)

    found: dict[int, Match | str] = {}
    threads = min(_BATCH, os.cpu_count() or 1)
    for read, failures in decoded([place.window for place in places], load, _BATCH, threads):
        found.update(failures)
        if read:
            frames_BTSSC = torch.from_numpy(np.stack(list(read.values())))
            logits_B2 = embedder.match_logits(frames_BTSSC, [text] * len(read)).double()
            matches = (Match(yes, yes - no) for no, yes in logits_B2.tolist())
            found.update(zip(read, matches, strict=True))
    return found


def reordered(places: Sequence[Place], match_of: Mapping[int, Match | str], temperature: float) -> list[Place]:
    """Return places with those first that the matching head knows, the best first; the others stay as they are.

    Args:
        places: in the order of their cosines.
        match_of: of :func:`rematched`.
        temperature: divisor of the cosines, as the model learnt it.
    """

    def key(place: Place) -> tuple[float, float, int]:
        match = match_of.get(place.window)
        if not isinstance(match, Match):
            return np.inf, *place.rank_key
        return -((1 - WEIGHT) * place.score / temperature + WEIGHT * match.log_odds), *place.rank_key

    return sorted(places, key=key)
