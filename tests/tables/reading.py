"""Annotation files for tests, written as their authors write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.tables import READERS, Annotations


def put(folder: Path, files: dict[str, Any]) -> list[str]:
    """Write files: bytes and text as they are, anything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [str(folder / name) for name in files]


def read(folder: Path, reader: str, files: dict[str, Any], suffix: str | None = None) -> Annotations:
    """Write files and read them; a name may be ``role=name``."""
    paths = put(folder, {name.rpartition("=")[2]: content for name, content in files.items()})
    given = [f"{name.partition('=')[0]}={path}" if "=" in name else path for name, path in zip(files, paths, strict=True)]
    return READERS[reader].read(READERS[reader].assign(given), suffix)


def rows(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table.itertuples(index=False, name=None))


def splits(found: Annotations) -> list[tuple[str, str]]:
    """Return each video with its split; the corpus of all of them is the reader's name."""
    assert set(found.videos["corpus"]) == {found.name}
    return list(zip(found.videos["video"], found.videos["split"], strict=True))
