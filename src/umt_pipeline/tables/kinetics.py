"""Kinetics-400, -600, -700 and -710, and lists of paths and labels as UMT and VideoMAE train on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector, with_suffix
from umt_pipeline.tables.labels import label_of, read_label_map
from umt_pipeline.tables.sources import Files, Place, whole_number

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}


def read_kinetics(files: Files, out: Collector, suffix: str, *, task: str, classes: int | None) -> None:
    """Read official lists (``label,youtube_id,time_start,time_end,split``) or lists of path and label number.

    Clips of official lists are called as the public downloads call them, ``<youtube_id>_<start>_<end>`` with six digits.
    Paths of other lists are kept, and get the suffix if they have none. Without a label map a label is its number.

    Args:
        files: ``train``, ``validation``, ``test``; ``labels``, a label map.
        out: takes the rows.
        suffix: of media files.
        task: name of the labels' task.
        classes: number of classes, for lists without a map; None: any.

    Raises:
        TableError: see the functions below.
    """
    label_map = files.get("labels")
    labels = read_label_map(files, label_map) if label_map else None
    if labels is None and classes is not None:
        labels = {number: str(number) for number in range(classes)}
    for split, path in files.splits():
        if _is_official(files, path):
            _read_official(files, out, path, split, suffix, task)
            continue
        for place, media, number in list_rows(files, path):
            label = str(number) if labels is None else label_of(labels, number, place)
            out.label(out.video(with_suffix(media, suffix), split, place), task, label, place)


def list_rows(files: Files, path: Path) -> Iterator[tuple[Place, str, int]]:
    """Yield path and label number of each line: ``path,number`` or ``path number``, the same throughout.

    Raises:
        TableError: a line has other fields, or the list is one of frame folders.
    """
    comma: bool | None = None
    for place, line in files.lines(path):
        comma = "," in line if comma is None else comma
        fields = [field.strip() for field in line.rsplit("," if comma else None, maxsplit=1)]
        if len(fields) != 2:
            between = "a comma" if comma else "a space"
            raise TableError(f"{place}: expected a path and a label with {between} between, found {line!r}.")
        if re.search(r"(,|\s)\s*\d+$", fields[0]):
            raise TableError(
                f"{place}: expected a path and a label, found {line!r}. A list of frame folders and numbers of frames "
                "cannot be used: videos are read from video files."
            )
        yield place, fields[0], whole_number(fields[1], place, "a label")


def _is_official(files: Files, path: Path) -> bool:
    _, cells = next(files.rows(path), (None, []))
    return "youtube_id" in [cell.strip() for cell in cells]


def _read_official(files: Files, out: Collector, path: Path, split: str, suffix: str, task: str) -> None:
    for place, row in files.table(path, "youtube_id", "time_start", "time_end"):
        start, end = (whole_number(row[name], place, f"the {name} in seconds") for name in ("time_start", "time_end"))
        stated = row.get("split", split).strip().lower()
        # Kinetics is tested on its validation list.
        if _SPLITS.get(stated) not in (split, "validation" if split == "test" else split):
            raise TableError(f"{place}, column 'split': expected a row of {split}, found '{stated}'.")
        video = out.video(f"{row['youtube_id'].strip()}_{start:06d}_{end:06d}{suffix}", split, place)
        label = row.get("label", "").strip()
        if label or split != "test":  # labels of test sets may be hidden
            out.label(video, task, label, place)
