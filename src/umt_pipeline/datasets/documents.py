"""JSON and text files."""

from __future__ import annotations

import json
from typing import Any

from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.files import read_json, staged_file, write_json
from umt_pipeline.datasets.base import HTMLPreview, JSONPreview, PathDataset


class JsonDataset(PathDataset[Any, Any]):
    """A JSON file: indented, keys sorted, so that differences in git are small.

    Args:
        filepath: where it is.
        optional: a missing file is an empty mapping. For what pages show where it is there.
        metadata: see :class:`~umt_pipeline.datasets.base.PathDataset`.
    """

    def __init__(self, filepath: str, optional: bool = False, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        self.optional = optional

    def load(self) -> Any:
        """Return the file's content.

        Raises:
            UmtError: the file is missing and not optional, or is not JSON.
        """
        if self.optional and not self._path.exists():
            return {}
        try:
            return read_json(self._path)
        except FileNotFoundError as error:
            message = f"{self._path}: expected a JSON file, found nothing. Run the pipeline that makes it."
            raise UmtError(message) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UmtError(f"{self._path}: expected JSON in UTF-8, found something else: {error}.") from error

    def preview(self) -> JSONPreview:
        """Return the file's content as Kedro-Viz shows it.

        Raises:
            UmtError: see :meth:`load`.
        """
        return JSONPreview(json.dumps(self.load()))

    def save(self, data: Any) -> None:
        """Write ``data``.

        Raises:
            UmtError: ``data`` holds something that JSON cannot say, or the file cannot be written.
        """
        try:
            with self._writing():
                write_json(self._path, data)
        except TypeError as error:
            message = f"{self._path}: expected numbers, strings, lists and dicts to write as JSON: {error}."
            raise UmtError(message) from error


class TextFileDataset(PathDataset[str, str]):
    """A UTF-8 text file, such as an HTML page."""

    def load(self) -> str:
        """Return the file's text."""
        return self._path.read_text(encoding="utf-8")

    def preview(self) -> HTMLPreview:
        """Return the file's text as Kedro-Viz shows it: a page as it is, and a picture, which is a part of one."""
        return HTMLPreview(self.load())

    def save(self, data: str) -> None:
        """Write ``data`` with the line ends it has.

        Raises:
            UmtError: the file cannot be written.
        """
        with self._writing(), staged_file(self._path) as staged:
            staged.write_text(data, encoding="utf-8", newline="")
