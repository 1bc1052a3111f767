"""Tables of several corpora as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, DatasetError
from pydantic import Field, TypeAdapter, ValidationError

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets.table import TableDataset
from umt_pipeline.schemas.mapping import Column, select_columns

# Ours for the path of a file: the column that `folder` is put before.
PATH_COLUMN = "video"
CORPUS_COLUMN = "corpus"


class CorpusTable(Config):
    """The table of one corpus.

    Attributes:
        filepath: a table as :class:`TableDataset` reads it.
        columns: for each of our columns the name of the table's, or ``{constant: value}``; other columns are left out.
        folder: where the corpus lies in the media folder; put before the paths in the column ``video``.
    """

    filepath: str
    columns: dict[str, Column] = Field(min_length=1)
    folder: str = ""


class CorporaTableDataset(AbstractDataset[NoReturn, pd.DataFrame]):
    """Tables of several corpora, each with its own file and column names, read as one with an added column ``corpus``.

    Annotations of published corpora are lists of ``{"image": path, "caption": text}``: each such file is the table of
    captions and, with ``distinct``, also that of videos and images::

        raw_videos:
          type: umt_pipeline.datasets.CorporaTableDataset
          distinct: true
          corpora:
            webvid: {filepath: webvid.json, folder: webvid, columns: {video: video, split: {constant: train}}}
            coco: {filepath: coco.json, folder: coco, columns: {video: image, split: {constant: train}}}

    Rows are in the order of the corpora and of their files; all are in memory at once. Nothing can be written: the files are
    the user's.

    Args:
        corpora: name of the corpus -> :class:`CorpusTable`. All have the same columns, one of them ``video``.
        distinct: keep of equal rows of a corpus the first; and refuse a file that two corpora name.
        metadata: read by hooks and by Kedro-Viz, not by the dataset.

    Raises:
        TableError: no corpus, an unknown key, or columns that differ between corpora.
    """

    def __init__(
        self, corpora: Mapping[str, Any], distinct: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        self.metadata = metadata
        self._distinct = distinct
        try:
            self._corpora = TypeAdapter(dict[str, CorpusTable]).validate_python(corpora)
        except ValidationError as error:
            problems = "".join(
                f"\n  corpora.{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
            )
            raise TableError(f"CorporaTableDataset: the catalog entry is not as expected:{problems}") from error
        self._check_columns()
        # Made here, so that a wrong suffix is found when the catalog is read.
        self._tables = {name: TableDataset(corpus.filepath) for name, corpus in self._corpora.items()}

    def load(self) -> pd.DataFrame:
        """Read all tables.

        Raises:
            TableError: a file is missing or malformed, a column is missing, or, with ``distinct``, two corpora name the same
                file; the message names corpus and file.
        """
        tables = [self._load_corpus(name, corpus) for name, corpus in self._corpora.items()]
        table = pd.concat(tables, ignore_index=True)
        if self._distinct:
            self._refuse_shared_files(table)
        return table

    def save(self, data: NoReturn) -> None:
        """Refuse: the files are the user's.

        Raises:
            TableError: always.
        """
        raise TableError(f"CorporaTableDataset of {', '.join(self._corpora)}: expected to be read only, not to be written.")

    def _check_columns(self) -> None:
        if not self._corpora:
            raise TableError("CorporaTableDataset: expected at least one corpus under `corpora`, found none.")
        first, *_ = self._corpora
        expected = set(self._corpora[first].columns)
        for name, corpus in self._corpora.items():
            found = set(corpus.columns)
            if PATH_COLUMN not in found or CORPUS_COLUMN in found:
                raise TableError(
                    f"corpora.{name}.columns: expected '{PATH_COLUMN}' and not '{CORPUS_COLUMN}', which is the key of the "
                    f"corpus; found {', '.join(corpus.columns)}."
                )
            if found != expected:
                raise TableError(
                    f"corpora.{name}.columns: expected the same columns as corpus {first}, {', '.join(sorted(expected))}; "
                    f"found {', '.join(sorted(found))}. Where a table has no such column, give a constant."
                )

    def _load_corpus(self, name: str, corpus: CorpusTable) -> pd.DataFrame:
        try:
            raw = self._tables[name].load()
        except DatasetError as error:  # Kedro's, around what the dataset raised
            raise TableError(f"Corpus {name}: {error.__cause__ or error}") from error
        selected = select_columns(raw, corpus.columns, f"{corpus.filepath} of corpus {name}", f"corpora.{name}.columns")
        table = selected.table
        if corpus.folder:
            table[PATH_COLUMN] = [self._inside(corpus.folder, path) for path in table[PATH_COLUMN]]
        for cell in selected.bad:  # as it was: whoever reads the table decides what becomes of such a row
            table[cell.column] = table[cell.column].astype(object)
            table.at[cell.row, cell.column] = cell.value
        if self._distinct:
            same = table.map(repr) if selected.bad else table  # a list cannot be compared as it is
            table = table[~same.duplicated()]
        return table.assign(corpus=pd.Series(name, index=table.index, dtype=str))

    @staticmethod
    def _inside(folder: str, path: str) -> str:
        # A blank cell stays one, and is refused as such; an absolute path would swallow the folder.
        return str(PurePosixPath(folder, path.lstrip("/"))) if path.strip() else path

    def _refuse_shared_files(self, table: pd.DataFrame) -> None:
        named = table[table[PATH_COLUMN].map(lambda path: isinstance(path, str)).astype(bool)]
        owners = named.groupby(PATH_COLUMN, sort=False)[CORPUS_COLUMN].unique()
        shared = owners[owners.map(len) > 1]
        if len(shared):
            raise TableError(
                f"Corpora {' and '.join(shared.iloc[0])}: both name the file '{shared.index[0]}' ({len(shared)} such files). "
                "Where each has a folder of its own, name it as `folder`; else list the file in one of them."
            )

    def _exists(self) -> bool:
        return all(table.exists() for table in self._tables.values())

    def _describe(self) -> dict[str, Any]:
        files = {name: corpus.filepath for name, corpus in self._corpora.items()}
        return {"corpora": files, "distinct": self._distinct}
