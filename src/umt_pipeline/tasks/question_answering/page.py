"""The page of question answering: how right the answers and choices are, by type of question, and examples of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from umt_pipeline.reports.examples import Example, Film, Said, spread
from umt_pipeline.reports.figures import training_curves
from umt_pipeline.reports.tables import Bar, Cell, Heading, Row, Scored, Table, Tile, keyed, percent, score_table
from umt_pipeline.reports.task import Block, Section, TaskPage
from umt_pipeline.tasks.question_answering.testing import TypeRule, question_types

Kind = Literal["open", "choice"]
_NAMES = {
    "stage2": "From stage 2",
    "control": "From the control",
    "majority": "Commonest answer",
    "chance": "Chance",
}
_CHOOSES = {"stage2": "Stage 2", "control": "Stage 2 from scratch (control)", "chance": "Chance"}
_REFERENCES = ("majority", "chance")
_TYPES_WITH_EXAMPLES = 4
_EXAMPLES_OF_A_KIND = 2  # right ones, and as many wrong ones, per split and type
_TITLES: dict[Kind, str] = {"open": "Open questions", "choice": "Multiple choice"}


@dataclass(frozen=True)
class QuestionResults:
    """What the test of answers and choices found.

    Args:
        metrics: ``test``, ``per_type`` and ``choice``, by split.
        records: each number with its protocol.
        predictions: a row for each kind, split, model and question, as text or as what it is.
        histories: rows of training by model; empty where nothing was trained.
        types: what open questions are counted by.
        notes: what was skipped and why.
    """

    metrics: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    predictions: pd.DataFrame
    histories: Mapping[str, pd.DataFrame]
    types: TypeRule
    notes: Sequence[str] = ()


def question_page(results: QuestionResults) -> TaskPage:
    """Return the page, yet without the frames of the clips that it shows."""
    values: dict[Kind, Mapping[str, Any]] = {"open": results.metrics["test"], "choice": results.metrics["choice"]}
    groups = [(kind, split, _in_order(found[split])) for kind, found in values.items() for split in found]
    curves = training_curves("answers", [(_NAMES[name], rows) for name, rows in results.histories.items()])
    return TaskPage(
        title="Question answering: report",
        summary=[_sentence(results, *group) for group in groups],
        tiles=[_tile(*group) for group in groups],
        bars=[_bars(*group) for group in groups],
        notes=results.notes,
        sections=[
            Section(
                "Accuracy by type of question",
                [table for split in results.metrics["per_type"] if (table := _type_table(results, split))],
                "Percent of open questions answered as most people did. Equal scores count as wrong, and so does a question "
                "about a clip that cannot be read. The best value of each column is set in bold; rows in italics look at no "
                "clip.",
                "There is no open question to test with.",
            ),
            Section("Training", [curves] if curves else [], missing="Nothing was trained."),
            *(_examples(results, kind) for kind in _TITLES),
            Section(
                "Unreadable clips", _failures(results.predictions), "Questions about them count as wrong.",
                "Every clip could be read.",
            ),
        ],
        records=results.records,
    )  # fmt: skip


def _in_order(values: Mapping[str, float]) -> dict[str, float]:
    return {name: values[name] for name in _NAMES if name in values}


def _name(kind: Kind, model: str) -> str:
    # Captions are chosen by the stage-2 models as they are, questions answered by what was fine-tuned from them.
    return (_CHOOSES if kind == "choice" else _NAMES)[model]


def _part(results: QuestionResults, kind: Kind, split: str, model: str) -> pd.DataFrame:
    table = results.predictions
    return table[(table["kind"] == kind) & (table["split"] == split) & (table["model"] == model)]


def _compared(kind: Kind, values: Mapping[str, float]) -> tuple[tuple[str, float], list[tuple[str, float]]]:
    """Return the first model with its accuracy, and what to compare it with."""
    first, *others = ((_name(kind, model), value) for model, value in values.items())
    return first, others


def _sentence(results: QuestionResults, kind: Kind, split: str, values: Mapping[str, float]) -> str:
    (name, value), others = _compared(kind, values)
    table = results.predictions
    count = table[(table["kind"] == kind) & (table["split"] == split)]["question_id"].nunique()
    against = ", ".join(f"{other.lower()} {percent(share)}" for other, share in others) or "nothing to compare with"
    verb = "open questions are answered right" if kind == "open" else "captions are chosen right"
    return f"On {split}, {percent(value)} of {count:,} {verb} ({name.lower()}; {against})."


def _tile(kind: Kind, split: str, values: Mapping[str, float]) -> Tile:
    (_, value), others = _compared(kind, values)
    return Tile(f"{_TITLES[kind]}, {split}", percent(value), [f"{name.lower()} {percent(share)}" for name, share in others])


def _bars(kind: Kind, split: str, values: Mapping[str, float]) -> tuple[str, list[Bar]]:
    bars = [Bar(_name(kind, model), value, model in _REFERENCES) for model, value in values.items()]
    return f"{_TITLES[kind]} on {split} (%)", bars


def _type_table(results: QuestionResults, split: str) -> Table | None:
    """Return models x types of question of a split, the most frequent types first."""
    values = results.metrics["per_type"][split]
    kinds = _types(results, split)
    columns = {"all": "All"} | {kind: f"{kind} ({count:,})" for kind, count in kinds.items()}
    everything = results.metrics["test"][split]
    rows = {
        model: {"all": everything[model]} | {kind: values[kind][model] for kind in kinds}
        for model in _in_order(everything)
    }
    models = [Scored(Cell(_NAMES[model]), row) for model, row in rows.items() if model not in _REFERENCES]
    references = {_NAMES[model]: row for model, row in rows.items() if model in _REFERENCES}
    return score_table(f"Open questions on {split}", models, columns, references)


def _types(results: QuestionResults, split: str) -> dict[str, int]:
    """Return how many open questions a split has of each type, the most frequent first."""
    asked = _part(results, "open", split, "majority")
    counts = Counter(question_types(asked, results.types).values())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _examples(results: QuestionResults, kind: Kind) -> Section:
    """Return right and wrong answers of the first model, evenly spread over each split and its most frequent types."""
    blocks: list[Block] = []
    table = results.predictions[results.predictions["kind"] == kind]
    models = [name for name in _NAMES if name in set(table["model"])]
    first = next((name for name in models if name not in _REFERENCES), None)
    for split in dict.fromkeys(table["split"]) if first else ():
        said = {model: keyed(_part(results, kind, split, model), "question_id") for model in models}
        told = _part(results, kind, split, str(first))
        told = told[told["failure"] == ""]
        chosen = [name for group in _grouped(results, kind, split, told) for name in group]
        if chosen:
            blocks.append(Heading(f"Set: {split}"))
        for question_id in chosen:
            rows = {model: said[model][question_id] for model in models}
            blocks.append(_example(kind, str(first), rows))
    explain = f"Right and wrong ones of the model {_name(kind, first).lower()}, evenly spread." if first else ""
    return Section(f"Examples: {_TITLES[kind].lower()}", blocks, explain, f"No {_TITLES[kind].lower()} were asked.")


def _grouped(results: QuestionResults, kind: Kind, split: str, told: pd.DataFrame) -> list[list[str]]:
    if kind == "choice":
        groups = [told]
    else:
        types = told["question_id"].map(question_types(told, results.types))
        groups = [told[types == name] for name in list(_types(results, split))[:_TYPES_WITH_EXAMPLES]]
    found = []
    for group in groups:
        right = group["right"].map(_is_true).astype(bool)
        for part in (group[right], group[~right]):
            found.append(spread([str(name) for name in part["question_id"]], _EXAMPLES_OF_A_KIND))
    return found


def _example(kind: Kind, first: str, rows: Mapping[str, Mapping[str, Any]]) -> Example:
    row = rows[first]
    said = [Said("The truth", str(row["answer"]))]
    for model, told in rows.items():
        said.append(Said(_name(kind, model), str(told["predicted"]) or "(nothing)", _is_true(told["right"])))
    good = bool(said[1].right)
    head = str(row["question"]) or "Which caption is it?"
    return Example(head, Film(str(row["video_id"])), tuple(said), "right" if good else "wrong", good)


def _is_true(value: Any) -> bool:
    # Tables that were written and read again hold text.
    return str(value) == "True"


def _failures(predictions: pd.DataFrame) -> list[Block]:
    failed = predictions[predictions["failure"] != ""]
    asked = Counter(str(video_id) for video_id in failed.drop_duplicates("question_id")["video_id"])
    reasons = keyed(failed, "video_id")
    rows = tuple(
        Row(Cell(video_id), (Cell(f"{count:,}"), Cell(str(reasons[video_id]["failure"])))) for video_id, count in asked.items()
    )
    return [Table("Clips that could not be read", ("Clip", "Questions", "Reason"), rows, words=True)] if rows else []
