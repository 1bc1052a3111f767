"""Two runs side by side: what their numbers differ by, and whether they may be compared at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from umt_pipeline.core.errors import UmtError
from umt_pipeline.evaluation.records import Protocol, Record, flat_metrics

# What is compared, not how: two runs have other models, weights and seeds, and choose other numbers on validation.
_SUBJECT = frozenset({"model", "checkpoint_sha256", "seed", "chosen"})
# Where it was measured: no difference of protocol, but numbers of the same training differ by it.
_MACHINE = ("processor", "threads")
# Points (of per cent, or of a rank) by which the numbers of the demo may differ between kinds of machines though code, data and
# seed are the same: of 264 numbers 111 did on another kind of CPU, by 0.7 points in the median and 6.3 at most. Training, too,
# was done there: what is added in another order in each of thousands of steps ends up as another model of the same worth.
TOLERANCE = 6.5
_ANSWERS = {None: "not applicable", True: "yes", False: "no"}
_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """One number of both runs; None where a run does not have it."""

    name: str
    first: float | None
    second: float | None

    @property
    def change(self) -> float | None:
        """The second minus the first."""
        return None if self.first is None or self.second is None else self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """All numbers of two runs, and in what they were measured otherwise.

    Attributes:
        numbers: each.
        warnings: for each difference of protocol, with the tasks that it concerns.
        machines: for each difference of the machine, likewise: another kind of processor changes numbers by itself, up to about
            :data:`TOLERANCE`.
    """

    numbers: tuple[Difference, ...]
    warnings: tuple[str, ...]
    machines: tuple[str, ...] = ()


def load_records(path: Path) -> list[Record]:
    """Read a records file, such as ``data/07_model_output/evaluation_records.json``.

    Raises:
        UmtError: the file is missing, is no JSON, or holds something else than records.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UmtError(
            f"{path}: expected a file of records (data/07_model_output/evaluation_records.json), and it cannot be read: {error}"
        ) from error
    if not isinstance(content, list):
        raise UmtError(
            f"{path}: expected a list of records, found {type(content).__name__}; give data/07_model_output/*_records.json"
        )
    records = []
    for index, item in enumerate(content):
        try:
            records.append(Record.model_validate(item))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "record"
            task = item.get("task", index) if isinstance(item, dict) else index
            raise UmtError(
                f"{path}: record {task!r} is not valid at {where}: {first['msg']}. Was it written by another version of this "
                "package? Run the evaluation again"
            ) from error
    return records


def compare_protocols(first: Protocol, second: Protocol, ignored: Collection[str] = ()) -> list[str]:
    """Return in sentences how two results differ in how they were measured; none means that they may be compared.

    Model, weights, seed and what was chosen on validation clips are the subject of a comparison, not a difference.

    Args:
        first: of a result.
        second: of the other one.
        ignored: further fields that may differ.
    """
    told = Protocol.model_fields.keys() - _SUBJECT - {"settings", *_MACHINE, *ignored}
    said = [
        _sentence(name, getattr(first, name), getattr(second, name))
        for name in Protocol.model_fields
        if name in told and getattr(first, name) != getattr(second, name)
    ]
    for name in dict.fromkeys((*first.settings, *second.settings)):
        one, other = first.settings.get(name), second.settings.get(name)
        if one != other:
            said.append(_sentence(name, one, other))
    return said


def compare_machines(first: Protocol, second: Protocol) -> list[str]:
    """Return in sentences how the machines differ on which two results were measured; none: the same numbers are promised."""
    return [
        _sentence(name, getattr(first, name), getattr(second, name))
        for name in _MACHINE
        if getattr(first, name) != getattr(second, name)
    ]


def compare_records(first: Iterable[Record], second: Iterable[Record]) -> Comparison:
    """Compare two runs, number by number and protocol by protocol.

    A task that only one of them measured is in the numbers, with None for the other, and in the warnings.

    Raises:
        EvaluationError: a run has a number twice.
    """
    first, second = list(first), list(second)
    one, other = flat_metrics(first), flat_metrics(second)
    numbers = tuple(Difference(name, one.get(name), other.get(name)) for name in dict.fromkeys((*one, *other)))
    protocols = [{record.task: record.protocol for record in run if record.protocol is not None} for run in (first, second)]
    found: dict[str, list[str]] = {}
    machines: dict[str, list[str]] = {}
    for task in dict.fromkeys((*protocols[0], *protocols[1])):
        ours, theirs = protocols[0].get(task), protocols[1].get(task)
        if ours is None or theirs is None:
            sentences = [f"only the {'second' if ours is None else 'first'} run measured it"]
        else:
            sentences = compare_protocols(ours, theirs)
            for sentence in compare_machines(ours, theirs):
                machines.setdefault(sentence, []).append(task)
        for sentence in sentences:
            found.setdefault(sentence, []).append(task)
    return Comparison(
        numbers, *(tuple(f"{said} ({_tasks(tasks)})" for said, tasks in each.items()) for each in (found, machines))
    )


def _sentence(name: str, one: object, other: object) -> str:
    if name == "failures":
        counts = [len(value) if isinstance(value, tuple) else 0 for value in (one, other)]
        said = f"{counts[0]} clips failed in the first run, {counts[1]} in the second"
        return said if counts[0] != counts[1] else f"{said}, not the same ones"
    if name == "annotation_sha256":
        return f"the annotation rows differ: SHA-256 {str(one)[:12]} in the first run, {str(other)[:12]} in the second"
    label = name.removesuffix("_sha256").replace("_", " ")
    return f"{label} is {_shown(one)} in the first run, {_shown(other)} in the second"


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool):
        return _ANSWERS[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tasks(tasks: list[str]) -> str:
    more = f" and {len(tasks) - _SHOWN} more" if len(tasks) > _SHOWN else ""
    return ", ".join(tasks[:_SHOWN]) + more
