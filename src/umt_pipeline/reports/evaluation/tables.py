"""Tables of the report, and how it names systems and writes numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd

from umt_pipeline.reports.tables import LISTED, NOTHING, Cell, Row, Scored, Table, byte_text, cell, score_table

_RECALL = re.compile(r"r(\d+)")
_NAMES = {  # also the order of rows
    "teacher_cls": "Teacher, class token",
    "teacher_patch": "Teacher, patch mean",
    "teacher": "Teacher",
    "untrained": "Untrained student",
    "stage1": "Stage 1",
    "control": "Stage 2 from scratch",
    "stage2": "Stage 2",
    "zero_shot": "Zero-shot",
    "fine_tuned": "Fine-tuned",
}
_TIMES = "\N{MULTIPLICATION SIGN}"
_DIRECTIONS = {"t2v": "Text → video", "v2t": "Video → text"}
_SCORES = {"": "", "dual": "dual", "dsl": "dual softmax", "reranked": "re-ranked"}  # also the order of a model's rows


# --- names ------------------------------------------------------------------------------------------------------------


def system_name(system: str) -> str:
    """Return a readable name of an encoder or of a retrieval system such as ``stage2/dual``; unknown names stay."""
    model, score = _split_system(system)
    if model not in _NAMES or score not in _SCORES:
        return system.replace("_", " ")
    return f"{_NAMES[model]}, {_SCORES[score]}" if score else _NAMES[model]


def system_order(system: str) -> tuple[int, int, str]:
    """Return the sort key of a system: teacher, untrained, stage 1, control, stage 2, zero-shot, fine-tuned, others."""
    model, score = _split_system(system)
    if model not in _NAMES:
        return len(_NAMES), 0, system
    return list(_NAMES).index(model), list(_SCORES).index(score), system


def uses_other_queries(system: str) -> bool:
    """Return whether a system's scores for one query depend on the set's other queries."""
    return _split_system(system)[1] == "dsl"


def _split_system(system: str) -> tuple[str, str]:
    """Split ``stage2/dual``, in agreement keys ``stage2_dual``, into model and score; unknown systems stay whole."""
    for score in _SCORES:
        model = system.replace("/", "_").removesuffix(f"_{score}")
        if score and model in _NAMES and model != system:
            return model, score
    return system, "" if system in _NAMES else system


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric_tree(metrics: Mapping[str, float], kind: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return metrics of one kind as group -> system -> column -> value.

    ``probe/<knn|linear>/<task>/<encoder>`` gives probe kind -> encoder -> task; ``retrieval/<set>/<system>/<column>``
    and ``agreement/<set>/<system>/<task>`` give set -> system -> column.
    """
    tree: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in metrics.items():
        start, *parts = key.split("/")
        if start != kind or len(parts) < 3:
            continue
        group, middle, last = parts[0], "/".join(parts[1:-1]), parts[-1]
        system, column = (last, middle) if kind == "probe" else (middle, last)
        tree.setdefault(group, {}).setdefault(system, {})[column] = float(value)
    return tree


def column_name(column: str) -> str:
    """Return the head of a metric's column without its direction, e.g. ``R@1`` for ``t2v_r1``."""
    direction, _, metric = column.partition("_")
    if direction not in _DIRECTIONS:
        return column.replace("_", " ")
    recall = _RECALL.fullmatch(metric)
    return f"R@{recall.group(1)}" if recall else {"medr": "MedR", "meanr": "MeanR"}.get(metric, metric)


