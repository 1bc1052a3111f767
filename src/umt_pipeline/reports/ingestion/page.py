"""The page of an ingestion: what came in, what was refused and why, what the corpus is like, what its rules cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from umt_pipeline.reports.figures import counts_panel
from umt_pipeline.reports.ingestion.content import (
    AcceptedFile,
    Content,
    Distribution,
    Group,
    Groups,
    LabelTask,
    ReasonGroup,
    Spread,
)
from umt_pipeline.reports.ingestion.costs_section import costs_section
from umt_pipeline.reports.ingestion.measure import TIMES, visible
from umt_pipeline.reports.ingestion.rows import corpora_table, count_table
from umt_pipeline.reports.page import (
    Bar,
    Bars,
    Block,
    Cell,
    Fold,
    FrameLoader,
    Gallery,
    Heading,
    Page,
    Panels,
    Section,
    Shot,
    Table,
    Text,
    Tile,
    subsection,
)
from umt_pipeline.reports.tables import counted, length, listed, number, percent, table

_LABEL_BARS = 10


def ingestion_page(content: Content, frames: FrameLoader | None) -> Page:
    """Return the page.

    Args:
        content: all that it says.
        frames: reads frames of the files that ``content`` names, by path; None: it shows no pictures.
    """
    return Page(
        title=f"Ingestion of {visible(content.dataset_id, 80)}: report",
        summary=_summary(content),
        tiles=_tiles(content),
        sections=[
            *([Section("Warnings", [Text(visible(text, 2000)) for text in content.warnings])] if content.warnings else []),
            _rows_section(content),
            Section(
                "Rejects",
                [block for group in content.reasons for block in _reason(group)],
                "Every row that was not accepted has one reason, its first. All of them are in the table of rejects; here are "
                "some of each. Files are opened for a picture only where a rule refused them.",
                "Nothing was rejected.",
            ),
            Section(
                "Accepted files",
                _accepted(content.accepted),
                "Some of each corpus and split, evenly spread over the table; frames from the beginning of each.",
                "No file was accepted.",
            ),
            Section("Distributions", _distributions(content.distributions, content.rules.splits), "Of what was accepted."),
            Section("Formats", [_kinds(content)], "Of accepted files."),
            Section(
                "Labels",
                _labels(content.labels, content.rules.splits),
                "How often each label occurs, as a share of its task.",
                "There are no labels.",
            ),
            Section("Duplicates and leakage", _duplicates(content)),
            costs_section(content),
        ],
        records=None,
        frames=frames,
    )


# --- the head of the page ---------------------------------------------------------------------------------------------
def _summary(content: Content) -> list[str]:
    files = content.tables["videos"]
    videos, images = (counted(content.media[media], media) for media in ("video", "image"))
    captions = counted(content.tables["captions"]["accepted"], "caption")
    sentences = [
        f"Of {counted(files['rows_in'], 'file')} {files['accepted']:,} accepted: {videos} of {length(content.hours)} and "
        f"{images}, with {captions}."
    ]
    if files["rejected"]:
        reasons = sorted(files["reasons"].items(), key=lambda item: (-item[1], item[0]))
        told = [f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons[:3]]
        others = sum(count for _, count in reasons[3:])
        told += [f"others {others:,}"] if others else []
        sentences.append(f"{files['rejected']:,} rejected: {listed(told)}.")
    if across := content.duplicates.across_splits:
        sentences.append(f"{counted(across, 'group')} of files with the same bytes in more than one split.")
    if across := content.near_duplicates.across_splits:
        sentences.append(f"{counted(across, 'group')} of files that look the same in more than one split.")
    empty = [split for split, counts in content.splits.items() if not counts["videos"] and not counts["images"]]
    if empty:
        sentences.append(f"No file is in {'split' if len(empty) == 1 else 'splits'} {listed(empty)}.")
    return sentences


def _tiles(content: Content) -> list[Tile]:
    files, captions = content.tables["videos"], content.tables["captions"]
    rejected = sum(counts["rejected"] for counts in content.tables.values())
    return [
        Tile("Files accepted", f"{files['accepted']:,}", [f"of {files['rows_in']:,}"]),
        Tile("Length of all videos", length(content.hours), [counted(content.media["image"], "image")]),
        Tile("Captions", f"{captions['accepted']:,}", [f"of {captions['rows_in']:,}"]),
        Tile("Rows rejected", f"{rejected:,}", [f"{files['rejected']:,} of them files"]),
        Tile(
            "Files with a double",
            f"{content.duplicates.files:,}",
            [f"look alike: {content.near_duplicates.files:,}"],
        ),
    ]


def _rows_section(content: Content) -> Section:
    in_order = {name: content.tables[name] for name in content.table_names()}
    bars = []
    for name, counts in in_order.items():
        if counts["rows_in"]:
            reasons = sorted(counts["reasons"].items(), key=lambda item: (-item[1], item[0]))
            shares = [("accepted", counts["accepted"]), *((reason.replace("_", " "), count) for reason, count in reasons)]
            bars.append((f"{name}: {counted(counts['rows_in'], 'row')}", _bars(shares, counts["rows_in"], 1)))
    unused = [
        (name, visible(", ".join(counts["ignored_columns"]))) for name, counts in in_order.items() if counts["ignored_columns"]
    ]
    cleaned = [
        (name, what.replace("_", " "), texts)
        for name, counts in in_order.items()
        for what, texts in counts.get("cleaned", {}).items()  # the table of videos has no texts to clean
        if texts
    ]
    tables = {"tables": in_order, "corpora": content.corpora}
    blocks: list[Block | None] = [
        count_table(tables),
        Bars(bars),
        corpora_table(tables),
        _split_table(content.splits, content.rules.splits),
        table("Columns that are not used", ("Table", "Columns"), unused, words=True),
        table("Texts that were cleaned", ("Table", "Cleaned of", "Texts"), cleaned, words=True),
    ]
    return Section("Rows", blocks, "Each row of a table was either accepted or rejected.")


def _split_table(counts: Mapping[str, Mapping[str, float]], splits: Sequence[str]) -> Table | None:
    columns = ("videos", "images", "captions", "hours")
    rows = [(split, *(counts[split][column] for column in columns)) for split in splits]
    return table("Accepted files of each split", ("Split", "Videos", "Images", "Captions", "Hours of video"), rows)


def _bars(counts: Sequence[tuple[str, int]], of: int, main: int | None = None) -> list[Bar]:
    """Return a bar for each count, as long as its share and with both in its text; those from ``main`` on are pale."""
    made = []
    for index, (label, count) in enumerate(counts):
        share = 100 * count / of
        made.append(Bar(visible(label, 60), share, main is not None and index >= main, f"{count:,} · {percent(share)}"))
    return made


# --- rejects ----------------------------------------------------------------------------------------------------------
def _reason(group: ReasonGroup) -> list[Block]:
    shown = f", {len(group.examples)} shown" if len(group.examples) < group.rows else ""
    blocks: list[Block | None] = [Text(f"{group.meaning[:1].upper()}{group.meaning[1:]}. {group.remedy}")]
    if group.table == "videos":
        shots = [
            Shot(
                film=row.video if row.shown else "",
                name=visible(row.video),
                note=f"row {row.row}: {row.detail}" if row.shown else f"row {row.row}",
                unseen="" if row.shown else row.detail,
            )
            for row in group.examples
        ]
        blocks.append(Gallery(shots))
    else:
        cells = [(visible(row.video), row.row, row.detail) for row in group.examples]
        blocks.append(table(f"Rows of {group.table}: {group.reason}", ("File", "Row", "Detail"), cells, words=True))
    return subsection(f"{group.table} · {group.reason.replace('_', ' ')} · {counted(group.rows, 'row')}{shown}", blocks)


# --- what was accepted ------------------------------------------------------------------------------------------------
def _accepted(files: Sequence[AcceptedFile]) -> list[Block]:
    parts: dict[tuple[str, str], list[Shot]] = {}
    for file in files:
        time = f" · {number(file.duration_s)} s · {file.num_frames:,} frames" if file.duration_s else ""
        note = f"{file.width} {TIMES} {file.height}{time} · {file.codec}"
        parts.setdefault((file.corpus, file.split), []).append(Shot(file.path, visible(file.path), file.caption, note))
    corpora = {corpus for corpus, _ in parts}
    blocks: list[Block] = []
    for (corpus, split), shots in parts.items():
        blocks += [Heading(f"{visible(corpus, 60)} · {split}" if len(corpora) > 1 else split), Gallery(shots)]
    return blocks


def _distributions(found: Sequence[Distribution], splits: Sequence[str]) -> list[Block | None]:
    if not found:
        return []
    panels = [counts_panel(f"corpus-{one.name}", one.title, one.edges, one.counts, one.log) for one in found]
    head = ("Values", "Lowest", "5 %", "Median", "Mean", "95 %", "Highest")
    rows = [(one.title, *_numbers(one.all)) for one in found]
    by_split = [
        (f"{one.title}, {split}", *_numbers(one.splits[split])) for one in found for split in splits if split in one.splits
    ]
    return [
        Panels(panels),
        table("In numbers", ("", *head), rows),
        Fold("The same of each split", [table("Of each split", ("", *head), by_split)]),
    ]


def _numbers(spread: Spread) -> tuple[float, ...]:
    return spread.count, spread.minimum, spread.p5, spread.median, spread.mean, spread.p95, spread.maximum


def _kinds(content: Content) -> Bars | None:
    total = content.tables["videos"]["accepted"]
    groups = []
    for kind in content.kinds:
        others = [(f"{kind.other_values:,} others", kind.other_files)] if kind.other_values else []
        groups.append((kind.title, _bars([*kind.files, *others], total)))
    return Bars(groups) if groups else None


def _labels(tasks: Sequence[LabelTask], splits: Sequence[str]) -> list[Block]:
    if not tasks:
        return []
    untrained = [
        Text(f"{task.task}: {task.untrained:,} of {counted(task.labels, 'label')} never in split {splits[0]}.")
        for task in tasks
        if task.untrained
    ]
    folds = [Fold(f"{task.task}: files by label and split", [_label_table(task, splits)]) for task in tasks]
    return [Bars([_label_bars(task) for task in tasks]), *untrained, *folds]


def _label_bars(task: LabelTask) -> tuple[str, list[Bar]]:
    bars = [(label, sum(files.values())) for label, files in task.files[:_LABEL_BARS]]
    if left := task.labels - len(bars):
        bars.append((counted(left, "other label"), task.rows - sum(count for _, count in bars)))
    return f"{task.task}: {counted(task.labels, 'label')} of {counted(task.rows, 'file')}", _bars(bars, task.rows)


def _label_table(task: LabelTask, splits: Sequence[str]) -> Table | None:
    rows: list[tuple[Any, ...]] = []
    for label, files in task.files:
        cells = [Cell(f"{files[split]:,}", style="bad" if split == splits[0] and not files[split] else "") for split in splits]
        rows.append((label, sum(files.values()), *cells))
    if task.other_labels:
        others = task.other_files
        rows.append((counted(task.other_labels, "other label"), sum(others.values()), *(others[split] for split in splits)))
    return table(f"Files by label of {task.task}", ("Label", "All", *splits), rows)


# --- duplicates -------------------------------------------------------------------------------------------------------
def _duplicates(content: Content) -> list[Block]:
    same = subsection("The same bytes", _groups(content.duplicates), "No two files have the same bytes.")
    near = content.near_duplicates
    how = (
        f"Perceptual hashes of {counted(near.compared, 'file')} were compared; two files look the same if they differ in at "
        f"most {near.bits} of 192 bits. {counted(near.not_compared, 'file')} could not be compared: flat pictures, or not "
        "decoded."
    )
    groups = _groups(near) or [Text("No two files look the same.", missing=True)]
    return [*same, *subsection("The same to look at", [Text(how), *groups])]


def _groups(found: Groups) -> list[Block]:
    if not found.groups:
        return []
    more = f" {counted(len(found.shown), 'group')} shown." if len(found.shown) < found.groups else ""
    sentence = (
        f"{counted(found.files, 'file')} in {counted(found.groups, 'group')}, {found.across_splits:,} of them in more than one "
        "split."
        f"{more} A model that is tested on what it was trained on looks better than it is."
    )
    blocks: list[Block] = [Text(sentence)]
    for group in found.shown:
        shots = [Shot(path, visible(path), note=f"in split {split}" if split else "rejected") for path, split in group.files]
        blocks += [Text(_told(group)), Gallery(shots)]
    return blocks


def _told(group: Group) -> str:
    where = "listed in splits" if len(group.splits) > 1 else "listed in split"
    shown = f", {len(group.files)} of them shown" if len(group.files) < group.files_in_all else ""
    return f"{counted(group.files_in_all, 'file')} {where} {listed(list(group.splits))}{shown}"
