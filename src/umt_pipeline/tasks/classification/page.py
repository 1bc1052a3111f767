"""The page of the classification: how right the classifiers are, on which classes, and where they err."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from umt_pipeline.reports.examples import Example, Film, Said
from umt_pipeline.reports.figures import svg_picture, training_curves
from umt_pipeline.reports.tables import (
    NOTHING,
    Bar,
    Cell,
    Heading,
    Row,
    Scored,
    Table,
    Tile,
    keyed,
    percent,
    score_table,
)
from umt_pipeline.reports.task import Block, Section, TaskPage

_NAMES = {
    "stage1": "From stage 1",
    "stage2": "From stage 2",
    "scratch": "From scratch",
    "control": "From scratch (control)",
}
_COLUMNS = {"top1": "Top-1", "top5": "Top-5", "mean_class": "Mean of classes"}
_MISTAKES_SHOWN = 8
_ALWAYS, _CHANCE = "Commonest label of training", "Chance"


@dataclass(frozen=True)
class ClassificationResults:
    """What the test of the classifiers found.

    Args:
        metrics: ``test`` and ``per_class``, each task -> model -> numbers in percent.
        records: each number with its protocol.
        predictions: a row for each task, model and video: ``label``, ``failure``, ``top1`` ... and ``score1`` ..., as text or
            as numbers.
        confusion: SVG of the confusion matrices.
        histories: rows of training by model, with a column ``part``, the task.
        training_labels: of each task, the label of every training clip.
    """

    metrics: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    predictions: pd.DataFrame
    confusion: str
    histories: Mapping[str, pd.DataFrame]
    training_labels: Mapping[str, Sequence[str]]


def classification_page(results: ClassificationResults) -> TaskPage:
    """Return the page, yet without the frames of the clips that it shows."""
    tasks = list(dict.fromkeys(results.predictions["task"]))
    models = list(dict.fromkeys(results.predictions["model"]))
    references = {task: _references(results, task) for task in tasks}
    return TaskPage(
        title="Classification: report",
        summary=[_sentence(results, task, models, references[task]) for task in tasks],
        tiles=[_tile(results, task, models, references[task]) for task in tasks],
        bars=[_bars(results, task, models, references[task]) for task in tasks],
        sections=[
            Section(
                "Accuracy",
                [table for task in tasks for table in [_score_table(results, task, models, references[task])] if table],
                "On held-out clips, in percent. Equal scores count as wrong, and so does a clip that cannot be read. The best "
                "value of each column is set in bold. Rows in italics come from no model.",
            ),
            Section("Training", _curves(results, tasks, models), missing="Nothing was logged."),
            Section("Classes", [_class_table(results, task, models) for task in tasks]),
            Section(
                "Confusion",
                [svg_picture(results.confusion, "Confusion matrices: rows are labels, columns are answers")],
                "A row per true label, a column per answer. Colour is the share of the row.",
            ),
            Section(
                "Mistakes",
                _mistakes(results.predictions, tasks, models),
                f"One clip of each of the {_MISTAKES_SHOWN} most frequent confusions of the first model. The frames are those "
                "that it saw in the middle of the clip.",
                "The first model made no mistake.",
            ),
            Section(
                "Unreadable clips", _failures(results.predictions), "They count as wrong.", "Every clip could be read."
            ),
        ],
        records=results.records,
    )


def _of(results: ClassificationResults, task: str, model: str) -> pd.DataFrame:
    table = results.predictions
    return table[(table["task"] == task) & (table["model"] == model)]


def _references(results: ClassificationResults, task: str) -> dict[str, dict[str, float]]:
    """Return what a model must beat: always saying the commonest label of training, and drawing lots."""
    labels = list(results.training_labels[task])
    counts = Counter(labels)
    said = min(counts, key=lambda label: (-counts[label], label))
    test = results.predictions[results.predictions["task"] == task].drop_duplicates("video_id")["label"]
    right = 100.0 * float((test == said).mean())
    chance = 100.0 / len(counts)
    mean = 100.0 / test.nunique() if right else 0.0
    return {f"{_ALWAYS}: {said}": {"top1": right, "mean_class": mean}, _CHANCE: {"top1": chance, "mean_class": chance}}


def _compared(
    results: ClassificationResults, task: str, models: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, float]]:
    others = [(_NAMES[model].lower(), results.metrics["test"][task][model]["top1"]) for model in models[1:]]
    return others + [(name.lower(), row["top1"]) for name, row in references.items()]


def _sentence(
    results: ClassificationResults, task: str, models: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> str:
    clips = len(_of(results, task, models[0]))
    value = percent(results.metrics["test"][task][models[0]]["top1"])
    against = ", ".join(f"{name} {percent(other)}" for name, other in _compared(results, task, models, references))
    return (
        f"The classifier of {task}, fine-tuned {_NAMES[models[0]].lower()}, is right on {value} of {clips:,} held-out clips "
        f"({against})."
    )


def _tile(
    results: ClassificationResults, task: str, models: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> Tile:
    beside = [f"{name} {percent(value)}" for name, value in _compared(results, task, models, references)]
    return Tile(f"Top-1, {task}", percent(results.metrics["test"][task][models[0]]["top1"]), beside)


def _bars(
    results: ClassificationResults, task: str, models: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> tuple[str, list[Bar]]:
    bars = [Bar(_NAMES[model], results.metrics["test"][task][model]["top1"]) for model in models]
    return f"Top-1 on {task} (%)", bars + [Bar(name, row["top1"], True) for name, row in references.items()]


def _score_table(
    results: ClassificationResults, task: str, models: Sequence[str], references: Mapping[str, Mapping[str, float]]
) -> Table | None:
    values = results.metrics["test"][task]
    columns = {key: head for key, head in _COLUMNS.items() if any(key in values[model] for model in models)}
    rows = [Scored(Cell(_NAMES[model]), values[model]) for model in models]
    return score_table(f"Accuracy on {task}", rows, columns, references)


def _curves(results: ClassificationResults, tasks: Sequence[str], models: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    for place, task in enumerate(tasks):
        rows = [(_NAMES[model], results.histories[model]) for model in models]
        curves = training_curves(f"task{place}", [(name, table[table["part"] == task]) for name, table in rows])
        if curves:
            blocks += [Heading(task), curves]
    return blocks


def _class_table(results: ClassificationResults, task: str, models: Sequence[str]) -> Table:
    """Return a row per class of the test: how many clips, how many right, and what the first model takes it for."""
    values = results.metrics["per_class"][task]
    trained = Counter(results.training_labels[task])
    told = _of(results, task, models[0])
    rows = []
    for label, clips in sorted(Counter(told["label"]).items()):
        shares = [values[model].get(label, 0.0) for model in models]
        cells = [Cell(f"{trained[label]:,}", style="" if trained[label] else "bad"), Cell(f"{clips:,}")]
        # Equals are all best, unless there is nothing else.
        best = max(shares) if max(shares) > min(shares) else None
        cells += [Cell(f"{share:.1f}", style="best" if share == best else "") for share in shares]
        wrong = told[(told["label"] == label) & (told["top1"] != label) & (told["failure"] == "")]["top1"]
        taken = Counter(wrong).most_common(2)
        cells.append(Cell(", ".join(f"{name} ({count:,})" for name, count in taken) or NOTHING))
        rows.append(Row(Cell(label), tuple(cells)))
    head = ("Class", "Clips in training", "In the test", *(f"{_NAMES[model]}, %" for model in models), "Most often taken for")
    return Table(f"Classes of {task}", head, tuple(rows), f"The last column is of the model {_NAMES[models[0]].lower()}.")


def _mistakes(predictions: pd.DataFrame, tasks: Sequence[str], models: Sequence[str]) -> list[Block]:
    blocks: list[Block] = []
    for task in tasks:
        table = predictions[(predictions["task"] == task) & (predictions["failure"] == "")]
        said = {model: keyed(table[table["model"] == model], "video_id") for model in models}
        clips = Counter(row["label"] for row in said[models[0]].values())
        confused: dict[tuple[str, str], list[str]] = {}
        for video_id, row in said[models[0]].items():
            if row["label"] != row["top1"]:
                confused.setdefault((row["label"], row["top1"]), []).append(video_id)
        frequent = sorted(confused, key=lambda pair: (-len(confused[pair]), pair))[:_MISTAKES_SHOWN]
        if frequent and len(tasks) > 1:
            blocks.append(Heading(task))
        for label, answer in frequent:
            video_id = confused[label, answer][0]
            head = f"“{label}” taken for “{answer}” in {len(confused[label, answer]):,} of {clips[label]:,} clips"
            answers = [_said(model, said[model][video_id]) for model in models if video_id in said[model]]
            blocks.append(Example(head, Film(video_id), (Said("The label", label), *answers)))
    return blocks


def _said(model: str, row: Mapping[str, Any]) -> Said:
    ranked = [(row[f"top{place}"], float(row[f"score{place}"])) for place in (1, 2, 3) if f"top{place}" in row]
    (best, score), *others = ranked
    then = "; then " + ", ".join(f"{name} {_share(share)}" for name, share in others) if others else ""
    return Said(_NAMES[model], str(best), bool(best == row["label"]), f"sure to {_share(score)}{then}")


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _failures(predictions: pd.DataFrame) -> list[Block]:
    failed = predictions[predictions["failure"] != ""].drop_duplicates(["task", "video_id"])
    rows = tuple(
        Row(Cell(str(row["video_id"])), (Cell(str(row["task"])), Cell(str(row["label"])), Cell(str(row["failure"]))))
        for row in failed.to_dict("records")
    )
    return [Table("Clips that could not be read", ("Clip", "Task", "Label", "Reason"), rows, words=True)] if rows else []
