"""What the best clip has in common with the described one: shape, colour, size, motion, or any other label task.

Recall says that the wrong clip came first; agreement says what was wrong about it.

Shapes: Q text queries, L of them whose clip has a label, U distinct texts, C clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from umt_pipeline.evaluation.metrics import NoDataError, best_candidates
from umt_pipeline.evaluation.retrieval import RetrievalSet, SystemScores


@dataclass(frozen=True)
class Agreement:
    """Whether the best clips have the labels of the queries' own.

    Args:
        query_L: the text-to-video queries whose own clip has a label.
        agrees_L: bool, of each.
        found_L: the best clip's label, object; None where it has none, or no clip has features.
        own_L: the label of the query's own clip, object.
    """

    query_L: np.ndarray
    agrees_L: np.ndarray
    found_L: np.ndarray
    own_L: np.ndarray

    @property
    def value(self) -> float:
        """How often they agree, in percent."""
        return 100.0 * float(self.agrees_L.mean())


def top1_agreement(data: RetrievalSet, scores: SystemScores, label_of: Mapping[str, str]) -> Agreement:
    """Return for which queries the top-1 clip has the label of the query's own clip.

    Ties are pessimistic: of several best clips all must agree. A query whose own clip has no features, and a best clip
    without a label, count as disagreement. A query whose own clip has no label is left out.

    Args:
        data: the retrieval set.
        scores: a system's scores.
        label_of: label of each clip in one task.

    Raises:
        NoDataError: no query's clip has a label.
    """
    names = sorted(set(label_of.values()))
    number = {name: index for index, name in enumerate(names)}
    label_C = np.array([number[label_of[video_id]] if video_id in label_of else -1 for video_id in data.video_ids])
    query_L = np.flatnonzero(label_C[data.query_clip_Q] >= 0)
    if not query_L.size:
        raise NoDataError(f"agreement on set {data.name!r}: no query's clip has a label in this task")
    clip_L = data.query_clip_Q[query_L]
    own_L = label_C[clip_L]
    scores_LC = scores.text_to_video_UC[data.query_text_Q[query_L]]
    # A clip with the query's label is what is to be found: of several best ones another is taken.
    best_L = best_candidates(scores_LC, label_C[None, :] == own_L[:, None])
    found_L = np.where(best_L < 0, -1, label_C[best_L])
    has_features_L = np.isfinite(scores_LC[np.arange(len(clip_L)), clip_L])
    texts = np.array([*names, None], dtype=object)
    return Agreement(query_L, (found_L == own_L) & has_features_L, texts[found_L], texts[own_L])
