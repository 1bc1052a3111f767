"""From the tables of an ingestion to what its page says.

Shapes: F accepted files, R rows of a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.reports.ingestion.content import (
    AcceptedFile,
    Content,
    Distribution,
    Group,
    Groups,
    Kinds,
    LabelTask,
    LookAlikes,
    ReasonGroup,
    RejectedRow,
    RulesInForce,
    Spread,
)
from umt_pipeline.reports.ingestion.costs import leaks, rule_costs
from umt_pipeline.reports.ingestion.facts import Facts, KnownFile, count_rejects, find_files, read_facts
from umt_pipeline.schemas import RowReason
from umt_pipeline.tables.blocks import Blocks, Table, as_blocks
from umt_pipeline.video.media import Reason

# Reasons of a rule. Files with any other reason are never opened here: they have broken a decoder, or may.
RULE_REASONS = frozenset(
    {
        Reason.TOO_SHORT,
        Reason.TOO_SMALL,
        Reason.WRONG_MEDIA,
        RowReason.DUPLICATE_CONTENT,
        RowReason.CONTENT_IN_TWO_SPLITS,
        RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS,
    }
)
EXAMPLES_PER_REASON = 4
ACCEPTED_SHOWN = 24
GROUPS_SHOWN = 6
FILES_OF_A_GROUP = 4
KINDS_SHOWN = 8
LABELS_SHOWN = 30
_TEXT_SHOWN = 240  # characters of a caption or detail
_BINS = 24
TIMES = "\N{MULTIPLICATION SIGN}"
_LOG_FROM = 20  # largest value over smallest from which bins are logarithmic

_OF_FILMS = {"duration_s": "seconds per video", "num_frames": "frames per video", "fps": "frames per second"}
_SIDES = ("width", "height")
_OF_FILES: dict[str, tuple[str, Sequence[str], Callable[[pd.DataFrame], pd.Series]]] = {
    "shorter_side": ("pixels of the shorter side", _SIDES, lambda block: block[[*_SIDES]].min(axis=1)),
    "aspect": ("width over height", _SIDES, lambda block: block["width"] / block["height"]),
    "size_mib": ("MiB per file", ["size_bytes"], lambda block: block["size_bytes"] / 2**20),
}
_OF_CAPTIONS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "words": ("words per caption", lambda block: block["caption"].map(lambda caption: len(caption.split())).astype(np.int32)),
    "characters": ("characters per caption", lambda block: block["caption"].str.len()),
}
_KINDS = {
    "codec": "codec",
    "container": "container",
    "size": f"width {TIMES} height",
    "rotation": "rotation, degrees clockwise",
    "mirrored": "mirrored",
    "sample_aspect": "sample aspect ratio",
    "stream": "video stream read",
}


def measure(
    report: Mapping[str, Any],
    videos: Table,
    tables: Mapping[str, Table],
    rejects: Table,
    meanings: Mapping[str, str],
    rules: RulesInForce,
) -> Content:
    """Return what the page says.

    Args:
        report: the ingestion's report: counts by table, split and corpus, ``warnings``, ``duplicates``, ``near_duplicates``.
        videos: accepted files, as :class:`umt_pipeline.schemas.Videos` says.
        tables: accepted rows of the other tables by name; ``captions`` and ``labels`` among them.
        rejects: as :class:`umt_pipeline.schemas.Rejects` says.
        meanings: of the reasons in ``rejects``.
        rules: those in force.
    """
    videos, rejects = as_blocks(videos), as_blocks(rejects)
    about = {name: as_blocks(table) for name, table in tables.items()}
    near = report["near_duplicates"]
    facts = read_facts(videos, about, rules.splits)
    alike = [group["files"] for group in near["groups"]]
    known = find_files(videos, {path for group in [*alike, *_shown_groups(report["duplicates"]["groups"])] for path in group})
    rejected, listed = count_rejects(rejects), report["tables"]["videos"]["rows_in"]
    return Content(
        dataset_id=report["dataset_id"],
        rules=rules,
        tables=report["tables"],
        splits=report["splits"],
        corpora=report["corpora"],
        hours=report["hours"],
        media=report["media"],
        warnings=tuple(report["warnings"]),
        reasons=_reasons(rejects, rejected, meanings),
        distributions=_distributions(videos, facts, about["captions"], rules.splits),
        kinds=_kinds(videos),
        labels=_labels(about["labels"], facts, rules.splits),
        duplicates=_groups(report["duplicates"]["groups"], known),
        near_duplicates=LookAlikes(
            **dict(_groups(near["groups"], known)), **{name: near[name] for name in ("bits", "compared", "not_compared")}
        ),
        costs=rule_costs(facts, rejects, rejected, leaks(known, alike, rules.splits), listed, rules),
        accepted=_accepted(videos, about["captions"]),
    )


def visible(text: str, limit: int = _TEXT_SHOWN) -> str:
    """Return a text as a page can hold it: control characters and halves of characters replaced, too long ones cut."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _is_control(character) else character for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit].rstrip() + "…"


