"""`umt update`: the raw tables of a corpus after files came, went, moved or changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from umt_pipeline.commands.corpus import (
    NEEDED,
    RECORD,
    TABLES,
    Corpus,
    edited,
    existing_corpus,
    pipelines_for,
    table_with,
    written_paths,
)
from umt_pipeline.commands.derived import derived_gates, derived_parameters, follow_gates, follow_tables
from umt_pipeline.commands.init import labels_of, scan, write_table
from umt_pipeline.commands.media_hashes import HashCache
from umt_pipeline.commands.splits import Assign, read_splits
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.dvc_repo import dvc_repo, put_under_dvc
from umt_pipeline.dvc_stages import write_stages
from umt_pipeline.project_config import config_loader
from umt_pipeline.tables.folders import FolderTables
from umt_pipeline.tables.media import local_media


@dataclass(frozen=True)
class Changes:
    """What happened to a folder between two lists of hashes.

    Attributes:
        new: paths that were not there, and whose content was not either or still is where it was.
        changed: paths with other content.
        moved: new paths by the old ones: the same content, and the old path is gone.
        vanished: paths that are gone, with their content.
    """

    new: Sequence[str]
    changed: Sequence[str]
    moved: Mapping[str, str]
    vanished: Sequence[str]

    def counts(self) -> str:
        """Return the numbers, for people."""
        told = {"new": self.new, "changed": self.changed, "moved": self.moved, "vanished": self.vanished}
        return ", ".join(f"{len(paths)} {name}" for name, paths in told.items())


def compare_manifests(before: pd.DataFrame, now: pd.DataFrame) -> Changes:
    """Compare two tables with columns video, sha256. Of several files of the same content the first in order moved first."""
    old = dict(zip(before["video"], before["sha256"], strict=True))
    found = dict(zip(now["video"], now["sha256"], strict=True))
    gone: dict[str, list[str]] = defaultdict(list)
    for video in sorted(old.keys() - found.keys(), reverse=True):
        gone[old[video]].append(video)
    moved = {}
    for video in sorted(found.keys() - old.keys()):
        # Files that could not be read have no hash to be known by.
        if found[video] and gone.get(found[video]):
            moved[gone[found[video]].pop()] = video
    return Changes(
        new=sorted(found.keys() - old.keys() - set(moved.values())),
        changed=sorted(video for video in old.keys() & found.keys() if old[video] != found[video]),
        moved=moved,
        vanished=sorted(old.keys() - found.keys() - moved.keys()),
    )


def updated_videos(videos: pd.DataFrame, changes: Changes, assign: Assign) -> pd.DataFrame:
    """Return the table of videos after changes: known files keep their split, their ``video_id`` and their place.

    Doing it again changes nothing, so that a killed update can be started again.

    Args:
        videos: columns video, split, video_id, and others that stay as they are, without a value in new rows.
        changes: of the folder.
        assign: says which split new files are in; those of which it says nothing get no row.
    """
    kept = videos[~videos["video"].isin(list(changes.vanished))]
    kept = kept.assign(video=kept["video"].replace(dict(changes.moved)))
    listed, taken = set(kept["video"]), set(kept["video_id"])
    rows, ids = assign([video for video in changes.new if video not in listed]), []
    for video in rows["video"]:
        ids.append(_free_id(video, taken))
        taken.add(ids[-1])
    rows = rows.assign(video_id=pd.Series(ids, index=rows.index, dtype=str))
    return pd.concat([kept, rows], ignore_index=True).fillna("") if len(rows) else kept.reset_index(drop=True)


def _free_id(video: str, taken: set[str]) -> str:
    """Return a name for a new file that no other has: an old file that was moved here may have its natural one."""
    names = [str(PurePosixPath(video).with_suffix("")), video]
    number = 2
    while names[0] in taken:
        names = names[1:] or [f"{video}~{number}"]
        number += 1
    return names[0]


def update_corpus(project: Path, name: str, tables: Mapping[str, Path], splits: str | None) -> list[str]:
    """Bring the raw tables, the hashes and the stages of a corpus up to what is in its folder; return what to tell the user.

    Args:
        project: the project's folder.
        name: of the corpus.
        tables: new versions of tables, by the names of :data:`TABLES`; others stay as they are, but for those that come from
            the folder, which are read again, and for the paths of files that moved.
        splits: how new files are split; None: as `umt init` was told.

    Raises:
        ConfigError: there is no such corpus, its folder or its tables are not here, its source became one of another kind, or
            DVC refuses.
        TableError: a table lacks a column.
    """
    corpus = existing_corpus(project, name)
    record = corpus.record
    if not corpus.manifest.is_file() or not corpus.videos.is_file():
        raise ConfigError(f"{corpus.raw}: expected the raw tables, found them missing. Fetch them: dvc pull -R data/{name}.")
    assign, _ = read_splits(splits or record.splits)
    given = {kind: table_with(path, *NEEDED[kind]) for kind, path in tables.items()}
    told: list[str] = []
    if record.source:
        folder, told = local_media(record.source, corpus.raw / "media")
        if folder.resolve() != corpus.media.resolve():
            raise ConfigError(
                f"{record.source}: expected what becomes files in {corpus.media}, found that they are in {folder}: shards have "
                "taken the place of videos there, or videos that of shards. Undo this, or make another corpus: umt init."
            )

    with dvc_repo(project) as repo:
        before = TableDataset(str(corpus.manifest)).load()
        found = _scan(corpus, given, before)
        now = HashCache(corpus.hashes).table(corpus.media, list(found.videos["video"]))
        changes = compare_manifests(before, now)
        renames = Renames(list(before["video"]), changes.moved)
        known = TableDataset(str(corpus.videos)).load()
        videos = updated_videos(known, changes, assign)
        # Before the tables are written, for afterwards nothing would tell what followed from the old ones.
        followed = _follow_tables(corpus, (known, videos), _tables_after(corpus, given, found, renames))
        TableDataset(str(corpus.videos)).save(videos)
        if record.captions == "folder" and "captions" not in given:
            _replace(corpus, "captions", found.captions)
        if record.labels == "folder" and "labels" not in given:
            _replace(corpus, "labels", found.labels)
        for kind, path in tables.items():
            _take(corpus, kind, given[kind], path)
        corpus = existing_corpus(project, name)  # tables may lie elsewhere now
        renamed = _rename(corpus, renames)
        # A new file without a split stays new. The manifest comes last: as long as it is the old one, all is done again.
        unsplit = set(changes.new) - set(videos["video"])
        TableDataset(str(corpus.manifest)).save(now[~now["video"].isin(unsplit)])
        put_under_dvc(repo, corpus.raw_files())
    pipelines = pipelines_for({kind for kind in TABLES if len(corpus.load(kind))}, record.prepare)
    write_stages(project, name, pipelines)
    return [
        *told,
        f"{len(now)} files: {changes.counts()}",
        *followed,
        *([f"{renamed} rows of tables name the new paths of moved files"] if renamed else []),
        *([f"{len(unsplit)} new files have no split and are left out: --splits FILE:COLUMN, or 80,10,10"] if unsplit else []),
        f"stages: {', '.join(pipelines)}",
        f"next: git add conf/{name} corpora/{name} data/{name}",
        f"      dvc repro corpora/{name}/dvc.yaml",
    ]


def _replace(corpus: Corpus, kind: str, table: pd.DataFrame) -> None:
    """Write a table that comes from the folder; when it has lost its last row it is removed."""
    path = corpus.table(kind)
    if len(table):
        TableDataset(str(path)).save(table)
    else:
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.dvc").unlink(missing_ok=True)


def _take(corpus: Corpus, kind: str, table: pd.DataFrame, source: Path) -> None:
    """Put a new version of a table in the place of the old one, which may have been of another format."""
    old = corpus.table(kind)
    written = write_table(corpus.raw, kind, labels_of(table) if kind == "labels" else table, source)
    if written is not None and written != old:
        old.unlink(missing_ok=True)
        old.with_name(f"{old.name}.dvc").unlink(missing_ok=True)
        with edited(corpus.conf / "catalog.yml") as catalog:
            catalog[f"raw_{kind}"]["filepath"] = str(written.relative_to(corpus.project))
    if kind in ("captions", "labels"):
        with edited(corpus.conf / RECORD) as record:
            record[kind] = "table"
            if kind == "labels":
                record["class_folders"] = False


class Renames:
    """New paths of moved files, for rows that may write the old ones in any way that the ingestion understands.

    Args:
        listed: all paths before the move.
        moved: new paths by the old ones.
    """

    def __init__(self, listed: Sequence[str], moved: Mapping[str, str]) -> None:
        from umt_pipeline.pipelines.ingestion.media_paths import PathNames

        self._names, self._moved = PathNames.of(listed), moved

    def apply(self, table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
        """Return a table whose column ``video``, if it has one, names the new paths, and the number of rows that changed."""
        if not self._moved or "video" not in table:
            return table, 0
        found, _ = self._names.find(written_paths(table["video"]).tolist())
        new = pd.Series(found, index=table.index, dtype=object).map(self._moved.get)
        return table.assign(video=table["video"].where(new.isna(), new)), int(new.notna().sum())


def _scan(corpus: Corpus, given: Mapping[str, pd.DataFrame], before: pd.DataFrame) -> FolderTables:
    """Read the folder; an image that captions name by the path it had is found where it is now.

    An image that no caption names may be a thumbnail, and only its content tells that it is the one of the captions.
    """
    captions = given.get("captions", corpus.load("captions") if corpus.record.captions == "table" else None)
    class_folders = corpus.record.class_folders and "labels" not in given
    found = scan(corpus.media, captions, class_folders)
    gone = before[~before["video"].isin(list(found.videos["video"]))]
    sizes = set(gone["size_bytes"].astype(int))
    alike = [still for still in found.stills if (corpus.media / still).stat().st_size in sizes]
    if captions is None or not alike:
        return found
    moved = compare_manifests(gone, HashCache(corpus.hashes).table(corpus.media, alike)).moved
    captions, renamed = Renames(list(before["video"]), moved).apply(captions)
    return scan(corpus.media, captions, class_folders) if renamed else found


def _tables_after(
    corpus: Corpus, given: Mapping[str, pd.DataFrame], found: FolderTables, renames: Renames
) -> dict[str, pd.DataFrame]:
    """Return captions and labels as they will be."""
    tables = {}
    for kind, of_folder in {"captions": found.captions, "labels": found.labels}.items():
        kept = of_folder if getattr(corpus.record, kind) == "folder" else corpus.load(kind)
        table, _ = renames.apply(given.get(kind, kept))
        tables[kind] = labels_of(table) if kind == "labels" and len(table) else table
    return tables


def _follow_tables(corpus: Corpus, videos: tuple[pd.DataFrame, pd.DataFrame], after: Mapping[str, pd.DataFrame]) -> list[str]:
    """Let parameters follow from the tables; ``videos`` as they were and as they will be."""
    start = config_loader(corpus.project, "base")["parameters"]
    before = {kind: corpus.load(kind) for kind in after}
    derived = [derived_parameters(tables, listed, start) for tables, listed in zip((before, after), videos, strict=True)]
    gates = [derived_gates(start["gate"], parameters) for parameters in derived]
    return [*follow_tables(corpus.conf, *derived), *follow_gates(corpus.conf, *gates)]


def _rename(corpus: Corpus, renames: Renames) -> int:
    """Let tables that were given name moved files by their new paths; return the number of rows."""
    count = 0
    for kind in TABLES:
        table, rows = renames.apply(corpus.load(kind))
        if rows:
            count += rows
            TableDataset(str(corpus.table(kind))).save(table)
    return count
