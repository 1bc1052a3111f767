"""Places ranked anew by the matching head, on frames that are read for the purpose.

Shapes: B windows of a batch, T frames of a view of side S.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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


def rematched(embedder: Embedder, index: Index, text: str, places: Sequence[Place]) -> dict[int, float | str]:
    """Return, by window number, how well the best window of each place and a text belong together, or why that is not known.

    Args:
        embedder: a model with a matching head.
        index: that the places are of.
        text: the query.
        places: what to look at.

    Returns:
        The head's logit of each window, or a text: its file has vanished, or cannot be read any more.
    """
    paths, windows = index.files["path"], index.windows

    def load(window: int) -> np.ndarray:
        row = windows.iloc[window]
        span = (float(row["start_s"]), float(row["end_s"]))
        return clip_of(Path(paths.iloc[int(row["file"])]), embedder.view, span if span[1] > span[0] else None)

    found: dict[int, float | str] = {}
    threads = min(_BATCH, os.cpu_count() or 1)
    for read, failures in decoded([place.window for place in places], load, _BATCH, threads):
        found.update(failures)
        if read:
            frames_BTSSC = torch.from_numpy(np.stack(list(read.values())))
            found.update(zip(read, embedder.match(frames_BTSSC, [text] * len(read)).tolist(), strict=True))
    return found


def reordered(places: Sequence[Place], match_of: Mapping[int, float | str]) -> list[Place]:
    """Return places with those first that the matching head knows, the best match first; the others stay as they are."""

    def key(place: Place) -> tuple[float, float, int]:
        match = match_of.get(place.window)
        return (-match if isinstance(match, float) else np.inf, *place.rank_key)

    return sorted(places, key=key)
