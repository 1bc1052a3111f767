"""The page of the classification: how right the classifiers are, on which classes, and where they err."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from umt_pipeline.reports.figures import svg_picture, training_curves
from umt_pipeline.reports.page import Bar, Bars, Block, Cell, Example, Film, FrameLoader, Page, Said, Section, Table, subsection
from umt_pipeline.reports.tables import NOTHING, Compared, Scored, keyed, percent, score_table, share_cells, table
from umt_pipeline.tasks.task import RUN_NAMES, Shown

_COLUMNS = {"top1": "Top-1", "top5": "Top-5", "mean_class": "Mean of classes"}
_MISTAKES_SHOWN = 8


@dataclass(frozen=True)
class _LabelTask:
    """What was found in one label task.

    Attributes:
        name: of the task.
        predictions: rows of its table.
        models: those tested, the first of which the page is about.
        values: of each model.
        per_class: of each model, the percentage of right answers by label.
        trained: how many training clips each label has.
    """

    name: str
    predictions: pd.DataFrame
    models: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]]
    per_class: Mapping[str, Mapping[str, float]]
    trained: Counter[str]

    def of(self, model: str) -> pd.DataFrame:
        """Return the rows of one model."""
        return self.predictions[self.predictions["model"] == model]

    @property
    def references(self) -> dict[str, dict[str, float]]:
        """What a model must beat: always saying the commonest label of training, and drawing lots."""
        said = min(self.trained, key=lambda label: (-self.trained[label], label))
        labels = self.predictions.drop_duplicates("video_id")["label"]
        right, chance = 100.0 * float((labels == said).mean()), 100.0 / len(self.trained)
        mean = 100.0 / labels.nunique() if right else 0.0
        always = {f"Commonest label of training: {said}": {"top1": right, "mean_class": mean}}
        return always | {"Chance": {"top1": chance, "mean_class": chance}}

    @property
    def compared(self) -> Compared:
        """Top-1 of the first model beside everything else."""
        others: dict[str, float | None] = {RUN_NAMES[name].lower(): self.values[name]["top1"] for name in self.models[1:]}
        others |= {name.lower(): row["top1"] for name, row in self.references.items()}
        return Compared(f"Top-1, {self.name}", self.values[self.models[0]]["top1"], others)

    @property
    def sentence(self) -> str:
        """The same in words."""
        return (
            f"The classifier of {self.name}, fine-tuned {RUN_NAMES[self.models[0]].lower()}, is right on "
            f"{percent(self.compared.value)} of {len(self.of(self.models[0])):,} held-out clips ({self.compared.against})."
        )


def classification_page(
    shown: Shown[Any, Any], training_labels: Mapping[str, Sequence[str]], frames: FrameLoader
) -> Page:
    """Return the page.

    Args:
        shown: what was trained and found. Metrics are ``test`` and ``per_class``, each task -> model -> percent; predictions a
            row for each task, model and video with ``label``, ``failure``, ``top1`` ... and ``score1`` ..., as text or as
            numbers; the picture is of confusion matrices; histories have a column ``part``, the task.
        training_labels: of each task, the label of every training clip.
        frames: reads what the first model saw in the middle of a clip.
    """
    predictions = shown.predictions
    models = tuple(predictions["model"].unique())
    tasks = [
        _LabelTask(
            name,
            predictions[predictions["task"] == name],
            models,
            shown.metrics["test"][name],
            shown.metrics["per_class"][name],
            Counter(training_labels[name]),
        )
        for name in predictions["task"].unique()
    ]
    failed = predictions[predictions["failure"] != ""].drop_duplicates(["task", "video_id"])
    failures = failed[["video_id", "task", "label", "failure"]].itertuples(index=False, name=None)
    return Page(
        title="Classification: report",
        summary=[task.sentence for task in tasks],
        tiles=[task.compared.tile for task in tasks],
        sections=[
            Section("Results", [Bars([_bars(task) for task in tasks])]),
            Section(
                "Accuracy",
                [_score_table(task) for task in tasks],
                "On held-out clips, in percent. Equal scores count as wrong, and so does a clip that cannot be read. The best "
                "value of each column is set in bold. Rows in italics come from no model.",
            ),
            Section("Training", _curves(shown.histories, tasks), missing="Nothing was logged."),
            Section("Classes", [_class_table(task) for task in tasks]),
            Section(
                "Confusion",
                [svg_picture(shown.picture, "Confusion matrices: rows are labels, columns are answers")],
                "A row per true label, a column per answer. Colour is the share of the row.",
            ),
            Section(
                "Mistakes",
                [block for task in tasks for block in _mistakes(task, with_heading=len(tasks) > 1)],
                f"One clip of each of the {_MISTAKES_SHOWN} most frequent confusions of the first model. The frames are those "
                "that it saw in the middle of the clip.",
                "The first model made no mistake.",
            ),
            Section(
                "Unreadable clips",
                [table("Clips that could not be read", ("Clip", "Task", "Label", "Reason"), failures, words=True)],
                "They count as wrong.",
                "Every clip could be read.",
            ),
        ],
        records=shown.records,
        frames=frames,
    )


def _bars(task: _LabelTask) -> tuple[str, list[Bar]]:
    bars = [Bar(RUN_NAMES[model], task.values[model]["top1"]) for model in task.models]
    return f"Top-1 on {task.name} (%)", bars + [Bar(name, row["top1"], True) for name, row in task.references.items()]


def _score_table(task: _LabelTask) -> Table | None:
    columns = {key: head for key, head in _COLUMNS.items() if any(key in task.values[model] for model in task.models)}
    rows = [Scored(Cell(RUN_NAMES[model]), task.values[model]) for model in task.models]
    return score_table(f"Accuracy on {task.name}", rows, columns, task.references)


def _curves(histories: Mapping[str, pd.DataFrame], tasks: Sequence[_LabelTask]) -> list[Block]:
    blocks: list[Block] = []
    for index, task in enumerate(tasks):
        own = {RUN_NAMES[model]: rows[rows["part"] == task.name] for model, rows in histories.items() if len(rows)}
        blocks += subsection(task.name, [training_curves(f"task{index}", own)])
    return blocks


def _class_table(task: _LabelTask) -> Table | None:
    """Return a row per class of the test: how many clips, how many right, and what the first model takes it for."""
    told = task.of(task.models[0])
    rows = []
    for label, clips in sorted(Counter(told["label"]).items()):
        shares = {model: task.per_class[model].get(label, 0.0) for model in task.models}
        wrong = told[(told["label"] == label) & (told["top1"] != label) & (told["failure"] == "")]["top1"]
        taken = ", ".join(f"{name} ({count:,})" for name, count in Counter(wrong).most_common(2))
        trained = Cell(f"{task.trained[label]:,}", style="" if task.trained[label] else "bad")
        rows.append((str(label), trained, clips, *share_cells(shares, task.models), taken or NOTHING))
    names = [RUN_NAMES[model] for model in task.models]
    head = ("Class", "Clips in training", "In the test", *(f"{name}, %" for name in names), "Most often taken for")
    return table(f"Classes of {task.name}", head, rows, f"The last column is of the model {names[0].lower()}.")


def _mistakes(task: _LabelTask, with_heading: bool) -> list[Block]:
    """Return one clip of each of the first model's most frequent confusions."""
    readable = {model: keyed(rows[rows["failure"] == ""], "video_id") for model in task.models for rows in [task.of(model)]}
    first = readable[task.models[0]]
    clips = Counter(row["label"] for row in first.values())
    confused: dict[tuple[str, str], list[str]] = {}
    for video_id, row in first.items():
        if row["label"] != row["top1"]:
            confused.setdefault((row["label"], row["top1"]), []).append(video_id)
    examples = []
    for label, answer in sorted(confused, key=lambda pair: (-len(confused[pair]), pair))[:_MISTAKES_SHOWN]:
        video_id, *others = confused[label, answer]
        head = f"“{label}” taken for “{answer}” in {1 + len(others):,} of {clips[label]:,} clips"
        said = [_said(model, rows[video_id]) for model, rows in readable.items() if video_id in rows]
        examples.append(Example(head, Film(video_id), (Said("The label", label), *said)))
    return subsection(task.name, examples) if with_heading else list(examples)


def _said(model: str, row: Mapping[str, Any]) -> Said:
    ranked = [(row[f"top{rank}"], float(row[f"score{rank}"])) for rank in (1, 2, 3) if f"top{rank}" in row]
    (best, score), *others = ranked
    then = "; then " + ", ".join(f"{name} {_share(share)}" for name, share in others) if others else ""
    return Said(RUN_NAMES[model], str(best), bool(best == row["label"]), f"sure to {_share(score)}{then}")


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"
