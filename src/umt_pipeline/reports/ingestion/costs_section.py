"""The part of the ingestion's page about what its rules cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from umt_pipeline.reports.ingestion.content import Choice, Content, Option, ShareLimit, Threshold
from umt_pipeline.reports.page import Block, Cell, Section, Table
from umt_pipeline.reports.tables import NOTHING, counted, length, listed, percent, table

_VALUES = ("keep", "report", "reject", "error")
_ONE = {"files": "file", "captions": "caption", "labels": "label", "questions": "question", "boxes": "box"}
_ABOUT = {
    "min_frames": "frames that a video must have",
    "min_side": "pixels that the shorter side must have",
    "on_duplicate_content": "files of one split with the same bytes",
    "on_content_in_two_splits": "files of two splits with the same bytes",
    "on_near_duplicates_across_splits": "files of two splits that look the same",
    "on_bad_row": "rows that are wrong, or about a file that is in no table",
}


def costs_section(content: Content) -> Section:
    """Return what each rule refuses now, and what other values of it would."""
    tables = [name for name in content.table_names() if name != "videos" and content.tables[name]["accepted"]]
    blocks: list[Block | None] = [_threshold(one, tables, content.rules.splits) for one in content.costs.thresholds]
    return Section(
        "What each rule would cost",
        [*blocks, _choices(content.costs.choices, tables), _share(content.costs.rejected_share)],
        "Counted from what was accepted; nothing is decoded again. A rule that asks less would let in "
        "at most what it refuses now.",
    )


def _threshold(found: Threshold, tables: Sequence[str], splits: Sequence[str]) -> Table | None:
    rows = []
    for value, loss in found.steps:
        left = [Cell(f"{files:,}", style="" if files else "bad") for files in (loss.left[split] for split in splits)]
        counts = (loss.videos, loss.images, length(loss.hours), *(loss.rows[name] for name in tables))
        rows.append((f"{value} (now)" if value == found.now else str(value), *counts, *left))
    fewer = ("Videos", "Images", "Length", *(name.capitalize() for name in tables))
    note = f"The rule refuses {counted(found.refused.files, 'file')}{_with(found.refused.rows)} now."
    made = table(f"ingestion.rules.{found.rule}: {_ABOUT[found.rule]}", (found.rule, *fewer, *splits), rows, note)
    return replace(made, groups=(("Fewer", len(fewer)), ("Files left in split", len(splits)))) if made else None


def _choices(found: Sequence[Choice], tables: Sequence[str]) -> Table | None:
    rows = []
    for choice in found:
        outcomes = {option.value: _outcome(option, tables) for option in choice.options}
        outcomes[choice.now] = "as now"
        rows.append((f"{choice.rule}: {_ABOUT[choice.rule]}", *(outcomes.get(value, NOTHING) for value in _VALUES)))
    return table("ingestion.on_…: what is done about it", ("Rule", *_VALUES), rows, words=True)


def _outcome(option: Option, tables: Sequence[str]) -> str:
    if option.files is None:
        return "the run ends"
    changes = {"files": option.files, **{name: option.rows[name] for name in tables}}
    told = [
        f"{abs(count):,} {_ONE[name] if abs(count) == 1 else name} {'fewer' if count > 0 else 'more'}"
        for name, count in changes.items()
        if count
    ]
    return listed(told) if told else "the same as now"


def _share(found: ShareLimit) -> Table | None:
    rows = []
    for limit, ends in found.limits:
        now = " (now)" if limit == found.now else ""
        rows.append((f"{percent(100 * limit)}{now}", Cell("the run ends", style="bad") if ends else "the run goes on"))
    note = f"{counted(found.files, 'file')} of {found.listed:,} cannot be used: {percent(100 * found.share)}."
    return table("ingestion.max_rejected_share: files that may be unusable", ("Limit", "Outcome"), rows, note, words=True)


def _with(rows: Mapping[str, int]) -> str:
    told = [f"{count:,} {_ONE[name] if count == 1 else name}" for name, count in rows.items() if count]
    return f" and with that {listed(told)}" if told else ""
