"""From the tables of an ingestion to what its page says.

Shapes: F accepted files, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from umt_pipeline.reports.ingestion.costs import rule_costs
from umt_pipeline.schemas import RowReason
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
    videos: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    rejects: pd.DataFrame,
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
    near = report["near_duplicates"]
    split_of = dict(zip(videos["path"], videos["split"], strict=True))
    return Content(
        dataset_id=report["dataset_id"],
        rules=rules,
        tables=report["tables"],
        splits=report["splits"],
        corpora=report["corpora"],
        hours=report["hours"],
        media=report["media"],
        warnings=tuple(report["warnings"]),
        reasons=_reasons(rejects, meanings),
        distributions=_distributions(videos, tables["captions"], rules.splits),
        kinds=_kinds(videos),
        labels=_labels(tables["labels"], videos, rules.splits),
        duplicates=_groups(report["duplicates"]["groups"], split_of),
        near_duplicates=LookAlikes(
            **dict(_groups(near["groups"], split_of)), **{name: near[name] for name in ("bits", "compared", "not_compared")}
        ),
        costs=rule_costs(
            videos,
            tables,
            rejects,
            [group["files"] for group in near["groups"]],
            report["tables"]["videos"]["rows_in"],
            rules,
        ),
        accepted=_accepted(videos, tables["captions"]),
    )


def visible(text: str, limit: int = _TEXT_SHOWN) -> str:
    """Return a text as a page can hold it: control characters and halves of characters replaced, too long ones cut."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _is_control(character) else character for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit].rstrip() + "…"


def _is_control(character: str) -> bool:
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000


