"""`umt init`: an overlay of the configuration for somebody's own folder of videos."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets import TableDataset
from umt_pipeline.tables.folders import read_folder
from umt_pipeline.video.media import is_image

SPLITS = ("train", "validation", "test")


def init_environment(
    project: Path, name: str, videos: Path, captions: Path, labels: Path | None, shares: str
) -> list[str]:
    """Write ``conf/NAME`` and ``data/NAME/01_raw/videos.csv``; return what to tell the user.

    Nothing is written unless every input is in order.

    Args:
        project: the project's folder.
        name: of the overlay.
        videos: a folder; video files at any depth are taken, and image files that the captions name: others may be
            thumbnails. Images are trained on and never measured on: all are of split train.
        captions: a table with the columns ``video`` (path relative to ``videos``) and ``caption``.
        labels: a table with the columns ``video``, ``label`` and, optionally, ``task``.
        shares: per cent of train, validation and test, such as ``"80,10,10"``.

    Raises:
        ConfigError: the name is taken or unusable, the folder holds no video, or the shares are not three numbers.
        TableError: a table lacks a column.
    """
    conf = project / "conf" / name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("base", "local"):
        raise ConfigError(f"name: expected lower-case letters, digits and _, not base or local; found '{name}'.")
    if conf.exists():
        raise ConfigError(f"{conf}: exists already. Delete it, or choose another name.")
    caption_table = _table_with(captions, "video", "caption")
    read = read_folder(videos, captioned=frozenset(path for path in caption_table["video"] if isinstance(path, str)))
    images = [path for path in read.videos["video"] if is_image(path)]
    found = [path for path in read.videos["video"] if not is_image(path)]
    split_table = assign_splits(found, parse_shares(shares))
    counts = split_table["split"].value_counts()
    stills = pd.DataFrame({"video": images, "split": SPLITS[0]}, dtype=str)
    split_table = pd.concat([split_table, stills], ignore_index=True)
    label_table = pd.DataFrame({"video": [], "task": [], "label": []}, dtype=str)
    if labels is not None:
        label_table = _table_with(labels, "video", "label")
        if "task" not in label_table:
            label_table.insert(1, "task", "label")

    raw = Path("data") / name / "01_raw"
    TableDataset(str(project / raw / "videos.csv")).save(split_table)
    TableDataset(str(project / raw / "labels.csv")).save(label_table)
    _write_overlay(
        conf,
        name,
        {
            "raw_media": {"type": "umt_pipeline.datasets.FolderDataset", "filepath": str(videos.resolve())},
            "raw_videos": {"type": "umt_pipeline.datasets.TableDataset", "filepath": str(raw / "videos.csv")},
            "raw_captions": {"type": "umt_pipeline.datasets.TableDataset", "filepath": str(captions.resolve())},
            "raw_labels": {"type": "umt_pipeline.datasets.TableDataset", "filepath": str(raw / "labels.csv")},
            "raw_questions": {
                "type": "umt_pipeline.datasets.TableDataset",
                "filepath": str(raw / "questions.jsonl"),
                "optional": True,
            },
            "raw_boxes": {
                "type": "umt_pipeline.datasets.TableDataset",
                "filepath": str(raw / "boxes.csv"),
                "optional": True,
            },
        },
        tasks=sorted(set(label_table["task"])),
    )
    files = [*found, *images]
    return [
        f"{len(found)} video files: " + ", ".join(f"{split} {counts.get(split, 0)}" for split in SPLITS),
        *([f"{len(images)} image files with a caption, all in split train"] if images else []),
        *(f"left out: {count} {reason}" for reason, count in read.left_out.items()),
        f"{_matches(caption_table, files)} of {len(caption_table)} captions name one of these files",
        *([f"{_matches(label_table, files)} of {len(label_table)} labels name one of these files"] if labels else []),
        *(f"warning: no video in split '{split}'; change --splits" for split in SPLITS if not counts.get(split, 0)),
        f"written: {conf} and {project / raw}",
        f"next: kedro run --env {name} --pipelines ingestion,teacher_features,stage1,stage2,evaluation",
        f"then: umt summary --env {name}",
    ]


def parse_shares(text: str) -> tuple[float, float, float]:
    """Return three numbers that sum to 100.

    Raises:
        ConfigError: ``text`` is something else.
    """
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--splits: expected three numbers such as 80,10,10; found '{text}'.") from None
    if min(train, validation, test) < 0 or abs(train + validation + test - 100) > 1e-6:
        raise ConfigError(f"--splits: expected numbers from 0 up that sum to 100; found '{text}'.")
    return train, validation, test


def assign_splits(videos: list[str], shares: tuple[float, float, float]) -> pd.DataFrame:
    """Return the table ``video, split``.

    A video's split depends on the hash of its path alone, so it stays where it is when others come or go.
    """
    train, validation, _ = shares
    splits = []
    for video in videos:
        point = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") / 2**64 * 100
        splits.append(SPLITS[0] if point < train else SPLITS[1] if point < train + validation else SPLITS[2])
    return pd.DataFrame({"video": videos, "split": splits}, dtype=str)


def _table_with(path: Path, *columns: str) -> pd.DataFrame:
    table = TableDataset(str(path)).load()
    missing = [column for column in columns if column not in table]
    if missing:
        raise TableError(
            f"{path}: expected the columns {', '.join(columns)}; found {', '.join(map(str, table.columns)) or 'none'}; "
            f"missing: {', '.join(missing)}. Rename them in the file, or copy the file with new names."
        )
    return table


def _matches(table: pd.DataFrame, videos: list[str]) -> int:
    return int(table["video"].isin(videos).sum())


def _write_overlay(conf: Path, name: str, catalog: dict[str, dict[str, str | bool]], tasks: list[str]) -> None:
    # The demo's sentences for its small teacher name label tasks that other corpora do not have: captions take their place.
    # Real captions are longer than the demo's and of more words: its sizes would cut most of them.
    small = {"templates": [], "synonyms": {}, "vocab_size": 8192, "context_length": 32}
    bert = {"vocab_size": 8192, "max_length": 32, "max_positions": 64}
    # The first word, not the text: real questions are hardly ever worded alike.
    asked = {"fine_tuning": {"max_question_length": 25}, "test": {"types": "first_word"}}
    parameters: dict[str, dict[str, Any]] = {
        "parameters_teacher_features.yml": {"teacher_features": {"dataset_id": name, "train_small": small}},
        "parameters_stage2.yml": {"stage2": {"text": bert}},
        "parameters_ingestion.yml": {"ingestion": {"dataset_id": name, "columns": {"videos": {"corpus": None}}}},
        "parameters_evaluation.yml": {"evaluation": {"retrieval_sets": ["test"], "tasks": tasks}},
        "parameters_retrieval.yml": {"retrieval": {"test": {"sets": ["test"]}}},
        "parameters_detection.yml": {"detection": {"groups": None}},
        "parameters_question_answering.yml": {"question_answering": {"test_splits": ["test"], **asked}},
    }
    if tasks:
        parameters["parameters_classification.yml"] = {"classification": {"tasks": tasks}}
    settings = {"data": f"data/{name}", "results": f"data/{name}/08_reporting/results"}
    header = f"# Written by `umt init {name}`. Holds only what differs from conf/base; change it as you like.\n"
    for file, content in {"globals.yml": settings, "catalog.yml": catalog, **parameters}.items():
        with staged_file(conf / file) as staged:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
            staged.write_text(header + text, encoding="utf-8")
