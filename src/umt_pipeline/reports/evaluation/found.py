"""What several systems found for the same query, as a page shows it."""

from __future__ import annotations

from collections.abc import Sequence

from umt_pipeline.evaluation.examples import TOP_SHOWN
from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.reports.evaluation.tables import system_name
from umt_pipeline.reports.examples import Example, Film, Said


def is_hit(group: Sequence[RetrievalExample]) -> bool:
    """Say whether the last of the systems that were asked the same put a right answer first."""
    leader = group[-1]
    return leader.rank == 1 if leader.rank is not None else any(leader.relevant[:1])


def shown_example(group: Sequence[RetrievalExample]) -> Example:
    """Return what several systems found for the same query as a page shows it; the last one decides what is a hit."""
    hit = is_hit(group)
    said = tuple(
        Said(
            system_name(example.system),
            note=f"first right answer: place {example.rank}" if example.rank else "",
            films=tuple(
                Film(video, bool(right))
                for video, right in list(zip(example.top, example.relevant, strict=True))[:TOP_SHOWN]
            ),
        )
        for example in group
    )
    about = Film(group[0].query_video_id)
    return Example(group[0].query, about, said, "hit" if hit else "miss", hit, about="the described clip")
