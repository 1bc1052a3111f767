"""A corpus of a user: where its files are, what was decided when it was made, and which pipelines it has data for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import staged_file
from umt_pipeline.datasets import TableDataset
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, config_loader, validated
from umt_pipeline.tables.files import read_table
from umt_pipeline.tables.staging import is_address, stage

RECORD = "corpus.yml"
# Tables about media that a user may give, and the format of one that nobody gave.
TABLES = {"captions": ".csv", "labels": ".csv", "questions": ".jsonl", "boxes": ".csv"}
NEEDED = {
    "captions": ("video", "caption"),
    "labels": ("video", "label"),
    "questions": ("video",),
    "boxes": ("video",),
}
TABLE_SPLITS = "table"
# Of tables from elsewhere, all together; each is copied to the raw tables of its corpus.
STAGED_BYTES = 8 * 2**30


class CorpusRecord(Config):
    """What `umt init` was told, which `umt update` goes by.

    Attributes:
        media: ``add``: DVC keeps the folder, in the project; ``leave``: it stays where it is, and DVC keeps hashes.
        splits: shares of train, validation and test of new files in per cent, or ``table``: of each file somebody says it.
        captions: whether they come from a table that was given, or from sidecar files in the folder.
        labels: the same.
        class_folders: the first folder that a video lies in is its label.
        source: where the videos are brought from into the project: an address, or a folder of shards. None: they are a folder.
        prepare: the videos are transcoded once, before anything else.
    """

    media: Literal["add", "leave"]
    splits: str
    captions: Literal["table", "folder"]
    labels: Literal["table", "folder"]
    class_folders: bool = False
    source: str | None = None
    prepare: bool = False


@dataclass(frozen=True)
class Corpus:
    """A corpus by its name.

    Attributes:
        project: the project's folder.
        name: of the corpus: of its folders in ``conf``, ``data`` and ``corpora``.
    """

    project: Path
    name: str

    @property
    def conf(self) -> Path:
        """The configuration overlay."""
        return self.project / "conf" / self.name

    @property
    def raw(self) -> Path:
        """The folder of the raw tables and, if DVC keeps them, of the media."""
        return self.project / "data" / self.name / "01_raw"

    @property
    def videos(self) -> Path:
        """The table of media: columns video, split, video_id."""
        return self.raw / "videos.csv"

    @property
    def manifest(self) -> Path:
        """The media's hashes at the last `umt update`: columns video, size_bytes, sha256."""
        return self.raw / "media_manifest.csv"

    @property
    def hashes(self) -> Path:
        """The cache of hashes, nobody's result."""
        return self.project / "data" / self.name / ".checkpoints" / "media_hashes.jsonl"

    @cached_property
    def loader(self) -> ProjectConfigLoader:
        """The configuration."""
        return config_loader(self.project, self.name)

    @cached_property
    def record(self) -> CorpusRecord:
        """What was decided when the corpus was made."""
        return validated(CorpusRecord, yaml.safe_load((self.conf / RECORD).read_text(encoding="utf-8")), RECORD)

    @cached_property
    def media(self) -> Path:
        """The folder of media, as they came."""
        return catalog_path(self.project, self.loader, "source_media" if self.record.prepare else "raw_media")

    def table(self, name: str) -> Path:
        """Return where one of :data:`TABLES` is or would be."""
        return catalog_path(self.project, self.loader, f"raw_{name}")

    def load(self, name: str) -> pd.DataFrame:
        """Read one of :data:`TABLES`; one that is not there has no rows."""
        return TableDataset(str(self.table(name)), optional=True).load()

    def raw_files(self) -> list[Path]:
        """Return what DVC keeps of the raw data."""
        folder = [self.raw / "media"] if self.record.media == "add" else []
        return [self.videos, self.manifest, *(self.table(name) for name in TABLES), *folder]

    def pipelines(self) -> list[str]:
        """Return the pipelines that this corpus has data for.

        Raises:
            ConfigError: the raw tables are not here.
        """
        if not self.videos.exists():
            raise ConfigError(f"{self.videos}: expected a table, found nothing. Fetch it: dvc pull -R data/{self.name}.")
        return pipelines_for({name for name in TABLES if len(self.load(name))}, self.record.prepare)


def existing_corpus(project: Path, name: str) -> Corpus:
    """Return a corpus that `umt init` has made.

    Raises:
        ConfigError: there is none of this name.
    """
    corpus = Corpus(project, name)
    if not (corpus.conf / RECORD).is_file():
        known = sorted(path.parent.name for path in (project / "conf").glob(f"*/{RECORD}"))
        raise ConfigError(
            f"{corpus.conf}: expected a corpus that `umt init` made, found no {RECORD} in it. "
            f"There are: {', '.join(known) or 'none'}."
        )
    return corpus


def pipelines_for(tables: set[str], prepare: bool = False) -> list[str]:
    """Return the pipelines that can run with these of :data:`TABLES`.

    Stage 2 learns from captions, and the evaluation, retrieval and question answering stand on it.
    """
    found = [*(["prepare"] if prepare else []), "ingestion", "teacher_features", "stage1"]
    if "captions" in tables:
        found += ["stage2", "retrieval", "evaluation", *(["question_answering"] if "questions" in tables else [])]
    return [*found, *(["classification"] if "labels" in tables else []), *(["detection"] if "boxes" in tables else [])]


def table_with(path: Path, *columns: str) -> pd.DataFrame:
    """Read a table that must have some columns.

    Raises:
        TableError: it is missing, malformed, or lacks a column.
    """
    if not path.is_file():
        raise TableError(f"{path}: expected a table, found {'no file' if path.exists() else 'nothing'}. Correct the path.")
    table = read_table(path)
    missing = [column for column in columns if column not in table]
    if missing:
        raise TableError(
            f"{path}: expected the columns {', '.join(columns)}; found {', '.join(map(str, table.columns)) or 'none'}; "
            f"missing: {', '.join(missing)}. Rename them in the file, or copy the file with new names."
        )
    return table


def written_paths(column: pd.Series[Any]) -> pd.Series[str]:
    """Return a table's column of paths as ingestion reads it: ``./a//b.mp4`` is ``a/b.mp4``; what is no text is blank."""
    from umt_pipeline.pipelines.ingestion.tables import normal_paths

    return normal_paths(column.where(column.map(lambda cell: isinstance(cell, str)).astype(bool), ""))


def as_files(column: pd.Series[Any], files: Sequence[str]) -> pd.Series[str]:
    """Return a table's column of paths as the files are called: written otherwise, or in another Unicode form.

    Args:
        column: of a table about media.
        files: their paths. A cell that means none of them stays as :func:`written_paths` has it.
    """
    from umt_pipeline.pipelines.ingestion.media_paths import PathNames

    found, _ = PathNames.of(files).find(written_paths(column).tolist())
    return pd.Series(found, index=column.index, dtype=str)


def local_table(project: Path, source: str) -> Path:
    """Return a table that somebody names, by a path or by an address such as ``s3://bucket/captions.csv``, as a local file.

    Raises:
        ConfigError: it cannot be brought here.
    """
    return stage(source, project / "data" / ".checkpoints" / "staged", STAGED_BYTES) if is_address(source) else Path(source)


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """Yield the content of a YAML file; what the block changes in it is written, and comments stay."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    content = parse_yaml_for_update(path.read_text(encoding="utf-8"), str(path))
    yield content
    with staged_file(path) as staged:
        staged.write_text(dumps_yaml(content), encoding="utf-8")
