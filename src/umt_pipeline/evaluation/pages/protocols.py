"""The protocol of a number as a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umt_pipeline.evaluation.pages.tables import Cell, cell, number

_TIMES = "\N{MULTIPLICATION SIGN}"
# Told in one line of their own, or not worth one.
_TOLD = frozenset(("frames", "views", "resolution", "settings", "chosen", "failures", "other_queries"))
_NAMES = {
    "annotation_sha256": "annotations",
    "checkpoint_sha256": "checkpoint",
    "k": "re-ranked or ranked (k)",
    "score_type": "scores",
}


@dataclass(frozen=True)
class ProtocolCard:
    """A record for people: what was measured, (name, value) pairs, how as (name, cell) pairs, and its note."""

    task: str
    values: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, Cell], ...]
    note: str


def protocol_card(record: Mapping[str, Any]) -> ProtocolCard:
    """Return the card of a record, as :class:`umt_pipeline.evaluation.records.Record` dumps it."""
    values = tuple((name.replace("_", " ") or "value", f"{value:.2f}") for name, value in record["values"].items())
    facts = _facts(record["protocol"]) if record.get("protocol") else ()
    cost = record.get("cost")
    if cost:
        facts = (*facts, ("cost", Cell(f"{number(cost['pairs'])} pairs in {number(cost['seconds'])} s")))
    return ProtocolCard(str(record["task"]), values, facts, str(record.get("note") or ""))


def _facts(protocol: Mapping[str, Any]) -> tuple[tuple[str, Cell], ...]:
    seen = "no clip is looked at"
    if protocol["frames"]:
        seen = f"{protocol['frames']} {_TIMES} {protocol['views']} at {protocol['resolution']} pixels"
    failures = list(protocol["failures"])
    failed = Cell(f"{len(failures):,}, counted as wrong", title=", ".join(failures)) if failures else Cell("none")
    told = [("frames " + _TIMES + " views", Cell(seen)), ("unreadable clips", failed)]
    plain = {name: value for name, value in protocol.items() if name not in _TOLD and value is not None}
    if protocol["checkpoint_sha256"] is None:
        told.append(("checkpoint", Cell("none")))
    if protocol["other_queries"]:
        told.append(("reads other queries", Cell("yes")))
    told += [(_NAMES.get(name, name.replace("_", " ")), cell(value)) for name, value in plain.items()]
    for group in ("settings", "chosen"):
        told += [(name.replace("_", " "), cell(value)) for name, value in protocol[group].items() if value is not None]
    return tuple(told)
