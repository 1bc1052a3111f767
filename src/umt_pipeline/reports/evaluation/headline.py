"""The sentences that open the evaluation's page, and its bars; each there only if its numbers are.

A sentence claims a difference only where the interval of the difference does.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from umt_pipeline.evaluation.spread import Paired, Ranged
from umt_pipeline.reports.evaluation.results import MOTION, R1, EvaluationResults
from umt_pipeline.reports.page import Bar, Bars
from umt_pipeline.reports.systems import system_name, system_order
from umt_pipeline.reports.tables import listed, percent

ARROW = "\N{RIGHTWARDS ARROW}"
# A set is about motion where those who know appearance alone find less than this of it, in percent.
_ABOUT_MOTION = 50.0
_OUTCOMES = {"more": "is higher on", "less": "is lower on", "cannot_be_told": "has no difference that can be told on"}


def summary(found: EvaluationResults) -> list[str]:
    """Return the three sentences: what stage 1 is worth, what re-ranking does, and motion (or else appearance)."""
    said = []
    if found.stage1_gains:
        said.append(
            f"Stage 1: text{ARROW}video R@1 of stage 2 that began from it, against the same training from scratch, "
            f"{_outcomes(found.stage1_gains)}."
        )
    elif found.metrics("retrieval"):
        said.append(_retrieval(found))
    if found.reranking_gains:
        said.append(
            f"Re-ranking: R@1 of the same model, its best clips ordered anew with the matching head, "
            f"{_outcomes(found.reranking_gains)}."
        )
    return [sentence for sentence in (*said, _motion(found) or _appearance(found)) if sentence]


def bars(found: EvaluationResults) -> Bars | None:
    """Return the main comparisons."""
    groups = []
    linear = found.metrics("probe").get("linear", {})
    means = {name: _mean(linear[name]) for name in sorted(linear, key=system_order)}
    shown = [Bar(system_name(name), value) for name, value in means.items() if value is not None]
    if shown:
        chance = _mean(found.majority())
        shown += [Bar("Most frequent label", chance, True)] if chance is not None else []
        groups.append(("Appearance, linear probe, mean of tasks (%)", shown))
    for name, systems in sorted(found.metrics("retrieval").items()):
        shown = [Bar(system_name(system), systems[system][R1]) for system in sorted(systems, key=system_order)]
        shown += [Bar(label, row[R1], True) for label, row in found.references(name).items()]
        groups.append((f"Text{ARROW}video R@1 on {name} (%)", shown))
    return Bars(groups) if groups else None


def clips_in(found: EvaluationResults, split: str) -> str:
    """Return "the 128 clips" of a split."""
    return f"the {int((found.clips['split'] == split).sum()):,} clips"


def spanned(number: Ranged) -> str:
    """Return a percentage with its interval."""
    return f"{percent(number.value)} ({number.low:.1f} to {number.high:.1f})"


def _outcomes(pairs: Mapping[str, Paired]) -> str:
    """Return in words which sets differ, with both numbers and the interval of the difference."""
    parts = []
    for outcome, words in _OUTCOMES.items():
        sets = [
            f"{name} ({pair.before.value:.1f} {ARROW} {percent(pair.after.value)}, {_points(pair.difference.low)} to "
            f"{_points(pair.difference.high)} points)"
            for name, pair in pairs.items()
            if pair.told == outcome
        ]
        if sets:
            parts.append(f"{words} {listed(sets)}")
    return listed(parts)


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def _retrieval(found: EvaluationResults) -> str:
    """Return what stage 2 finds where there is nothing to see it against."""
    sets = [
        f"{percent(systems['stage2/dual'][R1])} on {name} (chance {percent(found.chance.get(name, {}).get(R1))})"
        for name, systems in sorted(found.metrics("retrieval").items())
        if "stage2/dual" in systems
    ]
    return f"Given a caption, stage 2 puts a right clip first in {listed(sets)} of the cases." if sets else ""


def _motion(found: EvaluationResults) -> str:
    """Return what it takes to tell clips that look alike, on the set where appearance helps least."""
    ceilings = {name: row[R1] for name, row in found.ceiling.items()}
    name = min(ceilings, key=ceilings.__getitem__, default="")
    gained = found.paired(R1, "teacher/dual", "stage2/dual").get(name)
    if gained is None or ceilings[name] >= _ABOUT_MOTION:
        return ""
    said = (
        f"Motion: on {name}, where whoever knows {listed(found.appearance)} and nothing else finds {percent(ceilings[name])}, "
        f"the teacher, which sees single frames, finds {spanned(gained.before)} and stage 2 {spanned(gained.after)}"
    )
    linear = found.metrics("probe").get("linear", {})
    read = {stage: linear.get(stage, {}).get(MOTION[0]) for stage in ("stage1", "stage2")}
    if None in read.values():
        return f"{said}."
    return (
        f"{said}; a linear probe reads motion with {percent(read['stage1'])} after stage 1 and {percent(read['stage2'])} after "
        f"stage 2 (most frequent label {percent(found.majority().get(MOTION[0]))})."
    )


def _appearance(found: EvaluationResults) -> str:
    """Return what the linear probe reads of appearance after stage 1."""
    means = {name: _mean(tasks) for name, tasks in found.metrics("probe").get("linear", {}).items()}
    if means.get("stage1") is None:
        return ""
    others = {"untrained": means.get("untrained"), "the teacher's patches": means.get("teacher_patch")}
    beside = [f"{name} {percent(value)}" for name, value in others.items() if value is not None]
    tasks = sorted(task for task in found.params.tasks if task not in MOTION)
    average = " on average" if len(tasks) > 1 else ""
    return (
        f"Appearance: after stage 1 a linear probe on the student reads {listed(tasks)} with {percent(means['stage1'])} "
        f"accuracy{average} ({', '.join(beside) or 'nothing to compare with'})."
    )


def _mean(by_task: Mapping[str, float]) -> float | None:
    """Return the mean over the tasks of appearance."""
    values = [value for task, value in by_task.items() if task not in MOTION]
    return fmean(values) if values else None
