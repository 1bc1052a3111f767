"""The page of fine-tuned retrieval: how well a model finds before and after, what re-ranking takes, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from umt_pipeline.evaluation.results import RetrievalExample
from umt_pipeline.reports.evaluation.found import shown_example
from umt_pipeline.reports.evaluation.tables import cost_table, metric_table, system_name, system_order, uses_other_queries
from umt_pipeline.reports.figures import training_curves
from umt_pipeline.reports.tables import Bar, Cell, Heading, Row, Table, Tile, percent
from umt_pipeline.reports.task import Block, Section, TaskPage

_COLUMNS = [f"{way}_{metric}" for way in ("t2v", "v2t") for metric in ("r1", "r5", "r10", "medr", "meanr")]
_DIRECTIONS = {"t2v": "Text→video", "v2t": "Video→text"}
_BEFORE, _AFTER = "zero_shot", "fine_tuned"


@dataclass(frozen=True)
class RetrievalResults:
    """What searching before and after fine-tuning found.

    Args:
        metrics: ``test``: set -> model -> score -> numbers, percent and places.
        records: each number with its protocol.
        examples: queries with the clips that each model found; those of one query stand together, the fine-tuned model last.
        chance: by set, what a random order would score.
        history: rows of training.
        notes: what was skipped and why.
    """

    metrics: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    examples: Sequence[RetrievalExample]
    chance: Mapping[str, Mapping[str, float]]
    history: pd.DataFrame
    notes: Sequence[str] = ()


def retrieval_page(results: RetrievalResults) -> TaskPage:
    """Return the page, yet without the frames of the clips that it shows."""
    sets = {name: _systems(models) for name, models in results.metrics["test"].items()}
    tables = [
        metric_table(f"Retrieval on {name}", systems, _COLUMNS, {"Chance": results.chance.get(name, {})})
        for name, systems in sets.items()
    ]
    costs = cost_table(results.records)
    curves = training_curves("retrieval", [("Fine-tuning", results.history)])
    return TaskPage(
        title="Retrieval, fine-tuned: report",
        summary=[_sentence(results, name, systems) for name, systems in sets.items()],
        tiles=[_tile(results, name, systems, way) for name, systems in sets.items() for way in _DIRECTIONS],
        bars=[_bars(results, name, systems, way) for name, systems in sets.items() for way in _DIRECTIONS],
        notes=results.notes,
        sections=[
            Section(
                "Before and after",
                [table for table in tables if table],
                "Of each set, found by the stage-2 model as it was (zero-shot) and as it is after fine-tuning: the percentage "
                "of queries with a right answer among the first 1, 5 and 10, and the median and mean place of the first one. A "
                "query about a clip that cannot be read ranks last; ties count against the model. The dual softmax reads all "
                "queries at once, and does not compete: the best value of each column among the others is set in bold.",
                "No set could be searched.",
            ),
            Section("Re-ranking", [costs] if costs else [], missing="Nothing was re-ranked."),
            Section("Training", [curves] if curves else [], missing="Nothing was trained."),
            Section(
                "What is found",
                _examples(results.examples),
                "Queries evenly spread over each set, half of them hits of the fine-tuned model if there are so many; the best "
                "clips after re-ranking, before fine-tuning and after it.",
                "There is no query to show.",
            ),
            Section(
                "Unreadable clips", _failures(results.records), "Queries about them rank last.", "Every clip could be read."
            ),
        ],
        records=results.records,
    )


def _systems(models: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Mapping[str, float]]:
    """Return model/score -> numbers."""
    found = {f"{model}/{score}": values for model, scores in models.items() for score, values in scores.items()}
    return {name: found[name] for name in sorted(found, key=system_order)}


def _compared(
    results: RetrievalResults, name: str, systems: Mapping[str, Mapping[str, float]], way: str
) -> list[tuple[str, float]]:
    """Return what R@1 of the fine-tuned dual encoder is to be compared with."""
    others = {
        "re-ranked": systems.get(f"{_AFTER}/reranked"),
        "zero-shot": systems.get(f"{_BEFORE}/dual"),
        "zero-shot re-ranked": systems.get(f"{_BEFORE}/reranked"),
        "chance": results.chance.get(name),
    }
    return [(label, row[f"{way}_r1"]) for label, row in others.items() if row]


def _sentence(results: RetrievalResults, name: str, systems: Mapping[str, Mapping[str, float]]) -> str:
    value = percent(systems[f"{_AFTER}/dual"]["t2v_r1"])
    against = ", ".join(f"{label} {percent(other)}" for label, other in _compared(results, name, systems, "t2v"))
    clips = next(
        record["protocol"]["clips"]
        for record in results.records
        if record.get("protocol") and record["protocol"]["split"] == name
    )
    return (
        f"Given a caption from the set {name}, the fine-tuned model puts a right one of {clips:,} clips first in {value} of "
        f"the cases ({against})."
    )


def _tile(results: RetrievalResults, name: str, systems: Mapping[str, Mapping[str, float]], way: str) -> Tile:
    beside = [f"{label} {percent(value)}" for label, value in _compared(results, name, systems, way)]
    return Tile(f"{_DIRECTIONS[way]} R@1, {name}", percent(systems[f"{_AFTER}/dual"][f"{way}_r1"]), beside)


def _bars(
    results: RetrievalResults, name: str, systems: Mapping[str, Mapping[str, float]], way: str
) -> tuple[str, list[Bar]]:
    shown = {system: row for system, row in systems.items() if not uses_other_queries(system)}
    bars = [Bar(system_name(system), row[f"{way}_r1"]) for system, row in shown.items()]
    chance = results.chance.get(name)
    return f"{_DIRECTIONS[way]} R@1 on {name} (%)", bars + ([Bar("Chance", chance[f"{way}_r1"], True)] if chance else [])


def _examples(examples: Sequence[RetrievalExample]) -> list[Block]:
    blocks: list[Block] = []
    for name, of_set in groupby(examples, key=lambda example: example.set):
        blocks.append(Heading(f"Set: {name}"))
        for _, group in groupby(of_set, key=lambda example: (example.query_video_id, example.query)):
            blocks.append(shown_example(sorted(group, key=lambda example: system_order(example.system))))
    return blocks


def _failures(records: Sequence[Mapping[str, Any]]) -> list[Block]:
    found = {(p["split"], clip): None for record in records if (p := record.get("protocol")) for clip in p["failures"]}
    rows = tuple(Row(Cell(clip), (Cell(name),)) for name, clip in found)
    return [Table("Clips that could not be read", ("Clip", "Set"), rows, words=True)] if rows else []
