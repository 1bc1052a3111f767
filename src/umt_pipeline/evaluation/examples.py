"""What some queries find: for people to look at, beside the numbers.

Shapes: Q text queries, C clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from umt_pipeline.evaluation.retrieval import RetrievalSet, SystemScores, query_ranks

Item = TypeVar("Item")


@dataclass(frozen=True)
class RetrievalExample:
    """The best clips that one system found for one text query.

    Attributes:
        set: the retrieval set, e.g. ``test`` or ``test_motion``.
        system: the system as in metric keys: ``stage2/dual``.
        query: the text.
        query_video_id: the clip that the text describes.
        top: video_ids, best first.
        relevant: for each of ``top``, whether it is a right answer.
        rank: of the first right answer, from 1.
    """

    set: str
    system: str
    query: str
    query_video_id: str
    top: Sequence[str]
    relevant: Sequence[bool]
    rank: int


def choose_examples(
    data: RetrievalSet, systems: Sequence[SystemScores], count: int, shown: int = 5, also: int | None = None
) -> list[RetrievalExample]:
    """Choose ``count`` text-to-video queries and give the ``shown`` best clips of every system for them.

    Half of the queries are hits of the first system and half are misses, spread evenly over the set, so that neither a
    lucky nor an unlucky choice of these is possible.

    Args:
        data: the set.
        systems: what they found.
        count: queries to choose.
        shown: clips of each system.
        also: one query more, from :func:`moved_query`; nothing more if it is among them.

    Returns:
        Hits, then misses, then ``also``; those of one query stand together.
    """
    ranks = [query_ranks(data, system)[0] for system in systems]
    hits, misses = np.flatnonzero(ranks[0] == 1), np.flatnonzero(ranks[0] > 1)
    wanted_hits = min(len(hits), max(count - count // 2, count - len(misses)))
    wanted_misses = min(len(misses), count - wanted_hits)
    queries = [*spread(hits.tolist(), wanted_hits), *spread(misses.tolist(), wanted_misses)]
    if also is not None and also not in queries:
        queries.append(also)
    examples = []
    for query in queries:
        text = data.query_text_Q[query]
        for system, ranks_Q in zip(systems, ranks, strict=True):
            scores_C = system.text_to_video_UC[text]
            top = [clip for clip in np.argsort(-scores_C, kind="stable")[:shown] if np.isfinite(scores_C[clip])]
            examples.append(
                RetrievalExample(
                    set=data.name,
                    system=system.key,
                    query=data.texts[text],
                    query_video_id=data.video_ids[data.query_clip_Q[query]],
                    top=[data.video_ids[clip] for clip in top],
                    relevant=[bool(data.truth_UC[text, clip]) for clip in top],
                    rank=int(ranks_Q[query]),
                )
            )
    return examples


def moved_query(data: RetrievalSet, before: SystemScores, after: SystemScores) -> int | None:
    """Return the text-to-video query that shows what a new order does to hits, None if it makes and loses none.

    It is the middle one of the hits that are made or of those that are lost, whichever are more; of the made if equally many.
    """
    before_Q, after_Q = query_ranks(data, before)[0], query_ranks(data, after)[0]
    made, lost = np.flatnonzero((before_Q > 1) & (after_Q == 1)), np.flatnonzero((before_Q == 1) & (after_Q > 1))
    moved = made if len(made) >= len(lost) else lost
    return int(moved[len(moved) // 2]) if len(moved) else None


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return so many of the items, or all if there are fewer, evenly spread over them: neither the best nor the worst."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]
