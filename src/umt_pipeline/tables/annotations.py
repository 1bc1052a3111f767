"""What a reader gives, and how it is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.files import sha256_file, staged_folder, write_json

SUMMARY = "annotations.json"
FILES = {
    "videos": "videos.csv",
    "captions": "captions.csv",
    "labels": "labels.csv",
    "questions": "questions.jsonl",
    "boxes": "boxes.csv",
}
ANSWERS = "answers.json"
# Tables that the ingestion expects, without rows where there are none; it takes the others only if they are there.
REQUIRED = ("videos", "captions", "labels")


@dataclass(frozen=True)
class Source:
    """A file that was read.

    Attributes:
        role: what it was read as.
        file: its name, without folders.
        sha256: of its bytes.
        size_bytes: its size.
    """

    role: str
    file: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, role: str, path: Path) -> Source:
        """Hash a file."""
        return cls(role, path.name, sha256_file(path), path.stat().st_size)


@dataclass(frozen=True)
class Annotations:
    """A data set's annotations as our tables.

    Attributes:
        name: the reader's.
        videos: :class:`~umt_pipeline.schemas.RawVideos`. Images of image-text corpora are rows of it too. The corpus
            is the reader's name.
        captions: :class:`~umt_pipeline.schemas.RawCaptions`.
        labels: :class:`~umt_pipeline.schemas.RawLabels`.
        questions: :class:`~umt_pipeline.schemas.RawQuestions`.
        boxes: :class:`~umt_pipeline.schemas.RawBoxes`.
        answers: the answers that open questions are ranked against; empty if no list was given.
        sources: every file that was read.
        counts: rows by ``split/table``, distinct labels by ``classes/task``.
        warnings: sentences about what was left out or does not look like the public data set.
    """

    name: str
    videos: pd.DataFrame
    captions: pd.DataFrame
    labels: pd.DataFrame
    questions: pd.DataFrame
    boxes: pd.DataFrame
    answers: tuple[str, ...]
    sources: tuple[Source, ...]
    counts: dict[str, int]
    warnings: tuple[str, ...]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the five tables by name."""
        return {name: getattr(self, name) for name in FILES}

    def limited(self, videos: int) -> Annotations:
        """Return the first ``videos`` videos of each split with all that belongs to them."""
        kept = self.videos.groupby("split", sort=False).head(videos).reset_index(drop=True)
        names = set(kept["video"])
        others = {
            name: table[table["video"].isin(names)].reset_index(drop=True)
            for name, table in self.tables().items()
            if name != "videos"
        }
        limit = f"only the first {videos} videos of each split were kept: {len(kept)} of {len(self.videos)}"
        tables = {"videos": kept, **others}
        return replace(self, **tables, counts=count(tables), warnings=(*self.warnings, limit))  # type: ignore[arg-type]


def count(tables: dict[str, pd.DataFrame]) -> dict[str, int]:
    """Count rows by split and table, and distinct labels by task."""
    splits = tables["videos"].set_index("video")["split"]
    counts = {}
    for name, table in tables.items():
        for split, rows in table["video"].map(splits).value_counts(sort=False).items():
            counts[f"{split}/{name}"] = int(rows)
    for task, labels in tables["labels"].groupby("task", sort=False)["label"]:
        counts[f"classes/{task}"] = int(labels.nunique())
    if len(tables["boxes"]):
        boxes = tables["boxes"]["label"]
        counts["classes/boxes"] = int(boxes[boxes != ""].nunique())
    return dict(sorted(counts.items()))


def write_annotations(annotations: Annotations, folder: Path, *, force: bool = False) -> list[Path]:
    """Write the tables, the answers if there are any, and ``annotations.json``.

    Videos, captions and labels are always written, because the ingestion reads all three; questions and boxes if there
    are any. The folder appears when all of it is written.

    Args:
        annotations: what to write.
        folder: where to.
        force: replace a folder that an earlier call wrote.

    Returns:
        The files written.

    Raises:
        TableError: the folder is there and ``force`` is not given, or it holds files that this function does not write.
    """
    check_folder(folder, force=force)
    with staged_folder(folder) as staged:
        for name, table in annotations.tables().items():
            if table.empty and name not in REQUIRED:
                continue
            if FILES[name].endswith(".jsonl"):
                _write_lines(staged / FILES[name], table)
            else:
                table.to_csv(staged / FILES[name], index=False, lineterminator="\n")
        if annotations.answers:
            write_json(staged / ANSWERS, list(annotations.answers))
        write_json(staged / SUMMARY, summary(annotations))
    return sorted(folder.iterdir())


def summary(annotations: Annotations) -> dict[str, Any]:
    """Return what ``annotations.json`` says."""
    return {
        "name": annotations.name,
        "sources": [vars(source) for source in annotations.sources],
        "counts": annotations.counts,
        "warnings": list(annotations.warnings),
    }


def check_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder that :func:`write_annotations` would refuse; for asking before hours of reading.

    Raises:
        TableError: see there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TableError(f"{folder}: expected a folder to write, found a file.")
    strange = sorted(path.name for path in folder.iterdir() if path.name not in {*FILES.values(), ANSWERS, SUMMARY})
    if strange:
        raise TableError(
            f"{folder}: expected a folder that does not exist yet, found one with {', '.join(strange[:3])} in it. "
            "Choose another."
        )
    if not force:
        raise TableError(f"{folder}: exists already. Choose another folder, or give --force to replace it.")


def _write_lines(path: Path, table: pd.DataFrame) -> None:
    # Not pandas' own writer: it escapes every "/" of a path.
    with path.open("w", encoding="utf-8") as handle:
        for row in table.to_dict(orient="records"):
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
