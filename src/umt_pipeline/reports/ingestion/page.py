"""The page of an ingestion: what came in, what was refused and why, what the corpus is like, what its rules cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from umt_pipeline.reports.tables import NOTHING, listed, number, percent, table

_LABEL_BARS = 10
_NOT_OPENED = "not opened: its reason says that it cannot be decoded"


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
            Section("Warnings", [Text(visible(text, 2000)) for text in content.warnings], missing="There is no warning."),
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
            Section("Distributions", _distributions(content.distributions), "Of what was accepted."),
            Section("Formats", [_kinds(content)], "Of accepted files."),
            Section(
                "Labels",
                [block for task in content.labels for block in _labels(task, content.rules.splits)],
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
    captions = content.tables["captions"]
    sentences = [
        f"Of {files['rows_in']:,} files {files['accepted']:,} were accepted: {content.media['video']:,} videos of "
        f"{number(content.hours)} hours and {content.media['image']:,} images, with {captions['accepted']:,} captions.",
    ]
    if files["rejected"]:
        reasons = sorted(files["reasons"].items(), key=lambda item: (-item[1], item[0]))
        told = [f"{reason.replace('_', ' ')} {count:,}" for reason, count in reasons[:3]]
        others = sum(count for _, count in reasons[3:])
        told += [f"others {others:,}"] if others else []
        sentences.append(f"{files['rejected']:,} were rejected: {listed(told)}.")
    if content.duplicates.across_splits:
        sentences.append(f"The same bytes were found in two splits {content.duplicates.across_splits:,} times.")
    if content.near_duplicates and content.near_duplicates.across_splits:
        sentences.append(f"{content.near_duplicates.across_splits:,} groups of files that look the same reach over two splits.")
    empty = [split for split, counts in content.splits.items() if not counts["videos"] and not counts["images"]]
    if empty:
        sentences.append(f"No file is in {'split' if len(empty) == 1 else 'splits'} {listed(empty)}.")
    return sentences


def _tiles(content: Content) -> list[Tile]:
    files, captions = content.tables["videos"], content.tables["captions"]
    rejected = sum(counts["rejected"] for counts in content.tables.values())
    near = content.near_duplicates
    return [
        Tile("Files accepted", f"{files['accepted']:,}", [f"of {files['rows_in']:,}"]),
        Tile("Hours of video", number(content.hours), [f"{content.media['image']:,} images"]),
        Tile("Captions", f"{captions['accepted']:,}", [f"of {captions['rows_in']:,}"]),
        Tile("Rows rejected", f"{rejected:,}", [f"{files['rejected']:,} of them files"]),
        _groups_tile("Files with a double", content.duplicates),
        _groups_tile("Files that look alike", near) if near else Tile("Files that look alike", NOTHING, ["not compared"]),
    ]


def _groups_tile(label: str, found: Groups) -> Tile:
    return Tile(label, f"{found.files:,}", [f"{found.across_splits:,} of {found.groups:,} groups in several splits"])


def _rows_section(content: Content) -> Section:
    bars = []
    for name, counts in content.tables.items():
        if counts["rows_in"]:
            shares = {"accepted": counts["accepted"], **counts["reasons"]}
            bars.append((f"{name}: {counts['rows_in']:,} rows", _bars(shares, counts["rows_in"], set(counts["reasons"]))))
    unused = [
        (name, visible(", ".join(counts["ignored_columns"])))
        for name, counts in content.tables.items()
        if counts.get("ignored_columns")
    ]
    tables = {"tables": content.tables, "corpora": content.corpora}
    blocks: list[Block | None] = [
        count_table(tables),
        Bars(bars),
        corpora_table(tables),
        _split_table(content.splits),
        table("Columns that are not used", ("Table", "Columns"), unused, words=True),
    ]
    return Section("Rows", blocks, "Each row of a table was either accepted or rejected.")


def _split_table(splits: Mapping[str, Mapping[str, float]]) -> Table | None:
    columns = ("videos", "images", "captions", "hours")
    rows = [(name, *(counts[column] for column in columns)) for name, counts in splits.items()]
    return table("Accepted files of each split", ("Split", "Videos", "Images", "Captions", "Hours of video"), rows)


def _bars(counts: Mapping[str, int], of: int, reference: set[str] | None = None) -> list[Bar]:
    """Return a bar for each count, as long as its share and with both in its text."""
    made = []
    for label, count in counts.items():
        share = 100 * count / of
        made.append(Bar(visible(label, 60), share, label in (reference or set()), f"{count:,} · {percent(share)}"))
    return made


# --- rejects ----------------------------------------------------------------------------------------------------------
def _reason(group: ReasonGroup) -> list[Block]:
    rows = "row" if group.rows == 1 else "rows"
    shown = f", {len(group.examples)} shown" if len(group.examples) < group.rows else ""
    blocks: list[Block | None] = [Text(visible(group.remedy, 600)) if group.remedy else None]
    if group.table == "videos":
        shots = [
            Shot(
                film=row.video if row.shown else "",
                name=visible(row.video),
                note=f"row {row.row}: {row.detail}",
                unseen="" if row.shown else _NOT_OPENED,
            )
            for row in group.examples
        ]
        blocks.append(Gallery(shots))
    else:
        cells = [(visible(row.video), row.row, row.detail) for row in group.examples]
        blocks.append(table(f"Rows of {group.table}: {group.reason}", ("File", "Row", "Detail"), cells, words=True))
    return subsection(f"{group.table} · {group.reason.replace('_', ' ')} · {group.rows:,} {rows}{shown}", blocks)


# --- what was accepted ------------------------------------------------------------------------------------------------
def _accepted(files: Sequence[AcceptedFile]) -> list[Block]:
    parts: dict[tuple[str, str], list[Shot]] = {}
    for file in files:
        length = f" · {number(file.duration_s)} s · {file.num_frames:,} frames" if file.duration_s else ""
        note = f"{file.width} {TIMES} {file.height}{length} · {file.codec}"
        parts.setdefault((file.corpus, file.split), []).append(Shot(file.path, visible(file.path), file.caption, note))
    corpora = {corpus for corpus, _ in parts}
    blocks: list[Block] = []
    for (corpus, split), shots in parts.items():
        blocks += [Heading(f"{visible(corpus, 60)} · {split}" if len(corpora) > 1 else split), Gallery(shots)]
    return blocks


def _distributions(found: Sequence[Distribution]) -> list[Block | None]:
    if not found:
        return []
    panels = [counts_panel(f"corpus-{one.name}", one.title, one.edges, one.counts, one.log) for one in found]
    head = ("Values", "Lowest", "5 %", "Median", "Mean", "95 %", "Highest")
    rows = [(one.title, *_numbers(one.all)) for one in found]
    by_split = [(f"{one.title}, {split}", *_numbers(spread)) for one in found for split, spread in one.splits.items()]
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
        counts = dict(kind.files)
        if kind.other_values:
            counts[f"{kind.other_values:,} others"] = kind.other_files
        groups.append((kind.title, _bars(counts, total)))
    return Bars(groups) if groups else None


def _labels(task: LabelTask, splits: Sequence[str]) -> list[Block]:
    totals = {label: sum(splits.values()) for label, splits in task.files.items()}
    bars = dict(list(totals.items())[:_LABEL_BARS])
    left = task.labels - len(bars)
    if left:
        bars[f"{left:,} other labels"] = task.rows - sum(bars.values())
    rows = []
    for label, files in task.files.items():
        cells = [Cell(f"{files[split]:,}", style="bad" if split == splits[0] and not files[split] else "") for split in splits]
        rows.append((label, totals[label], *cells))
    if task.other_labels:
        others = task.other_files
        rows.append((f"{task.other_labels:,} other labels", sum(others.values()), *(others[split] for split in splits)))
    by_split = table(f"Files by label of {task.task}", ("Label", "All", *splits), rows)
    untrained = f"{task.untrained:,} of the labels do not occur in split {splits[0]}." if task.untrained else ""
    title = f"{task.task}: {task.labels:,} labels of {task.rows:,} files"
    return [
        Bars([(title, _bars(bars, task.rows))]),
        *([Text(untrained)] if untrained else []),
        Fold(f"{task.task}, label by label", [by_split]),
    ]


# --- duplicates -------------------------------------------------------------------------------------------------------
def _duplicates(content: Content) -> list[Block]:
    same = subsection("The same bytes", _groups(content.duplicates), "No two files have the same bytes.")
    near = content.near_duplicates
    missing = "Nobody compared them." if near is None else "No two files look the same."
    return [*same, *subsection("The same to look at", [] if near is None else _groups(near), missing)]


def _groups(found: Groups) -> list[Block]:
    if not found.groups:
        return []
    more = f" {len(found.shown)} groups are shown." if len(found.shown) < found.groups else ""
    sentence = (
        f"{found.files:,} files in {found.groups:,} groups, {found.across_splits:,} of them in more than one split."
        f"{more} A model that is tested on what it was trained on looks better than it is."
    )
    blocks: list[Block] = [Text(sentence)]
    for group in found.shown:
        blocks += [Text(_told(group)), Gallery([Shot(path, visible(path)) for path in group.files])]
    return blocks


def _told(group: Group) -> str:
    where = "in splits" if len(group.splits) > 1 else "in split"
    apart = "" if group.distance is None else f", {number(group.distance)} bits apart"
    shown = f", {len(group.files)} of them shown" if len(group.files) < group.files_in_all else ""
    return f"{group.files_in_all:,} files {where} {listed(list(group.splits))}{apart}{shown}"
