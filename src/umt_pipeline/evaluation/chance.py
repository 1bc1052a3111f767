"""What numbers are to be compared with: chance, and perfect knowledge of appearance alone.

Shapes: C clips of a set, U distinct query texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.metrics import RECALL_AT, NoDataError
from umt_pipeline.evaluation.params import CaptionRule
from umt_pipeline.evaluation.retrieval import build_retrieval_set


def majority_share(labels: pd.DataFrame, videos: pd.DataFrame, split: str) -> dict[str, float]:
    """Return, per label task, the percentage of a split's labelled clips that carry the most frequent label."""
    return {task: 100 * float(shares.max()) for task, shares in _shares(labels, videos, split)}


def chance_agreement(labels: pd.DataFrame, videos: pd.DataFrame, split: str) -> dict[str, float]:
    """Return, per label task, how often two clips drawn at random from a split carry the same label, in percent."""
    return {task: 100 * float((shares**2).sum()) for task, shares in _shares(labels, videos, split)}


def random_retrieval(
    videos: pd.DataFrame,
    captions: pd.DataFrame,
    split: str,
    rule: CaptionRule,
    labels: pd.DataFrame | None = None,
    known_tasks: Sequence[str] = (),
) -> dict[str, float]:
    """Return the expected retrieval metrics of a random order, for the queries and right answers of the evaluation.

    With ``known_tasks`` the order is random only among the candidates that carry the query's labels in these tasks, and
    those come first: the most that a system reaches that knows these labels perfectly and nothing else.

    Returns:
        ``t2v_r1`` ... ``v2t_meanr`` in percent and ranks; empty if a clip, a caption or a label is missing.
    """
    try:
        data = build_retrieval_set(split, _ids(videos, split), captions, rule)
    except NoDataError:
        return {}
    group_C = _groups(data.video_ids, labels, known_tasks)
    if group_C is None:
        return {}
    truth_UC = data.truth_UC
    text_queries, clip_queries = [], []
    for text, clip in zip(data.query_text_Q, data.query_clip_Q, strict=True):
        alike_C = group_C == group_C[clip]
        text_queries.append((int(alike_C.sum()), int((truth_UC[text] & alike_C).sum())))
    for clip in np.flatnonzero(truth_UC.any(axis=0)):
        alike_U = truth_UC[:, group_C == group_C[clip]].any(axis=1)
        clip_queries.append((int(alike_U.sum()), int(truth_UC[:, clip].sum())))
    return _expected("t2v", text_queries, truth_UC.shape[1]) | _expected("v2t", clip_queries, truth_UC.shape[0])


def _ids(videos: pd.DataFrame, split: str) -> list[str]:
    return [str(v) for v in videos.loc[videos["split"] == split, "video_id"]]


def _shares(labels: pd.DataFrame, videos: pd.DataFrame, split: str) -> list[tuple[str, pd.Series]]:
    """Return (task, share of each label) among a split's clips."""
    chosen = labels[labels["video_id"].isin(_ids(videos, split))]
    return [
        (str(task), group["label"].value_counts(normalize=True)) for task, group in chosen.groupby("task", sort=True)
    ]


def _groups(video_ids: Sequence[str], labels: pd.DataFrame | None, tasks: Sequence[str]) -> np.ndarray | None:
    """Return the same number for clips that are alike in all ``tasks``, int64 [C]; None if a clip lacks a label."""
    if labels is None or not tasks:
        return np.zeros(len(video_ids), dtype=np.int64)
    chosen = labels[labels["task"].isin(list(tasks))].drop_duplicates(["video_id", "task"])
    wide = chosen.pivot(index="video_id", columns="task", values="label").reindex(list(video_ids))
    if wide.shape[1] < len(tasks) or wide.isna().to_numpy().any():
        return None
    return wide.groupby(list(wide.columns)).ngroup().to_numpy()


def _expected(direction: str, queries: Sequence[tuple[int, int]], length: int) -> dict[str, float]:
    """Return expected metrics of queries given as (candidates, right ones among them)."""
    hit = np.mean([_hit_curve(candidates, right, length) for candidates, right in queries], axis=0)
    recalls = {f"{direction}_r{k}": 100 * float(hit[min(k, length) - 1]) for k in RECALL_AT}
    # The curve ends at 1 up to rounding, so there is always a first rank with at least half of the hits.
    median, mean = float(np.argmax(hit >= 0.5 - 1e-12) + 1), 1 + float(np.sum(1 - hit))
    return {**recalls, f"{direction}_medr": median, f"{direction}_meanr": mean}


@cache
def _hit_curve(candidates: int, right: int, length: int) -> np.ndarray:
    """Return for r = 1..length the probability that one of the right ones is among the first r of a random order."""
    curve = np.ones(length)
    wrong = candidates - right
    miss = 1.0
    for drawn in range(min(length, wrong)):
        miss *= (wrong - drawn) / (candidates - drawn)
        curve[drawn] = 1 - miss
    return curve