def _column_groups(columns: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Return the directions over runs of retrieval columns; nothing if there are none."""
    directions = [_DIRECTIONS.get(column.partition("_")[0], "") for column in columns]
    return tuple((name, len(list(run))) for name, run in groupby(directions)) if any(directions) else ()


def is_rank(column: str) -> bool:
    """Say whether a column counts places (lower is better) instead of percent."""
    return column.endswith(("medr", "meanr", "rank"))


def metric_table(
    caption: str,
    systems: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
    references: Mapping[str, Mapping[str, float]],
) -> Table | None:
    """Return systems x columns with the best value of each column marked and reference rows (chance ...) below.

    Systems scored by dual softmax stand out of competition: they read all queries at once.
    """
    rows = [
        Scored(Cell(system_name(name), title=name), systems[name], not uses_other_queries(name))
        for name in sorted(systems, key=system_order)
    ]
    ranks = [column for column in columns if is_rank(column)]
    table = score_table(caption, rows, {column: column_name(column) for column in columns}, references, ranks)
    return table and replace(table, groups=_column_groups(columns))


def cost_table(records: Sequence[Mapping[str, Any]]) -> Table | None:
    """Return what re-ranking cost for each set and system that has it."""
    rows = []
    for record in records:
        cost = record.get("cost")
        if isinstance(cost, Mapping):
            name, system = str(record["task"]).removeprefix("retrieval/").split("/", 1)
            pairs, seconds = float(cost["pairs"]), float(cost["seconds"])
            rate = f"{pairs / seconds:,.0f}" if seconds else NOTHING
            rows.append(Row(Cell(system_name(system)), (Cell(name), cell(int(pairs)), Cell(f"{seconds:.2f}"), Cell(rate))))
    if not rows:
        return None
    note = "Each pair of both directions is scored once. Time of the matching head alone, on the machine of this run."
    return Table("What re-ranking costs", ("", "Set", "Pairs", "Seconds", "Pairs/s"), tuple(rows), note)


def ordered_columns(systems: Mapping[str, Mapping[str, float]], first: Iterable[str]) -> list[str]:
    """Return all columns of a group of systems: those of ``first`` in that order, then the others by name."""
    present = {column for row in systems.values() for column in row}
    wanted = [column for column in first if column in present]
    return wanted + sorted(present.difference(wanted))


# --- ingestion, corpus, records ---------------------------------------------------------------------------------------


def count_table(ingestion: Mapping[str, Any] | None) -> Table | None:
    """Return rows in = accepted + rejected per table, each sum checked here again."""
    if not ingestion:
        return None
    tables = ingestion.get("tables", ingestion)
    rows = []
    for name, counts in tables.items() if isinstance(tables, Mapping) else ():
        if not isinstance(counts, Mapping) or "accepted" not in counts:
            continue
        came = counts.get("rows_in", counts.get("in"))
        accepted, rejected = counts["accepted"], counts.get("rejected", 0)
        whole = came is not None and int(came) == int(accepted) + int(rejected)
        check = Cell("✓ adds up") if whole else Cell("✗ does not add up", style="bad")
        rows.append(Row(Cell(str(name)), (cell(came), cell(accepted), cell(rejected), check)))
    if not rows:
        return None
    return Table("Rows of each table", ("Table", "Rows in", "Accepted", "Rejected", "Check"), tuple(rows))


def corpora_table(ingestion: Mapping[str, Any] | None) -> Table | None:
    """Return what was accepted of each corpus: files, videos, images, captions, hours."""
    corpora = (ingestion or {}).get("corpora", {})
    if not corpora:
        return None
    columns = ("rows_in", "rejected", "videos", "images", "captions", "hours")
    rows = tuple(
        Row(Cell(str(name)), tuple(cell(counts[column], column) for column in columns)) for name, counts in corpora.items()
    )
    head = ("Corpus", "Files listed", "Rejected", "Videos", "Images", "Captions", "Hours of video")
    return Table("Videos and images of each corpus", head, rows)


def reason_table(rejects: pd.DataFrame | None, files_shown: int = LISTED) -> Table | None:
    """Return rejects grouped by table and reason, with the files."""
    if rejects is None or rejects.empty:
        return None
    rows = []
    for (table, reason), group in rejects.groupby(["table", "reason"], sort=True):
        files = list(dict.fromkeys(str(v) for v in group["video"]))
        more = f" and {len(files) - files_shown:,} more" if len(files) > files_shown else ""
        rows.append(
            Row(Cell(str(reason)), (Cell(str(table)), cell(len(group)), Cell(", ".join(files[:files_shown]) + more)))
        )
    return Table("Reasons of rejection", ("Reason", "Table", "Rows", "Files"), tuple(rows))


def reject_table(rejects: pd.DataFrame | None, limit: int = 200) -> Table | None:
    """Return the rejected rows one by one, at most ``limit``."""
    if rejects is None or rejects.empty:
        return None
    rows = tuple(
        Row(
            Cell(str(row["video"])),
            (Cell(str(row["table"])), cell(row["row"]), Cell(str(row["reason"])), Cell(str(row["detail"]))),
        )
        for row in rejects.head(limit).to_dict("records")
    )
    note = f"The first {limit:,} of {len(rejects):,} rows." if len(rejects) > limit else ""
    return Table("Every rejected row", ("File", "Table", "Row", "Reason", "Detail"), rows, note)


def corpus_table(videos: pd.DataFrame | None) -> Table | None:
    """Return clips, length, frame rates, sizes and codecs per split."""
    if videos is None or videos.empty:
        return None

    def spread(column: pd.Series, digits: int = 0) -> Cell:
        low, middle, high = (float(v) for v in column.quantile([0, 0.5, 1]))
        return Cell(
            f"{low:.{digits}f} to {high:.{digits}f}" if low < high else f"{low:.{digits}f}",
            f"median {middle:.{digits}f}",
        )

    rows = []
    for split, group in [*videos.groupby("split", sort=False), ("all", videos)]:
        sizes = (group["width"].astype(str) + _TIMES + group["height"].astype(str)).value_counts()
        shown = ", ".join(sorted(sizes.index[:3])) + (f" and {len(sizes) - 3:,} more" if len(sizes) > 3 else "")
        cells = (
            cell(len(group)),
            Cell(f"{group['duration_s'].sum() / 60:,.1f}"),
            spread(group["duration_s"], 1),
            spread(group["num_frames"]),
            spread(group["fps"], 1),
            Cell(shown),
            Cell(", ".join(sorted({str(v) for v in group["codec"]}))),
            Cell(byte_text(float(group["size_bytes"].sum()))),
        )
        rows.append(Row(Cell(str(split)), cells, "chance" if str(split) == "all" else ""))
    head = (
        "Split",
        "Clips",
        "Minutes",
        "Seconds",
        "Frames",
        "Frames/s",
        "Pixels",
        "Codec",
        "On disk",
    )
    return Table("Accepted clips", head, tuple(rows))
