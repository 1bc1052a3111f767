"""A folder as one dataset."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.files import move_folder
from umt_pipeline.datasets.base import PathDataset


class FolderDataset(PathDataset[Path, Path]):
    """A finished folder: a model, a feature store, a tree of videos.

    ``load`` gives the folder's path; ``save`` takes the path of a folder that a node has filled elsewhere and renames
    it into place, so that the catalog's path never holds half a result.

    Args:
        filepath: of the folder.
        optional: ``load`` gives the path of a missing folder too; whoever needs its content says so. For recipes that leave
            a pipeline out.
        metadata: see :class:`~umt_pipeline.datasets.base.PathDataset`.
    """

    def __init__(self, filepath: str, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        self.optional = optional

    def load(self) -> Path:
        """Return the folder's path.

        Raises:
            UmtError: the folder is missing or empty, and not optional.
        """
        if self.optional and not self._path.exists():
            return self._path
        if not self._path.is_dir():
            found = "a file" if self._path.exists() else "nothing"
            raise UmtError(
                f"{self._path}: expected a folder, found {found}. "
                "Run the pipeline that makes it first (`dvc repro` runs all that is missing), or correct the catalog."
            )
        if not any(self._path.iterdir()):
            raise UmtError(
                f"{self._path}: expected a folder with content, found an empty one. Run what makes it again."
            )
        return self._path

    def save(self, data: Path) -> None:
        """Rename the finished folder ``data`` to the dataset's path, replacing what is there.

        Raises:
            UmtError: ``data`` is not a folder with content, or cannot be put here.
        """
        if not isinstance(data, Path) or not data.is_dir() or not any(data.iterdir()):
            raise UmtError(
                f"{self._path}: expected the path of a finished folder to put here, found {data!r}. "
                "The node must return a pathlib.Path of a folder with content."
            )
        with self._writing():
            move_folder(data, self._path)

    def _exists(self) -> bool:
        return self._path.is_dir() and any(self._path.iterdir())


class WorkspaceDataset(PathDataset[Path, Path]):
    """The folder for unfinished work: resume points, tables for training processes, folders not yet in place.

    It is nobody's result: neither git nor DVC keeps it, and deleting it loses no more than the progress of killed runs.
    """

    optional = True

    def load(self) -> Path:
        """Return the folder's path; it is made if it is not there.

        Raises:
            UmtError: it cannot be made, or not written into: better said now than after hours of work.
        """
        with self._writing():
            self._path.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self._path):
                pass
        return self._path

    def save(self, data: Path) -> None:
        """Refuse: nodes write into the folder themselves.

        Raises:
            UmtError: always.
        """
        raise UmtError(f"{self._path}: the workspace is not an output of a node, it cannot be saved as {data!r}")
