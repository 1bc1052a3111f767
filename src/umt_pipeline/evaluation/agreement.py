"""What the best clip has in common with the described one: shape, colour, size, motion, or any other label task.

Recall says that the wrong clip came first; agreement says what was wrong about it.

Shapes: Q text queries, U distinct texts, C clips.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.retrieval import RetrievalSet, SystemScores


def top1_agreement(data: RetrievalSet, scores: SystemScores, label_of: Mapping[str, str]) -> tuple[float, int]:
    """Return how often the top-1 clip has the label of the query's own clip, in percent, and the number of queries.

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
    own_label_Q = label_C[data.query_clip_Q]
    labelled_Q = own_label_Q >= 0
    if not labelled_Q.any():
        raise NoDataError(f"agreement on set {data.name!r}: no query's clip has a label in this task")
    scores_QC = scores.text_to_video_UC[data.query_text_Q]
    best_QC = scores_QC == scores_QC.max(axis=1, keepdims=True)
    agrees_Q = (~best_QC | (label_C[None, :] == own_label_Q[:, None])).all(axis=1)
    own_Q = np.isfinite(scores_QC[np.arange(len(own_label_Q)), data.query_clip_Q])
    return 100.0 * float((agrees_Q & own_Q)[labelled_Q].mean()), int(labelled_Q.sum())