def _evenly(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return so many rows, evenly spread: neither the first nor the best."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


# --- rejects ----------------------------------------------------------------------------------------------------------
def _reasons(rejects: pd.DataFrame, meanings: Mapping[str, str]) -> tuple[ReasonGroup, ...]:
    groups = []
    for (table, reason), rows in rejects.groupby(["table", "reason"], sort=True):
        openable = table == "videos" and reason in RULE_REASONS
        examples = _evenly(rows, EXAMPLES_PER_REASON).to_dict("records")
        groups.append(
            ReasonGroup(
                table=str(table),
                reason=str(reason),
                rows=len(rows),
                meaning=visible(meanings[str(reason)]),
                remedy=visible(rows["remedy"].iloc[0]),
                examples=tuple(_rejected_row(row, openable) for row in examples),
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
def _distributions(videos: pd.DataFrame, captions: pd.DataFrame, splits: Sequence[str]) -> tuple[Distribution, ...]:
    films = videos[videos["media"] == "video"]
    split_of = dict(zip(videos["video_id"], videos["split"], strict=True))
    text = captions["caption"].astype(str)
    said_in = captions["video_id"].map(split_of)
    per_file = videos["video_id"].map(captions["video_id"].value_counts()).fillna(0)
    measured = {
        "duration_s": ("seconds per video", films["duration_s"], films["split"]),
        "num_frames": ("frames per video", films["num_frames"], films["split"]),
        "fps": ("frames per second", films["fps"], films["split"]),
        "shorter_side": ("pixels of the shorter side", videos[["width", "height"]].min(axis=1), videos["split"]),
        "aspect": ("width over height", videos["width"] / videos["height"], videos["split"]),
        "size_mib": ("MiB per file", videos["size_bytes"] / 2**20, videos["split"]),
        "words": ("words per caption", text.map(lambda caption: len(caption.split())), said_in),
        "characters": ("characters per caption", text.str.len(), said_in),
        "captions_per_file": ("captions per file", per_file, videos["split"]),
    }
    made = (
        distribution(name, title, values.to_numpy(float), of.to_numpy(object), splits)
        for name, (title, values, of) in measured.items()
    )
    return tuple(one for one in made if one is not None)


def distribution(
    name: str, title: str, values_R: np.ndarray, split_R: np.ndarray, splits: Sequence[str]
) -> Distribution | None:
    """Return a histogram of values, None of no values.

    Args:
        name: what was measured.
        title: the same for people.
        values_R: finite numbers.
        split_R: the split of each.
        splits: in the order to show them in.
    """
    if not len(values_R):
        return None
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
    of_splits = {split: values_R[split_R == split] for split in splits}
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


def _kinds(videos: pd.DataFrame) -> tuple[Kinds, ...]:
    sizes = videos["width"].astype(str) + f" {TIMES} " + videos["height"].astype(str)
    kinds = []
    for name, title in _KINDS.items():
        if len(videos):
            counts = (sizes if name == "size" else videos[name].map(_word)).value_counts()
            counts = counts.sort_index(kind="stable").sort_values(ascending=False, kind="stable")
            files = tuple((visible(str(value), 60), int(count)) for value, count in counts.head(KINDS_SHOWN).items())
            rest = counts.iloc[KINDS_SHOWN:]
            kinds.append(Kinds(name=name, title=title, files=files, other_values=len(rest), other_files=int(rest.sum())))
    return tuple(kinds)


def _word(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _labels(labels: pd.DataFrame, videos: pd.DataFrame, splits: Sequence[str]) -> tuple[LabelTask, ...]:
    split_of = dict(zip(videos["video_id"], videos["split"], strict=True))
    tasks = []
    for task, rows in labels.groupby("task", sort=True):
        counts = pd.crosstab(rows["label"], rows["video_id"].map(split_of)).reindex(columns=list(splits), fill_value=0)
        order = counts.sum(axis=1).sort_index().sort_values(ascending=False, kind="stable").index
        counts = counts.loc[order]
        rest = counts.iloc[LABELS_SHOWN:]
        tasks.append(
            LabelTask(
                task=visible(str(task)),
                rows=len(rows),
                labels=len(counts),
                files=tuple((visible(str(label)), _by_split(row)) for label, row in counts.head(LABELS_SHOWN).iterrows()),
                other_labels=len(rest),
                other_files=_by_split(rest.sum()),
                untrained=int((counts[splits[0]] == 0).sum()),
            )
        )
    return tuple(tasks)


def _by_split(counts: pd.Series) -> dict[str, int]:
    return {str(split): int(count) for split, count in counts.items()}


# --- files to show ----------------------------------------------------------------------------------------------------
def _groups(found: Sequence[Mapping[str, Any]], split_of: Mapping[str, str]) -> Groups:
    groups = [
        Group(
            files=tuple((path, split_of.get(path, "")) for path in group["files"][:FILES_OF_A_GROUP]),
            files_in_all=len(group["files"]),
            splits=tuple(group["splits"]),
        )
        for group in found
    ]
    groups.sort(key=lambda group: len(group.splits) < 2)
    return Groups(
        groups=len(groups),
        files=sum(group.files_in_all for group in groups),
        across_splits=sum(len(group.splits) > 1 for group in groups),
        shown=tuple(groups[:GROUPS_SHOWN]),
    )


def _accepted(videos: pd.DataFrame, captions: pd.DataFrame) -> tuple[AcceptedFile, ...]:
    """Return some files of each corpus and split, so that each has one as long as there are not too many."""
    parts = [rows for _, rows in videos.groupby(["corpus", "split"], sort=False)][:ACCEPTED_SHOWN]
    fit = ACCEPTED_SHOWN // max(1, len(parts))
    each = 6 if fit >= 6 else 3 if fit >= 3 else 1  # whole rows of the page
    columns = ("path", "split", "corpus", "width", "height", "num_frames", "codec")
    caption = captions.drop_duplicates("video_id").set_index("video_id")["caption"]
    return tuple(
        AcceptedFile(
            **{column: file[column] for column in columns},
            duration_s=_short(file["duration_s"]),
            caption=visible(str(caption.get(file["video_id"], ""))),
        )
        for rows in parts
        for file in _evenly(rows, each).to_dict("records")
    )
