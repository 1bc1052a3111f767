"""The four pictures that open the evaluation's page: a clip, a search, what stage 1 is worth, and how the score rose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.reports.evaluation.headline import ARROW
from umt_pipeline.reports.evaluation.results import R1, EvaluationResults
from umt_pipeline.reports.figures import Span, points_panel, spans_panel
from umt_pipeline.reports.page import Block, Panels, Section, Strips, Text, subsection
from umt_pipeline.reports.systems import found_by
from umt_pipeline.reports.tables import percent
from umt_pipeline.training.stage2 import VALIDATION_R1

_BEFORE, _AFTER = "stage2/dual", "stage2/reranked"
_MASKED = (
    "The frames of one view; how much the teacher attends to each place (bright is high, scaled per frame); and the patches "
    "that the attention chose, which are all that the student sees. More of them are below."
)
_SPREAD = (
    "Dots: points of difference. Lines: 95 % intervals from a bootstrap over the clips of the set, both models with the same "
    "draws. They say how far other clips could move this training's numbers, not how far another seed could: of several "
    "seeds “benchmarks/demo_seeds.py” makes a table."
)


def opening(found: EvaluationResults, masks: Sequence[Strips]) -> Section:
    """Return the section; of a picture that could not be made it says why."""
    return Section(
        "In four pictures",
        [
            *subsection("What the student sees", [*masks[:1], Text(_MASKED)] if masks else [], "The store has no rows."),
            *subsection("A search, before and after re-ranking", _search(found), "Nothing was searched."),
            *subsection("What stage 1 is worth", _gains(found), "Stage 2 was not trained from scratch, to see it against."),
            *subsection(
                "How the score rose",
                _score_curve(found.trained.histories),
                "Nobody looked at validation clips during training: “stage2.validate_every” says how often to.",
            ),
        ],
    )


# --- a search -----------------------------------------------------------------------------------------------------------
def _search(found: EvaluationResults) -> list[Block]:
    """Return one query with what was found before and after re-ranking, and how many hits that makes and loses.

    Of the queries that the page shows it is the first one that re-ranking makes a hit, or loses as one, whichever it does more
    often over all sets; without one of these the first whose right clip moved at all.
    """
    kept = [one for one in found.examples if one.system in (_BEFORE, _AFTER)]
    queries = [list(group) for _, group in groupby(kept, key=lambda one: (one.set, one.query_video_id, one.query))]
    queries = [query for query in queries if {one.system for one in query} == {_BEFORE, _AFTER}]
    if not queries:
        return []
    hits = {name: _hits(found.evidence, name) for name in dict.fromkeys(query[0].set for query in queries)}
    makes_more = sum(made for made, _, _ in hits.values()) >= sum(lost for _, lost, _ in hits.values())

    def fits(query: list[RetrievalExample]) -> tuple[bool, bool]:
        before, after = ranks(query)
        worse, better = (before, after) if makes_more else (after, before)
        return better == 1 < worse, before != after

    def ranks(query: list[RetrievalExample]) -> tuple[int, int]:
        by_system = {one.system: one.rank for one in query}
        return by_system[_BEFORE], by_system[_AFTER]

    chosen = max(queries, key=fits)  # the first of equals
    (before, after), (made, lost, all_of_them) = ranks(chosen), hits[chosen[0].set]
    told = (
        f"Rank of the first right clip: {before} before, {after} after. Of the {all_of_them:,} captions of {chosen[0].set}, "
        f"re-ranking brings the right clip to the first place for {made:,} and takes it from there for {lost:,}."
    )
    return [found_by(chosen), Text(told)]


def _hits(evidence: pd.DataFrame, name: str) -> tuple[int, int, int]:
    """Return how many queries of a set are hits only after re-ranking, how many only before it, and how many there are."""
    first = {
        system: evidence[(evidence["task"] == f"retrieval/{name}/{system}") & (evidence["metric"] == "t2v_rank")]
        .set_index("item")["value"] == 1
        for system in (_BEFORE, _AFTER)
    }  # fmt: skip
    before, after = first[_BEFORE], first[_AFTER]
    return int((after & ~before).sum()), int((before & ~after).sum()), len(before)


# --- what stage 1 is worth ----------------------------------------------------------------------------------------------
def _gains(found: EvaluationResults) -> list[Block]:
    kinds = {"dual": found.stage1_gains, "re-ranked": found.paired(R1, "control/reranked", _AFTER)}
    spans = [
        Span(
            f"{name}, {kind}: {pair.before.value:.1f} {ARROW} {percent(pair.after.value)}",
            pair.difference.low,
            pair.difference.value,
            pair.difference.high,
        )
        for kind, pairs in kinds.items()
        for name, pair in pairs.items()
    ]
    if not spans:
        return []
    title = f"Text{ARROW}video R@1 of stage 2: from scratch {ARROW} from stage 1, points"
    return [Panels([spans_panel("stage1-gain", title, spans)]), Text(_SPREAD)]


# --- how the score rose -------------------------------------------------------------------------------------------------
def score_curves(histories: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series[float]]:
    """Return text-to-video R@1 on validation clips by the TFLOPs of training up to there, stage 1's included.

    Args:
        histories: rows of training of ``stage1``, ``stage2`` and ``control``.

    Returns:
        ``From stage 1`` and, if it was trained, ``From scratch``; nothing if validation clips were not searched, or nobody
        counted the FLOPs.
    """
    stage1 = histories["stage1"]
    counted = "tflops" in stage1
    curves = {}
    for label, name, before in (("From stage 1", "stage2", True), ("From scratch", "control", False)):
        rows = histories[name]
        if counted and not rows.empty and {"tflops", VALIDATION_R1} <= set(rows):
            start = float(stage1["tflops"].sum()) if before else 0.0
            curves[label] = pd.Series(rows[VALIDATION_R1].to_numpy(), index=start + rows["tflops"].cumsum().to_numpy()).dropna()
    return curves if "From stage 1" in curves else {}


def at_equal_cost(curves: Mapping[str, pd.Series[float]]) -> tuple[float, float, float] | None:
    """Return the TFLOPs of all training from scratch, and what both scored when they had computed so much.

    From stage 1 it is read off the line between two looks. None where that line does not reach so far.
    """
    if "From scratch" not in curves:
        return None
    scratch, ours = curves["From scratch"], curves["From stage 1"]
    end = float(scratch.index[-1])
    if not ours.index[0] <= end <= ours.index[-1]:
        return None
    return end, float(np.interp(end, ours.index, ours)), float(scratch.iloc[-1])


def _score_curve(histories: Mapping[str, pd.DataFrame]) -> list[Block]:
    curves = score_curves(histories)
    if not curves:
        return []
    title = f"Text{ARROW}video R@1 on validation (%), by TFLOPs of training, stage 1 included"
    stage1 = float(histories["stage1"]["tflops"].sum())
    panel = points_panel("score-curve", title, curves, (stage1, "stage 1"))
    said = (
        "The dual encoder, as it stood after every few epochs. Both had the same teacher, text tower, captions and steps of "
        "stage 2; what the teacher and the text tower took is left out."
    )
    equal = at_equal_cost(curves)
    if equal is not None:
        cost, ours, scratch = equal
        said += (
            f" When both had computed {cost:,.4g} TFLOPs, all that the training from scratch took, the one from stage 1 stood "
            f"at {percent(ours)}, in the middle of its schedule, and the one from scratch at {percent(scratch)}, at its end."
        )
    return [Panels([panel], list(curves)), Text(said)]
