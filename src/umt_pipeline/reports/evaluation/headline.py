"""The top of the report: the opening paragraph, the tiles and the bars, each there only if its numbers are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from umt_pipeline.evaluation.results import ReportData
from umt_pipeline.reports.evaluation import tables
from umt_pipeline.reports.evaluation.chance import majority_share, random_retrieval
from umt_pipeline.reports.tables import Bar, Tile, byte_text, percent

MetricTree = Mapping[str, Mapping[str, Mapping[str, float]]]
References = Mapping[str, Mapping[str, Mapping[str, float]]]


def reference_rows(data: ReportData, name: str) -> dict[str, dict[str, float]]:
    """Return the rows of a retrieval set that no model made: chance, and perfect knowledge of appearance alone."""
    rows = {"Chance": random_retrieval(data.videos, data.captions, name, data.caption_rule)}
    tasks = [] if data.labels is None else sorted({str(task) for task in data.labels["task"]})
    known = [task for task in tasks if task not in data.motion_tasks]
    if known and len(known) < len(tasks):
        label = f"Perfect on {listed(known)}, guessing the rest"
        rows[label] = random_retrieval(data.videos, data.captions, name, data.caption_rule, data.labels, known)
    return {label: row for label, row in rows.items() if row}


def _reference(references: References, name: str, place: int, column: str = "t2v_r1") -> float | None:
    rows = list(references.get(name, {}).values())
    return rows[place].get(column) if place < len(rows) else None


def _appearance(data: ReportData, probes: MetricTree, encoder: str) -> float | None:
    """Return the mean accuracy of an encoder's linear probe over the appearance tasks."""
    for name, tasks in sorted(probes.get("linear", {}).items()):
        if name.startswith(encoder):
            values = [value for task, value in tasks.items() if task not in data.motion_tasks]
            return sum(values) / len(values) if values else None
    return None


def _found(retrieval: MetricTree, name: str, model: str, score: str = "dual") -> float | None:
    """Return a model's text-to-video R@1 on a set: the dual encoder's, which every model has, or the re-ranked one."""
    return retrieval[name].get(f"{model}/{score}", {}).get("t2v_r1")


def clips_in(data: ReportData, split: str) -> str:
    """Return "the 128 clips" of a split, or "the clips" when the table is missing."""
    return "the clips" if data.videos is None else f"the {int((data.videos['split'] == split).sum()):,} clips"


def _known(pairs: Iterable[tuple[str, float | None]]) -> list[str]:
    """Return what a number is to be compared with, as far as it was measured."""
    return [f"{label} {percent(value)}" for label, value in pairs if value is not None]


def _against(pairs: Iterable[tuple[str, float | None]]) -> str:
    return ", ".join(_known(pairs)) or "nothing to compare with"


def summary(data: ReportData, probes: MetricTree, retrieval: MetricTree, references: References) -> list[str]:
    """Return the page's opening paragraph as sentences, each there only if its numbers are."""
    said = []
    if data.videos is not None and len(data.videos):
        minutes = float(data.videos["duration_s"].sum()) / 60
        rejected = "" if data.rejects is None else f"; {len(data.rejects):,} rows of the input tables were rejected"
        images = int((data.ingestion or {}).get("media", {}).get("image", 0))
        stills = f" and {images:,} images" if images else ""
        said.append(f"The corpus holds {len(data.videos):,} accepted clips, {minutes:,.1f} minutes of video{stills}{rejected}.")
    student = _appearance(data, probes, "stage1")
    if student is not None:
        tasks = [task for task in tables.ordered_columns(probes["linear"], ()) if task not in data.motion_tasks]
        compared = [
            ("the same student untrained:", _appearance(data, probes, "untrained")),
            ("the teacher's averaged patch tokens:", _appearance(data, probes, "teacher_patch")),
        ]
        said.append(
            f"After stage 1 a linear probe on the student reads {listed(tasks)} with {percent(student)} accuracy"
            f"{' on average' if len(tasks) > 1 else ''} ({_against(compared)})."
        )
    for name in sorted(retrieval):
        value = _found(retrieval, name, "stage2")
        if value is None:
            continue
        compared = [
            ("re-ranked by the matching head:", _found(retrieval, name, "stage2", "reranked")),
            ("trained from scratch with the same budget:", _found(retrieval, name, "control")),
            ("the image teacher:", _found(retrieval, name, "teacher")),
            ("perfect knowledge of appearance alone:", _reference(references, name, 1)),
            ("chance:", _reference(references, name, 0)),
        ]
        said.append(
            f"Given a caption from the set {name}, stage 2 puts a right one of {clips_in(data, name)} first in "
            f"{percent(value)} of the cases ({_against(compared)})."
        )
    if said:
        said.append("All numbers are of this one run and carry no spread.")
    return said


def listed(words: Sequence[str]) -> str:
    """Return words as "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def tiles(data: ReportData, probes: MetricTree, retrieval: MetricTree, references: References) -> list[Tile]:
    """Return the headline tiles whose numbers are there."""
    made = []
    student = _appearance(data, probes, "stage1")
    if student is not None:
        compared = [
            ("untrained", _appearance(data, probes, "untrained")),
            ("teacher", _appearance(data, probes, "teacher_patch")),
        ]
        made.append(Tile("Appearance, probe on stage 1", percent(student), _known(compared)))
    for name in sorted(retrieval):
        value = _found(retrieval, name, "stage2")
        if value is not None:
            compared = [
                ("re-ranked", _found(retrieval, name, "stage2", "reranked")),
                ("from scratch", _found(retrieval, name, "control")),
                ("teacher", _found(retrieval, name, "teacher")),
                ("chance", _reference(references, name, 0)),
            ]
            made.append(Tile(f"Text→video R@1, {name}", percent(value), _known(compared)))
    count = tables.count_table(data.ingestion)
    if count is not None and data.videos is not None:
        rejected = 0 if data.rejects is None else len(data.rejects)
        made.append(Tile("Accepted clips", f"{len(data.videos):,}", [f"{rejected:,} table rows rejected"]))
    sizes = (data.features or {}).get("bytes_per_clip_view", {})
    if "total" in sizes:
        parts = [name for name in sizes if name != "total"]
        made.append(Tile("Stored per clip and view", byte_text(float(sizes["total"])), [listed(parts)]))
    return made


def bar_groups(
    data: ReportData, probes: MetricTree, retrieval: MetricTree, references: References
) -> list[tuple[str, list[Bar]]]:
    """Return the main comparisons as (title, bars)."""
    groups = []
    encoders = sorted(probes.get("linear", {}), key=tables.system_order)
    means = [(name, _appearance(data, probes, name)) for name in encoders]
    bars = [Bar(tables.system_name(name), value) for name, value in means if value is not None]
    if bars:
        chance = majority_share(data.labels, data.videos, data.test_split)
        shares = [value for task, value in chance.items() if task not in data.motion_tasks]
        if shares:
            bars.append(Bar("Most frequent label", sum(shares) / len(shares), True))
        groups.append(("Appearance, linear probe, mean of tasks (%)", bars))
    for name in sorted(retrieval):
        systems = retrieval[name]
        bars = [
            Bar(tables.system_name(system), systems[system]["t2v_r1"])
            for system in sorted(systems, key=tables.system_order)
            if "t2v_r1" in systems[system]
        ]
        if bars:
            bars += [Bar(label, row["t2v_r1"], True) for label, row in references[name].items()]
            groups.append((f"Text→video R@1 on {name} (%)", bars))
    return groups