def _is_control(character: str) -> bool:
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


def _evenly(rows: int, count: int) -> np.ndarray:
    """Return so many numbers of rows, evenly spread: neither the first nor the best."""
    return np.unique(np.linspace(0, rows - 1, min(count, rows)).round().astype(int))


def _some_of_each(
    table: Blocks, columns: list[str], rows: Mapping[Any, int], each: int
) -> dict[Any, list[dict[Hashable, Any]]]:
    """Return rows of some groups, evenly spread over each.

    Args:
        table: the rows.
        columns: whose values make the groups.
        rows: of each group that is wanted.
        each: how many of each.
    """
    wanted = {group: _evenly(count, each) for group, count in rows.items()}
    seen = dict.fromkeys(rows, 0)
    found: dict[Any, list[dict[Hashable, Any]]] = {group: [] for group in rows}
    for block in table:
        for group, own in block.groupby(columns, sort=False):
            if group in wanted:
                here = wanted[group] - seen[group]
                found[group] += own.iloc[here[(here >= 0) & (here < len(own))]].to_dict("records")
                seen[group] += len(own)
    return found


# --- rejects ----------------------------------------------------------------------------------------------------------
def _reasons(rejects: Blocks, rejected: Mapping[tuple[str, str], int], meanings: Mapping[str, str]) -> tuple[ReasonGroup, ...]:
    groups = []
    for (table, reason), rows in _some_of_each(rejects, ["table", "reason"], rejected, EXAMPLES_PER_REASON).items():
        openable = table == "videos" and reason in RULE_REASONS
        groups.append(
            ReasonGroup(
                table=table,
                reason=reason,
                rows=rejected[table, reason],
                meaning=visible(meanings[reason]),
                remedy=visible(rows[0]["remedy"]),
                examples=tuple(_rejected_row(row, openable) for row in rows),
            )
        )
    return tuple(sorted(groups, key=lambda group: (group.table != "videos", group.table, -group.rows, group.reason)))


def _rejected_row(row: Mapping[Any, Any], openable: bool) -> RejectedRow:
    # A row may be refused before anybody looked where its path leads.
    path = PurePosixPath(row["video"])
    shown = openable and not path.is_absolute() and ".." not in path.parts
    name = row["video"] if shown else visible(row["video"])  # what is to be opened stays as it is
    return RejectedRow(video=name, row=row["row"], detail=visible(row["detail"]), shown=shown)


# --- distributions ----------------------------------------------------------------------------------------------------
def _distributions(videos: Blocks, facts: Facts, captions: Blocks, splits: Sequence[str]) -> tuple[Distribution, ...]:
    """Measure one after another, for the values of one column are in memory whole."""

    def made() -> Iterator[Distribution | None]:
        film_F, of_F = ~facts.still_F, facts.split_F
        for name, title in _OF_FILMS.items():
            yield distribution(name, title, _column(videos, [name], itemgetter(name))[film_F], of_F[film_F], splits)
        for name, (title, columns, value) in _OF_FILES.items():
            yield distribution(name, title, _column(videos, columns, value), of_F, splits)
        said_in_R = np.concatenate([facts.split_of(block) for block in captions.only("video_id")])
        for name, (title, value) in _OF_CAPTIONS.items():
            yield distribution(name, title, _column(captions, ["caption"], value, np.int32), said_in_R, splits)
        yield distribution("captions_per_file", "captions per file", facts.rows_of["captions"], of_F, splits)

    return tuple(one for one in made() if one is not None)


def _column(
    table: Blocks, columns: Sequence[str], value: Callable[[pd.DataFrame], pd.Series], kind: type = np.float64
) -> np.ndarray:
    return np.concatenate([value(block).to_numpy(kind) for block in table.only(*columns)])


