"""Captions that say what is in files of an index: what its cut-off is calibrated on, and its search is measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.models.tokenizer import clean_caption
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.texts import clean_text
from umt_pipeline.tables.files import read_table

COLUMNS = ("path", "caption", "split", "start_s", "end_s")
# What people, and the raw tables of a corpus, call these columns.
_OTHER_NAMES = {"video": "path", "text": "caption", "start": "start_s", "end": "end_s"}


def read_captions(file: Path, root: Path | None = None) -> pd.DataFrame:
    """Read a table of captions: CSV, TSV, JSON, JSON lines or Parquet.

    Args:
        file: with columns path (or video) and caption (or text), and optionally split, and start_s and end_s (or start and
            end), the seconds that a caption is about.
        root: what paths are relative to; None: the folder of the table.

    Returns:
        Columns path (absolute), caption, split (None where there is none), start_s and end_s (NaN where there are none).

    Raises:
        TableError: a column is missing, a path is empty, a caption cannot be searched for, or a time is no number.
    """
    table = read_table(file)
    table = table.rename(columns={old: new for old, new in _OTHER_NAMES.items() if new not in table})
    if missing := {"path", "caption"} - set(table.columns):
        raise TableError(f"{file}: expected columns path and caption, found no {' and no '.join(sorted(missing))}")
    table = table.reindex(columns=COLUMNS)
    for row, (path, caption) in enumerate(zip(table["path"], table["caption"], strict=True), start=1):
        if not isinstance(path, str) or not path:
            raise TableError(f"{file}, row {row}: expected a path, found {path!r}")
        try:
            clean_text(caption if isinstance(caption, str) else "")
        except ConfigError as error:
            raise TableError(f"{file}, row {row}, caption: {error}") from error
    for name in ("start_s", "end_s"):
        try:
            table[name] = pd.to_numeric(table[name]).astype(float)
        except (ValueError, TypeError) as error:
            raise TableError(f"{file}, column {name}: expected seconds, found {error}") from error
    folder = file.parent if root is None else root
    table["path"] = [str((folder / str(path)).absolute()) for path in table["path"]]
    table["split"] = [None if pd.isna(split) or not str(split) else str(split) for split in table["split"]]
    return table


@dataclass(frozen=True)
class Captions:
    """Captions beside an index.

    Attributes:
        present: captions of files that are in the index: the columns of :func:`read_captions` and ``file``, the file's row.
        absent: captions of files that are not in it, and of none that is: the columns of :func:`read_captions`.
        right: of each row of ``present``, the rows of all files that have this caption: each of them is a right answer.
    """

    present: pd.DataFrame
    absent: pd.DataFrame
    right: tuple[np.ndarray, ...]


def beside(index: Index, captions: pd.DataFrame) -> Captions:
    """Return which captions are of files of an index.

    Captions of files that a model was trained on say nothing of its search: where there are splits, those of ``train`` are
    left out.

    Args:
        index: an open index.
        captions: the columns of :func:`read_captions`.
    """
    row_of = {path: row for row, path in enumerate(index.files["path"])}
    files, text = captions["path"].map(row_of), captions["caption"].map(clean_caption)
    held_out, inside = captions["split"] != "train", files.notna()
    # A file that a model was trained on is as right an answer as any.
    files_of = {key: np.unique(group.to_numpy()) for key, group in files[inside].astype(np.int64).groupby(text[inside])}
    present = captions[held_out & inside].assign(file=files[held_out & inside].astype(np.int64))
    absent = captions[held_out & ~inside & ~text.isin(list(files_of))]
    right = tuple(files_of[key] for key in text[present.index])
    return Captions(present.reset_index(drop=True), absent.reset_index(drop=True), right)
