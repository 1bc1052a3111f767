"""The protocol of a number as a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from umt_pipeline.reports.tables import Cell, cell, number

_TIMES = "\N{MULTIPLICATION SIGN}"
# In this order, as far as they say something; whatever else a protocol has follows.
_NAMES = {
    "split": "split",
    "clips": "clips",
    "queries": "queries",
    "model": "model",
    "checkpoint_sha256": "checkpoint",
    "annotation_sha256": "annotations",
    "k": "re-ranked or ranked (k)",
    "score_type": "scores",
}
_TOLD_OTHERWISE = frozenset(("frames", "views", "resolution", "settings", "chosen", "failures", "other_queries"))


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
    names = [*_NAMES, *(name for name in protocol if name not in _NAMES and name not in _TOLD_OTHERWISE)]
    told = [("frames " + _TIMES + " views", Cell(seen))]
    for name in names:
        if protocol.get(name) is not None:
            told.append((_NAMES.get(name, name.replace("_", " ")), cell(protocol[name])))
        elif name == "checkpoint_sha256":
            told.append(("checkpoint", Cell("none")))
    told.append(("unreadable clips", failed))
    if protocol["other_queries"]:
        told.append(("reads other queries", Cell("yes")))
    for group, prefix in (("settings", "setting"), ("chosen", "chosen")):
        for name, value in protocol[group].items():
            if value is not None:
                told.append((f"{prefix}: {name.replace('_', ' ')}", cell(value)))
    return tuple(told)