def distribution(
    name: str, title: str, values_R: np.ndarray, split_R: np.ndarray, splits: Sequence[str]
) -> Distribution | None:
    """Return a histogram of values, None of no values.

    Args:
        name: what was measured.
        title: the same for people.
        values_R: finite numbers.
        split_R: the number of the split of each.
        splits: in the order to show them in.
    """
    if not len(values_R):
        return None
    values_R = values_R.astype(np.float64, copy=False)
    low, high = float(values_R.min()), float(values_R.max())
    log = low > 0 and high / low >= _LOG_FROM
    whole = bool((values_R == values_R.round()).all())
    if whole and high - low < _BINS:
        edges = np.arange(low, high + 2) - 0.5
    elif log:
        edges = np.geomspace(low, high, _BINS + 1)
        edges[[0, -1]] = low, high  # as rounding may leave an end out
    else:
        edges = np.histogram_bin_edges(values_R, _BINS)
    log = log and not (whole and high - low < _BINS)
    counts, _ = np.histogram(values_R, edges)
    of_splits = {split: values_R[split_R == number] for number, split in enumerate(splits)}
    return Distribution(
        name=name,
        title=title,
        log=log,
        edges=tuple(_short(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        all=_spread(values_R),
        splits={split: _spread(values) for split, values in of_splits.items() if len(values)},
    )


def _spread(values_R: np.ndarray) -> Spread:
    low, p5, median, p95, high = (_short(value) for value in np.quantile(values_R, [0, 0.05, 0.5, 0.95, 1]))
    mean = _short(values_R.mean())
    return Spread(count=len(values_R), minimum=low, p5=p5, median=median, mean=mean, p95=p95, maximum=high)


def _short(value: float) -> float:
    """Return six significant digits: nobody reads more, and JSON files stay small."""
    return float(f"{value:.6g}")


def _kinds(videos: Blocks) -> tuple[Kinds, ...]:
    found: dict[str, Counter[str]] = {name: Counter() for name in _KINDS}
    for block in videos.only("width", "height", *(name for name in _KINDS if name != "size")):
        sizes = block["width"].astype(str) + f" {TIMES} " + block["height"].astype(str)
        for name, counts in found.items():
            for value, count in (sizes if name == "size" else block[name]).value_counts().items():
                counts[_word(value)] += int(count)
    kinds = []
    for name, counts in found.items():
        if counts:
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            files = tuple((visible(value, 60), int(count)) for value, count in ordered[:KINDS_SHOWN])
            rest = [count for _, count in ordered[KINDS_SHOWN:]]
            kinds.append(Kinds(name=name, title=_KINDS[name], files=files, other_values=len(rest), other_files=int(sum(rest))))
    return tuple(kinds)


def _word(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _labels(labels: Blocks, facts: Facts, splits: Sequence[str]) -> tuple[LabelTask, ...]:
    found: dict[str, dict[str, np.ndarray]] = {}  # task -> label -> files of each split
    for block in labels:
        counts_of = Counter(zip(block["task"], block["label"], facts.split_of(block).tolist(), strict=True))
        for (task, label, split), files in counts_of.items():
            of_label = found.setdefault(task, {}).setdefault(label, np.zeros(len(splits), np.int64))
            of_label[split] += files
    tasks = []
    for task, counts in sorted(found.items()):
        ordered = sorted(counts.items(), key=lambda item: (-int(item[1].sum()), item[0]))
        rest = ordered[LABELS_SHOWN:]
        tasks.append(
            LabelTask(
                task=visible(task),
                rows=sum(int(files.sum()) for files in counts.values()),
                labels=len(counts),
                files=tuple((visible(label), _by_split(splits, files)) for label, files in ordered[:LABELS_SHOWN]),
                other_labels=len(rest),
                other_files=_by_split(splits, sum((files for _, files in rest), np.zeros(len(splits), np.int64))),
                untrained=sum(int(files[0]) == 0 for files in counts.values()),
            )
        )
    return tuple(tasks)


def _by_split(splits: Sequence[str], files: np.ndarray) -> dict[str, int]:
    return dict(zip(splits, files.tolist(), strict=True))


# --- files to show ----------------------------------------------------------------------------------------------------
def _across_first(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(found, key=lambda group: len(group["splits"]) < 2)


def _shown_groups(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [group["files"][:FILES_OF_A_GROUP] for group in _across_first(found)[:GROUPS_SHOWN]]


def _groups(found: Sequence[Mapping[str, Any]], known: Mapping[str, KnownFile]) -> Groups:
    shown = [
        Group(
            files=tuple((path, known[path].split if path in known else "") for path in group["files"][:FILES_OF_A_GROUP]),
            files_in_all=len(group["files"]),
            splits=tuple(group["splits"]),
        )
        for group in _across_first(found)[:GROUPS_SHOWN]
    ]
    return Groups(
        groups=len(found),
        files=sum(len(group["files"]) for group in found),
        across_splits=sum(len(group["splits"]) > 1 for group in found),
        shown=tuple(shown),
    )


def _accepted(videos: Blocks, captions: Blocks) -> tuple[AcceptedFile, ...]:
    """Return some files of each corpus and split, so that each has one as long as there are not too many."""
    rows: Counter[Any] = Counter()  # remembers which came first
    for block in videos.only("corpus", "split"):
        rows.update(zip(block["corpus"], block["split"], strict=True))
    parts = dict(islice(rows.items(), ACCEPTED_SHOWN))
    fit = ACCEPTED_SHOWN // max(1, len(parts))
    each = 6 if fit >= 6 else 3 if fit >= 3 else 1  # whole rows of the page
    columns = ("path", "split", "corpus", "width", "height", "num_frames", "codec")
    files = [file for part in _some_of_each(videos, ["corpus", "split"], parts, each).values() for file in part]
    caption: dict[str, str] = {}
    for block in captions.only("video_id", "caption"):
        own = block[block["video_id"].isin([file["video_id"] for file in files])]
        caption = dict(zip(own["video_id"][::-1], own["caption"][::-1], strict=True)) | caption
    return tuple(
        AcceptedFile(
            **{column: file[column] for column in columns},
            duration_s=_short(file["duration_s"]),
            caption=visible(caption.get(file["video_id"], "")),
        )
        for file in files
    )
