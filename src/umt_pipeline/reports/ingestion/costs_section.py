"""The part of the ingestion's page about what its rules cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umt_pipeline.reports.ingestion.content import Choice, Content, Option, ShareLimit, Threshold
from umt_pipeline.reports.page import Block, Cell, Section, Table
from umt_pipeline.reports.tables import NOTHING, listed, number, percent, table

_ABOUT = {
    "min_frames": "frames that a video must have",
    "min_side": "pixels that the shorter side must have",
    "on_duplicate_content": "files of one split with the same bytes",
    "on_content_in_two_splits": "files of two splits with the same bytes",
    "on_orphan": "rows about files that are in no table",
}


def costs_section(content: Content) -> Section:
    """Return what each rule refuses now, and what other values of it would."""
    tables = [name for name, counts in content.tables.items() if name != "videos" and counts["accepted"]]
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
        counts = (loss.videos, loss.images, number(loss.hours), *(loss.rows[name] for name in tables))
        rows.append((f"{value} (now)" if value == found.now else str(value), *counts, *left))
    head = (found.rule, "Videos fewer", "Images fewer", "Hours fewer", *(f"{name.capitalize()} fewer" for name in tables))
    note = f"The rule refuses {_files(found.refused.files)}{_with(found.refused.rows)} now."
    title = f"ingestion.rules.{found.rule}: {_ABOUT[found.rule]}"
    return table(title, (*head, *(f"Left in {split}" for split in splits)), rows, note)


def _choices(found: Sequence[Choice], tables: Sequence[str]) -> Table | None:
    rows = []
    for choice in found:
        for option in choice.options:
            value = f"{option.value} (now)" if option.value == choice.now else option.value
            rows.append((f"ingestion.{choice.rule}: {_ABOUT[choice.rule]}", value, _outcome(option, tables)))
    return table("What is done about repeated files and stray rows", ("Rule", "Value", "Outcome"), rows, words=True)


def _outcome(option: Option, tables: Sequence[str]) -> str:
    if option.files is None:
        return "the run ends"
    changes = {"files": option.files, **{name: option.rows[name] for name in tables}}
    told = [f"{abs(count):,} {name} {'fewer' if count > 0 else 'more'}" for name, count in changes.items() if count]
    return listed(told) if told else NOTHING


def _share(found: ShareLimit) -> Table | None:
    rows = []
    for limit, ends in found.limits:
        now = " (now)" if limit == found.now else ""
        rows.append((f"{percent(100 * limit)}{now}", Cell("the run ends", style="bad") if ends else "the run goes on"))
    note = f"{_files(found.files)} of {found.listed:,} cannot be used: {percent(100 * found.share)}."
    return table("ingestion.max_rejected_share: files that may be unusable", ("Limit", "Outcome"), rows, note, words=True)


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def _with(rows: Mapping[str, int]) -> str:
    told = [f"{count:,} {name}" for name, count in rows.items() if count]
    return f" and with them {listed(told)}" if told else ""
