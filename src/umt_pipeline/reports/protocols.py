"""The protocol of each number: a few as cards, many as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from umt_pipeline.reports.page import Card, Cards, Cell, Fold, Section, Table
from umt_pipeline.reports.tables import NOTHING, cell, table

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
_AS_CARDS = 12  # so many records at most


def protocol_section(records: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section with the protocol of each record, as :class:`umt_pipeline.evaluation.records.Record` dumps them."""
    cards = [_card(record) for record in records]
    fold = Fold(f"Protocol of each number ({len(cards)} records)", [_one_table(cards)])
    return Section(
        "Protocol",
        [Cards(cards) if len(cards) <= _AS_CARDS else fold] if cards else [],
        "How each number was measured: split, annotations, clips, frames and views, model file. Point at a shortened hash to "
        "see all of it.",
        "There are no records: nothing was measured.",
    )


def _one_table(cards: Sequence[Card]) -> Table | None:
    """Return a row for each card; what has a prefix before a colon in its name becomes one cell with the others of it."""
    rows = []
    for card in cards:
        row = {"values": Cell(" · ".join(f"{name} {value}".removeprefix("value ") for name, value in card.values))}
        for name, fact in card.facts:
            group, _, rest = name.partition(": ")
            before = f"{row[group].text} · " if group in row else ""
            row[group] = replace(fact, text=f"{before}{rest} {fact.text}".strip())
        rows.append(row | ({"note": Cell(card.note)} if card.note else {}))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    made = [(card.title, *(row.get(name, NOTHING) for name in columns)) for card, row in zip(cards, rows, strict=True)]
    return table("Protocol of each number", ("task", *columns), made, words=True)


def _card(record: Mapping[str, Any]) -> Card:
    values = [(name.replace("_", " ") or "value", f"{value:.2f}") for name, value in record["values"].items()]
    facts = _facts(record["protocol"]) if record.get("protocol") else []
    return Card(str(record["task"]), values, facts, str(record.get("note") or ""))


def _facts(protocol: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    seen = "no clip is read"
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
        told += [
            (f"{prefix}: {name.replace('_', ' ')}", cell(value)) for name, value in protocol[group].items() if value is not None
        ]
    return told
