"""A place that cannot be written is said to be one, before or after the work, and what was there stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import AbstractDataset, DatasetError

from umt_pipeline.datasets import FolderDataset, JsonDataset, TableDataset, TextFileDataset, WorkspaceDataset

MAKERS = {
    "t.parquet": (TableDataset, pd.DataFrame({"a": [1]})),
    "t.json": (JsonDataset, {"a": 1}),
    "t.html": (TextFileDataset, "<p>"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, content = MAKERS[name]
    dataset: AbstractDataset[Any, Any] = kind(str(tmp_path / name))
    dataset.save(content)
    before = (tmp_path / name).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=f"{name}: expected to write here, found: .*No space left.*Make room"):
        dataset.save(content)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_place_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").touch()
    with pytest.raises(DatasetError, match=r"workspace: expected to write here, found: .*globals\.yml put everything"):
        WorkspaceDataset(str(tmp_path / "data" / "workspace")).load()
    with pytest.raises(DatasetError, match="store: expected to write here"):
        FolderDataset(str(tmp_path / "data" / "store")).save(tmp_path / "made")
    assert (tmp_path / "made" / "x").is_file()
