"""The page of a promotion: the verdict in a sentence, the intervals that it rests on, training, protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umt_pipeline.evaluation.gate import MetricVerdict, Verdict
from umt_pipeline.evaluation.spread import Ranged
from umt_pipeline.reports.figures import Span, spans_panel, training_curves
from umt_pipeline.reports.page import Block, Cell, Page, Panels, Section, Table, Text, Tile
from umt_pipeline.reports.promotion.compared import Contender, Promotion
from umt_pipeline.reports.tables import NBSP, facts, percent, table

OUTCOMES = {"promoted": "promoted", "refused": "refused", "cannot_be_told": "cannot be told"}


def promotion_page(found: Promotion) -> Page:
    """Return the page; provenance and the gate's parameters are added when it is rendered (:func:`provenance`)."""
    return Page(
        title=f"Promotion of {found.kind.replace('_', ' ')}: {OUTCOMES[found.verdict.verdict]}",
        summary=[verdict_sentence(found), *([found.verdict.reason] if found.champion else [])],
        tiles=_tiles(found),
        notes=[found.again] if found.again else [],
        sections=[_verdict(found), _training(found), _measured(found)],
        records=_records(found),
    )


def verdict_sentence(found: Promotion) -> str:
    """Return the verdict in one sentence, without the numbers that it rests on."""
    challenger, champion = found.challenger.title, found.champion
    if champion is None:
        return f"{challenger} is promoted: it is the first, there is no champion to compare it with."
    return {
        "promoted": f"{challenger} is promoted: it is better than {champion.title} in all that the gate demands.",
        "refused": f"{challenger} is refused: it is not better than {champion.title} where it must be, or worse in a guard.",
        "cannot_be_told": f"It cannot be told whether {challenger} is better than {champion.title}.",
    }[found.verdict.verdict]


def provenance(found: Promotion) -> dict[str, Any]:
    """Return where the numbers of the page come from, nested."""
    champion = dict(found.champion.facts) if found.champion else "none"
    seeds = {"champion": found.verdict.champions, "challenger": found.verdict.challengers}
    return {"challenger": dict(found.challenger.facts), "champion": champion, "trainings_compared": seeds}


def signed(value: float) -> str:
    """Return points with one digit and their sign; of what rounds to zero there is none."""
    rounded = round(value, 1) + 0.0
    return f"{rounded:.1f}" if rounded == 0 else f"{rounded:+.1f}"


def interval(low: float, high: float) -> str:
    """Return an interval of points."""
    return f"{signed(low)} to {signed(high)}"


def bound(metric: MetricVerdict) -> float:
    """Return the difference that decides: a metric's must be above its margin, a guard's not below minus its tolerance."""
    return metric.margin if metric.margin is not None else -(metric.tolerance or 0.0)


def demand(metric: MetricVerdict) -> str:
    """Return what the gate demands of a difference, in words."""
    if metric.margin is not None:
        return f"above {signed(metric.margin)}"
    return f"not below {signed(-(metric.tolerance or 0.0))}"


def _tiles(found: Promotion) -> list[Tile]:
    tiles = []
    for name in (*found.params.metrics, *found.params.guards):
        if (mine := found.challenger.numbers.get(name)) is None:
            continue
        theirs = found.champion.numbers.get(name) if found.champion else None
        beside = [f"between {_range(mine)}"]
        if theirs is not None:
            beside.append(f"champion {percent(theirs.value)}, between {_range(theirs)}")
        tiles.append(Tile(name, percent(mine.value), beside))
    return tiles


def _range(number: Ranged) -> str:
    return f"{number.low:.1f} and {number.high:.1f}"


def _verdict(found: Promotion) -> Section:
    verdict = found.verdict
    explain = (
        f"Differences are challenger minus champion, in percentage points, on the same test clips. The interval is what "
        f"{verdict.confidence * 100:g} % of {verdict.resamples:,} draws of as many clips, with replacement, gave: both models "
        "with the same draws. A metric must lie above its margin with the whole of its interval, a guard must not reach below "
        "minus its tolerance with any of it; an interval wholly on the wrong side refuses; all else cannot be told."
    )
    return Section("Verdict", [_picture(verdict), _table(verdict)], explain, "There was nothing to compare.")


def _picture(verdict: Verdict) -> Block | None:
    if not verdict.metrics:
        return None
    spans = [Span(_label(metric), metric.low, metric.difference, metric.high, bound(metric)) for metric in verdict.metrics]
    title = "Challenger minus champion, in percentage points, with intervals"
    return Panels([spans_panel("differences", title, spans, "margin or tolerance")], ["difference and its interval", "margin"])


def _label(metric: MetricVerdict) -> str:
    return metric.name if metric.margin is not None else f"{metric.name} (guard)"


def _table(verdict: Verdict) -> Table | None:
    rows = [
        (
            _label(metric),
            f"{metric.champion:.1f}",
            f"{metric.challenger:.1f}",
            signed(metric.difference),
            interval(metric.low, metric.high).replace(" ", NBSP),
            demand(metric).replace(" ", NBSP),
            f"{metric.different:,} of {metric.clips:,}",
            Cell(OUTCOMES[metric.verdict], title=metric.reason, style="bad" if metric.verdict == "refused" else ""),
        )
        for metric in verdict.metrics
    ]
    head = ("", "champion", "challenger", "difference", "interval", "demanded", "clips that differ", "verdict")
    return table("What the gate looked at, in percent", head, rows)


def _training(found: Promotion) -> Section:
    sides = [("Champion", found.champion), ("Challenger", found.challenger)]
    runs = {name: side.history for name, side in sides if side is not None}
    blocks: list[Block | None] = [training_curves("training", runs, found.earlier)]
    blocks += [
        Text(f"{name}: no curves, {side.no_history}.", missing=True)
        for name, side in sides
        if side is not None and side.history.empty and side.no_history
    ]
    return Section(
        "Training",
        blocks,
        "Both models' training by step, over each other; thin grey lines are the last runs that were tracked.",
        "Neither model's training is known here.",
    )


def _measured(found: Promotion) -> Section:
    blocks: list[Block | None]
    if found.champion is None:
        blocks = []
    elif found.differences:
        rows = [(str(index), Cell(said, style="long")) for index, said in enumerate(found.differences, start=1)]
        heading = "The champion's evaluation, as it was registered (first), against the challenger's (second)"
        blocks = [table(heading, ("", "difference"), rows, words=True), Text(found.again) if found.again else None]
    else:
        blocks = [Text("Both were measured in the same way: equal clips, annotations, frames, views, resolution and scores.")]
    sides = [("Challenger", found.challenger), ("Champion", found.champion)]
    blocks += [facts(f"{name}: {side.title}", side.facts) for name, side in sides if side is not None]
    return Section("Who was compared, and how they were measured", blocks)


def _records(found: Promotion) -> list[Mapping[str, Any]]:
    sides: Sequence[tuple[str, Contender | None]] = (("challenger", found.challenger), ("champion", found.champion))
    return [{**record, "task": f"{name}: {record['task']}"} for name, side in sides if side for record in side.records]
