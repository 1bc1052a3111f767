from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import DatasetError

from umt_pipeline.datasets import FolderDataset, WorkspaceDataset


def folder_with(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


def test_save_moves_the_folder_and_replaces_an_old_one(tmp_path: Path) -> None:
    target = tmp_path / "models" / "stage1"
    dataset = FolderDataset(str(target))
    assert not dataset.exists()
    for content in ("old", "new"):
        staged = folder_with(tmp_path / "staged", content)
        dataset.save(staged)
        assert not staged.exists()
        assert (dataset.load() / "file").read_text() == content
    assert dataset.exists()
    assert [path.name for path in target.parent.iterdir()] == ["stage1"]


def test_saving_the_folder_in_place_keeps_it(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "model", "same")
    FolderDataset(str(path)).save(path)
    assert (path / "file").read_text() == "same"


def test_missing_empty_and_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a folder, found nothing"):
        FolderDataset(str(tmp_path / "none")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="found an empty one"):
        FolderDataset(str(tmp_path / "empty")).load()
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="found a file"):
        FolderDataset(str(tmp_path / "file")).load()


@pytest.mark.parametrize("value", ["text", Path("/nowhere")])
def test_only_finished_folders_are_saved(tmp_path: Path, value: object) -> None:
    with pytest.raises(DatasetError, match="path of a finished folder"):
        FolderDataset(str(tmp_path / "target")).save(value)  # type: ignore[arg-type]


def test_the_workspace_is_made_on_demand_and_never_saved(tmp_path: Path) -> None:
    dataset = WorkspaceDataset(str(tmp_path / "data" / ".checkpoints"))
    assert dataset.load().is_dir()
    with pytest.raises(DatasetError, match="not an output of a node"):
        dataset.save(tmp_path)


def test_an_optional_folder_may_be_missing_but_not_empty(tmp_path: Path) -> None:
    dataset = FolderDataset(str(tmp_path / "model"), optional=True)
    assert dataset.load() == tmp_path / "model"
    (tmp_path / "model").mkdir()
    with pytest.raises(DatasetError, match="found an empty one"):
        dataset.load()
