"""The page of fine-tuned retrieval: how well a model finds before and after, what re-ranking takes, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.reports.figures import training_curves
from umt_pipeline.reports.page import Bar, Bars, FrameLoader, Page, Section, Table
from umt_pipeline.reports.systems import (
    RETRIEVAL_COLUMNS,
    cost_table,
    found_clips,
    system_name,
    system_order,
    system_table,
    uses_other_queries,
)
from umt_pipeline.reports.tables import Compared, percent, table
from umt_pipeline.tasks.task import Shown

_DIRECTIONS = {"t2v": "Text→video", "v2t": "Video→text"}
_BEFORE, _AFTER = "zero_shot", "fine_tuned"

Systems = Mapping[str, Mapping[str, float]]


def retrieval_page(
    shown: Shown[Any, Any],
    examples: Sequence[RetrievalExample],
    chance: Mapping[str, Mapping[str, float]],
    frames: FrameLoader,
) -> Page:
    """Return the page.

    Args:
        shown: what was trained and found. Metrics are ``test``: set -> model -> score -> numbers, percent and ranks.
        examples: queries with the clips that each model found; those of one query stand together, the fine-tuned model last.
        chance: by set, what a random order would score.
        frames: reads a clip.
    """
    sets = {
        name: {
            f"{model}/{score}": {column: values[column] for column in RETRIEVAL_COLUMNS}
            for model, scores in models.items()
            for score, values in scores.items()
        }
        for name, models in shown.metrics["test"].items()
    }
    headlines = [
        (name, way, _compared(name, systems, chance[name], way)) for name, systems in sets.items() for way in _DIRECTIONS
    ]
    clips = {p["split"]: p["clips"] for record in shown.records if (p := record.get("protocol"))}
    return Page(
        title="Retrieval, fine-tuned: report",
        summary=[
            f"Given a caption from the set {name}, the fine-tuned model puts a right one of {clips[name]:,} clips first in "
            f"{percent(compared.value)} of the cases ({compared.against})."
            for name, way, compared in headlines
            if way == "t2v"
        ],
        tiles=[compared.tile for _, _, compared in headlines],
        notes=[f"{record['task']}: {record['note']}." for record in shown.records if record["note"]],
        sections=[
            Section(
                "Results",
                [Bars([_bars(name, sets[name], chance[name], way) for name, way, _ in headlines]) if sets else None],
                missing="No set could be searched.",
            ),
            Section(
                "Before and after",
                [
                    system_table(f"Retrieval on {name}", systems, RETRIEVAL_COLUMNS, {"Chance": chance[name]})
                    for name, systems in sets.items()
                ],
                "Of each set, found by the stage-2 model as it was (zero-shot) and as it is after fine-tuning: the percentage "
                "of queries with a right answer among the first 1, 5 and 10, and the median and mean rank of the first one. A "
                "query about a clip that cannot be read ranks last; ties count against the model. The dual softmax reads all "
                "queries at once, and does not compete: the best value of each column among the others is set in bold.",
                "No set could be searched.",
            ),
            Section("Re-ranking", [cost_table(shown.times.get("reranking", {}))], missing="Nothing was re-ranked."),
            Section(
                "Training",
                [training_curves("retrieval", {"Fine-tuning": shown.histories[_AFTER]})],
                missing="Nothing was trained.",
            ),
            Section(
                "What is found",
                found_clips(examples),
                "Queries evenly spread over each set, half of them hits of the fine-tuned model if there are so many; the best "
                "clips after re-ranking, before fine-tuning and after it.",
                "There is no query to show.",
            ),
            Section(
                "Unreadable clips", [_failures(shown.records)], "Queries about them rank last.", "Every clip could be read."
            ),
        ],
        records=shown.records,
        frames=frames,
    )


def _compared(name: str, systems: Systems, chance: Mapping[str, float], way: str) -> Compared:
    """Return R@1 of the fine-tuned dual encoder, and what it is to be compared with."""
    others = {
        "re-ranked": systems.get(f"{_AFTER}/reranked", {}),
        "zero-shot": systems.get(f"{_BEFORE}/dual", {}),
        "zero-shot re-ranked": systems.get(f"{_BEFORE}/reranked", {}),
        "chance": chance,
    }
    value = systems[f"{_AFTER}/dual"][f"{way}_r1"]
    return Compared(f"{_DIRECTIONS[way]} R@1, {name}", value, {label: row.get(f"{way}_r1") for label, row in others.items()})


def _bars(name: str, systems: Systems, chance: Mapping[str, float], way: str) -> tuple[str, list[Bar]]:
    shown = [system for system in sorted(systems, key=system_order) if not uses_other_queries(system)]
    bars = [Bar(system_name(system), systems[system][f"{way}_r1"]) for system in shown]
    bars += [Bar("Chance", chance[f"{way}_r1"], True)] if chance else []
    return f"{_DIRECTIONS[way]} R@1 on {name} (%)", bars


def _failures(records: Sequence[Mapping[str, Any]]) -> Table | None:
    found = {(clip, p["split"]): None for record in records if (p := record.get("protocol")) for clip in p["failures"]}
    return table("Clips that could not be read", ("Clip", "Set"), found, words=True)
