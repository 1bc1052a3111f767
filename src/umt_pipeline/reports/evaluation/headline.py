"""The top of the evaluation's page: the opening paragraph, the tiles and the bars, each there only if its numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from umt_pipeline.reports.evaluation.results import MOTION, EvaluationResults
from umt_pipeline.reports.page import Bar, Bars, Tile
from umt_pipeline.reports.systems import system_name, system_order
from umt_pipeline.reports.tables import Compared, byte_text, listed, percent


def summary(found: EvaluationResults) -> list[str]:
    """Return the page's opening paragraph as sentences."""
    minutes = float(found.clips["duration_s"].sum()) / 60
    images = int(found.prepared.ingestion.get("media", {}).get("image", 0))
    stills = f" and {images:,} images" if images else ""
    said = [
        f"The corpus holds {len(found.clips):,} accepted clips, {minutes:,.1f} minutes of video{stills}; "
        f"{len(found.prepared.rejects):,} rows of the input tables were rejected."
    ]
    for probe in _appearance(found):
        tasks = sorted(task for task in found.params.tasks if task not in MOTION)
        average = " on average" if len(tasks) > 1 else ""
        said.append(
            f"After stage 1 a linear probe on the student reads {listed(tasks)} with {percent(probe.value)} accuracy{average} "
            f"({probe.against})."
        )
    for name, search in _retrieval(found).items():
        said.append(
            f"Given a caption from the set {name}, stage 2 puts a right one of {clips_in(found, name)} first in "
            f"{percent(search.value)} of the cases ({search.against})."
        )
    return [*said, "All numbers are of this one run and carry no spread."]


def tiles(found: EvaluationResults) -> list[Tile]:
    """Return the headline tiles."""
    made = [compared.tile for compared in (*_appearance(found), *_retrieval(found).values())]
    made.append(Tile("Accepted clips", f"{len(found.clips):,}", [f"{len(found.prepared.rejects):,} table rows rejected"]))
    sizes = dict(found.prepared.features.get("bytes_per_clip_view", {}))
    if "total" in sizes:
        total = byte_text(float(sizes.pop("total")))
        made.append(Tile("Stored per clip and view", total, [listed(list(sizes))]))
    return made


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
        shown = [Bar(system_name(system), systems[system]["t2v_r1"]) for system in sorted(systems, key=system_order)]
        shown += [Bar(label, row["t2v_r1"], True) for label, row in found.references(name).items()]
        groups.append((f"Text→video R@1 on {name} (%)", shown))
    return Bars(groups) if groups else None


def clips_in(found: EvaluationResults, split: str) -> str:
    """Return "the 128 clips" of a split."""
    return f"the {int((found.clips['split'] == split).sum()):,} clips"


def _mean(by_task: Mapping[str, float]) -> float | None:
    """Return the mean over the tasks of appearance."""
    values = [value for task, value in by_task.items() if task not in MOTION]
    return fmean(values) if values else None


def _appearance(found: EvaluationResults) -> list[Compared]:
    """Return what the linear probe reads of appearance after stage 1, if it was measured."""
    means = {name: _mean(tasks) for name, tasks in found.metrics("probe").get("linear", {}).items()}
    value = means.get("stage1")
    others = {"untrained": means.get("untrained"), "the teacher's patches": means.get("teacher_patch")}
    return [] if value is None else [Compared("Appearance, probe on stage 1", value, others)]


def _retrieval(found: EvaluationResults) -> dict[str, Compared]:
    """Return text-to-video R@1 of the stage-2 dual encoder on each set where it was measured."""
    made = {}
    for name, systems in sorted(found.metrics("retrieval").items()):
        r1 = {system: row.get("t2v_r1") for system, row in systems.items()}
        references = iter(found.references(name).values())
        chance, perfect = (next(references, {}).get("t2v_r1") for _ in range(2))
        others = {
            "re-ranked": r1.get("stage2/reranked"),
            "from scratch with the same budget": r1.get("control/dual"),
            "image teacher": r1.get("teacher/dual"),
            "perfect on appearance alone": perfect,
            "chance": chance,
        }
        value = r1.get("stage2/dual")
        if value is not None:
            made[name] = Compared(f"Text→video R@1, {name}", value, others)
    return made
