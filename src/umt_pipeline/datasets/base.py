"""What the project's datasets share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NewType, TypeVar

from kedro.io import AbstractDataset

from umt_pipeline.core.errors import UmtError

_Saved = TypeVar("_Saved")
_Loaded = TypeVar("_Loaded")

# What a dataset's `preview` returns: Kedro-Viz knows by these names how to show it.
TablePreview = NewType("TablePreview", dict[str, Any])
JSONPreview = NewType("JSONPreview", str)
HTMLPreview = NewType("HTMLPreview", str)


class PathDataset(AbstractDataset[_Saved, _Loaded]):
    """A dataset that is one file or one folder.

    Attributes:
        optional: it can be loaded where there is nothing.

    Args:
        filepath: where it is; the catalog makes it absolute.
        metadata: read by hooks (see ``umt_pipeline.hooks``) and by Kedro-Viz, not by the dataset.
    """

    optional = False

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """Where the file or folder is."""
        return self._path

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what to do where the block cannot write: a full disk, a folder of somebody else.

        Raises:
            UmtError: the block ended in an OSError.
        """
        try:
            yield
        except OSError as error:
            raise UmtError(
                f"{self._path}: expected to write here, found: {error}. What was there before is as it was. Make room, or give "
                "yourself the right to write; `data` and `results` in conf/ENV/globals.yml put everything elsewhere."
            ) from error

    def _exists(self) -> bool:
        return self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
