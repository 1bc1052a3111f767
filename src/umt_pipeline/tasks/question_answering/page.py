"""The page of question answering: how right the answers and choices are, by type of question, and examples of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from umt_pipeline.evaluation.examples import spread
from umt_pipeline.reports.figures import training_curves
from umt_pipeline.reports.page import Bar, Bars, Block, Cell, Example, Film, FrameLoader, Page, Said, Section, Table, subsection
from umt_pipeline.reports.tables import Compared, Scored, keyed, percent, score_table, table
from umt_pipeline.tasks.question_answering.testing import TypeRule, question_types
from umt_pipeline.tasks.task import Shown

Kind = Literal["open", "choice"]
# Also the order of rows.
_NAMES = {
    "stage2": "From stage 2",
    "control": "From the control",
    "majority": "Commonest answer",
    "chance": "Chance",
}
# Captions are chosen by the stage-2 models as they are, questions answered by what was fine-tuned from them.
_CHOOSES = {**_NAMES, "stage2": "Stage 2", "control": "Stage 2 from scratch (control)"}
_REFERENCES = ("majority", "chance")
_TYPES_WITH_EXAMPLES = 4
_EXAMPLES_OF_A_KIND = 2  # right ones, and as many wrong ones, per split and type
_TITLES: dict[Kind, str] = {"open": "Open questions", "choice": "Multiple choice"}


@dataclass(frozen=True)
class _Part:
    """The questions of one kind and split.

    Attributes:
        kind: of question.
        split: of the videos.
        predictions: rows of its table.
        values: accuracy of each model and of what no model answered, in the order of the page.
    """

    kind: Kind
    split: str
    predictions: pd.DataFrame
    values: Mapping[str, float]

    @property
    def names(self) -> Mapping[str, str]:
        """What the models are called here."""
        return _CHOOSES if self.kind == "choice" else _NAMES

    @property
    def first(self) -> str:
        """The model that the page is about."""
        return next(iter(self.values))

    def of(self, model: str) -> pd.DataFrame:
        """Return the rows of one model."""
        return self.predictions[self.predictions["model"] == model]

    @property
    def compared(self) -> Compared:
        """The first model beside everything else."""
        (_, value), *others = self.values.items()
        label = f"{_TITLES[self.kind]}, {self.split}"
        return Compared(label, value, {self.names[name].lower(): other for name, other in others})

    @property
    def sentence(self) -> str:
        """The same in words."""
        count = self.predictions["question_id"].nunique()
        verb = "open questions are answered right" if self.kind == "open" else "captions are chosen right"
        model = self.names[self.first].lower()
        return f"On {self.split}, {percent(self.compared.value)} of {count:,} {verb} ({model}; {self.compared.against})."


def question_page(shown: Shown[Any, Any], types: TypeRule, notes: Sequence[str], frames: FrameLoader) -> Page:
    """Return the page.

    Args:
        shown: what was trained and found. Metrics are ``test``, ``per_type`` and ``choice``, by split; predictions a row for
            each kind, split, model and question, as text or as what it is.
        types: what open questions are counted by.
        notes: what was skipped and why.
        frames: reads a clip.
    """
    predictions = shown.predictions
    found: dict[Kind, Mapping[str, Mapping[str, float]]] = {"open": shown.metrics["test"], "choice": shown.metrics["choice"]}
    parts = [
        _Part(
            kind,
            split,
            predictions[(predictions["kind"] == kind) & (predictions["split"] == split)],
            {name: values[name] for name in _NAMES if name in values},
        )
        for kind, splits in found.items()
        for split, values in splits.items()
    ]
    return Page(
        title="Question answering: report",
        summary=[part.sentence for part in parts],
        tiles=[part.compared.tile for part in parts],
        notes=notes,
        sections=[
            Section("Results", [Bars([_bars(part) for part in parts]) if parts else None], missing="There are no questions."),
            Section(
                "Accuracy by type of question",
                [
                    _type_table(part, shown.metrics["per_type"][part.split], types)
                    for part in parts
                    if part.kind == "open" and part.split in shown.metrics["per_type"]
                ],
                "Percent of open questions answered as most people did. Equal scores count as wrong, and so does a question "
                "about a clip that cannot be read. The best value of each column is set in bold; rows in italics read no clip.",
                "There is no open question to test with.",
            ),
            Section(
                "Training",
                [training_curves("answers", {_NAMES[name]: rows for name, rows in shown.histories.items()})],
                missing="Nothing was trained.",
            ),
            *(_examples(kind, [part for part in parts if part.kind == kind], types) for kind in _TITLES),
            Section(
                "Unreadable clips",
                [_failures(predictions)],
                "Questions about them count as wrong.",
                "Every clip could be read.",
            ),
        ],
        records=shown.records,
        frames=frames,
    )


def _bars(part: _Part) -> tuple[str, list[Bar]]:
    bars = [Bar(part.names[model], value, model in _REFERENCES) for model, value in part.values.items()]
    return f"{_TITLES[part.kind]} on {part.split} (%)", bars


def _type_table(part: _Part, per_type: Mapping[str, Mapping[str, float]], types: TypeRule) -> Table | None:
    """Return models x types of question, the most frequent types first."""
    kinds = _types(part, types)
    columns = {"all": "All"} | {kind: f"{kind} ({count:,})" for kind, count in kinds.items()}
    rows = {name: {"all": value} | {kind: per_type[kind][name] for kind in kinds} for name, value in part.values.items()}
    models = [Scored(Cell(_NAMES[name]), row) for name, row in rows.items() if name not in _REFERENCES]
    references = {_NAMES[name]: row for name, row in rows.items() if name in _REFERENCES}
    return score_table(f"Open questions on {part.split}", models, columns, references)


def _types(part: _Part, types: TypeRule) -> dict[str, int]:
    """Return how many questions there are of each type, the most frequent first."""
    counts = Counter(question_types(part.of(part.first), types).values())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _examples(kind: Kind, parts: Sequence[_Part], types: TypeRule) -> Section:
    """Return right and wrong answers of the first model, evenly spread over each split and its most frequent types."""
    blocks: list[Block] = []
    for one in parts:
        said = {model: keyed(one.of(model), "question_id") for model in one.values if model in set(one.predictions["model"])}
        told = one.of(one.first)
        told = told[told["failure"] == ""]
        groups = [told]
        if kind == "open":
            type_of = told["question_id"].map(question_types(told, types))
            groups = [told[type_of == name] for name in list(_types(one, types))[:_TYPES_WITH_EXAMPLES]]
        chosen = []
        for group in groups:
            right = group["right"].map(_is_true).astype(bool)
            for half in (group[right], group[~right]):
                chosen += spread([str(name) for name in half["question_id"]], _EXAMPLES_OF_A_KIND)
        examples = [_example(one, {model: rows[question_id] for model, rows in said.items()}) for question_id in chosen]
        blocks += subsection(f"Set: {one.split}", examples)
    title = _TITLES[kind].lower()
    explain = f"Right and wrong ones of the model {parts[0].names[parts[0].first].lower()}, evenly spread." if parts else ""
    return Section(f"Examples: {title}", blocks, explain, f"There are no questions: {title}.")


def _example(part: _Part, rows: Mapping[str, Mapping[str, Any]]) -> Example:
    row = rows[part.first]
    said = [Said("The truth", str(row["answer"]))]
    for model, told in rows.items():
        said.append(Said(part.names[model], str(told["predicted"]) or "(nothing)", _is_true(told["right"])))
    good = _is_true(row["right"])
    head = str(row["question"]) or "Which caption is it?"
    return Example(head, Film(str(row["video_id"])), tuple(said), "right" if good else "wrong", good)


def _is_true(value: Any) -> bool:
    # Tables that were written and read again hold text.
    return str(value) == "True"


def _failures(predictions: pd.DataFrame) -> Table | None:
    failed = predictions[predictions["failure"] != ""]
    counts = Counter(str(video_id) for video_id in failed.drop_duplicates("question_id")["video_id"])
    reasons = keyed(failed, "video_id")
    rows = [(video_id, count, str(reasons[video_id]["failure"])) for video_id, count in counts.items()]
    return table("Clips that could not be read", ("Clip", "Questions", "Reason"), rows, words=True)
