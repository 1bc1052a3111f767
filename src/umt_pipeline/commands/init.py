"""`umt init`: a corpus of somebody's own videos as a DVC project: configuration, raw tables, stages."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pandas as pd
import yaml

from umt_pipeline.commands.corpus import (
    NEEDED,
    RECORD,
    TABLES,
    Corpus,
    CorpusRecord,
    as_files,
    edited,
    pipelines_for,
    table_with,
    written_paths,
)
from umt_pipeline.commands.derived import derived_gates, derived_parameters
from umt_pipeline.commands.media_hashes import HashCache
from umt_pipeline.commands.splits import SPLITS, Assign, read_splits
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import staged_file, staged_folder
from umt_pipeline.datasets import TableDataset
from umt_pipeline.demo_world import teacher as demo_teacher
from umt_pipeline.dvc_repo import dvc_repo, put_under_dvc
from umt_pipeline.dvc_stages import CORPORA, write_stages
from umt_pipeline.project_config import config_loader, environments
from umt_pipeline.tables.folders import FolderTables, read_folder
from umt_pipeline.tables.media import local_media
from umt_pipeline.tables.sidecars import SIDECAR_SUFFIXES
from umt_pipeline.tables.staging import is_address
from umt_pipeline.video.media import is_image

TABLE_TYPE = "umt_pipeline.datasets.RawTableDataset"
FOLDER_TYPE = "umt_pipeline.datasets.FolderDataset"


@dataclass(frozen=True)
class Given:
    """What a user gives to `umt init`.

    Attributes:
        videos: a folder, or an address of one such as ``s3://bucket/videos``, also of WebDataset shards; video files at any
            depth are taken, and images that have a caption: others may be thumbnails.
        tables: files by the names of :data:`TABLES`: captions (columns video, caption), labels (video, label and, optionally,
            task), questions and boxes. Paths in them are relative to ``videos``. Without captions or labels those of the folder
            are taken: sidecar files and, if so said, folders that are named after classes.
        splits: see :func:`umt_pipeline.commands.splits.read_splits`.
        media: ``add``: copy the media into the project and let DVC keep them; ``leave``: let them be where they are.
        class_folders: the first folder that a video lies in, below ``videos``, is its label.
        prepare: the videos are transcoded once, before anything else (pipeline ``prepare``).
        like: an environment whose parameters to start from; None: the demo's.
    """

    videos: str | Path
    tables: Mapping[str, Path] = field(default_factory=dict)
    splits: str = "80,10,10"
    media: Literal["add", "leave"] = "leave"
    class_folders: bool = False
    prepare: bool = False
    like: str | None = None


def init_corpus(project: Path, name: str, given: Given) -> list[str]:
    """Write ``conf/NAME``, ``data/NAME/01_raw`` and ``corpora/NAME/dvc.yaml``; return what to tell the user.

    Nothing is written unless every input is in order, but for media that must be brought here to be read; they stay.

    Args:
        project: the project's folder.
        name: of the corpus.
        given: what it is made of.

    Raises:
        ConfigError: the name is taken or unusable, the folder holds no video, the shares are not three numbers, a table of
            splits names no file, media would be copied over files, there is no such environment, or the project is no DVC
            project.
        TableError: a table lacks a column.
    """
    corpus = Corpus(project, name)
    _require_free(corpus)
    start = _start_parameters(project, given.like)
    with dvc_repo(project):
        pass  # It is one: asked before anything is read or brought here, which may take hours.
    if given.class_folders and "labels" in given.tables:
        raise ConfigError("--class-folders: expected no --labels beside it, for both say what the labels are. Leave one out.")
    assign, splits = read_splits(given.splits)
    tables = {kind: table_with(path, *NEEDED[kind]) for kind, path in given.tables.items()}
    media, told = local_media(str(given.videos), corpus.raw / "media")
    folder = None if is_address(str(given.videos)) else Path(given.videos).resolve()
    brought = media.resolve() != folder
    if brought and given.media == "add" and media != corpus.raw / "media":
        raise ConfigError(f"{given.videos}: expected --media leave for shards from elsewhere: DVC would keep them twice.")
    found = scan(media, tables.get("captions"), given.class_folders)
    if found.videos["video"].map(is_image).all():
        raise ConfigError(f"{given.videos}: expected videos, found images alone. They are trained on beside videos.")
    tables = {"captions": found.captions, "labels": labels_of(tables.get("labels", found.labels)), **_rest(tables)}
    files = list(found.videos["video"])
    videos = _table_of(files, assign, given)
    named = {kind: table.assign(video=as_files(table["video"], files)) for kind, table in tables.items() if len(table)}
    record = CorpusRecord(
        media=given.media,
        splits=splits,
        captions="table" if "captions" in given.tables else "folder",
        labels="table" if "labels" in given.tables else "folder",
        class_folders=given.class_folders,
        source=(str(given.videos) if folder is None else str(folder)) if brought else None,
        prepare=given.prepare,
    )
    with dvc_repo(project) as repo:
        media = media.resolve()
        if given.media == "add":
            media = copy_media(media, corpus.raw / "media", list(videos["video"]))
        TableDataset(str(corpus.videos)).save(videos)
        written = {kind: write_table(corpus.raw, kind, tables[kind], given.tables.get(kind)) for kind in tables}
        manifest = HashCache(corpus.hashes).table(media, list(videos["video"]))  # others stay new for `umt update`
        TableDataset(str(corpus.manifest)).save(manifest)
        copies = [media] if given.media == "add" else []
        put_under_dvc(repo, [corpus.videos, corpus.manifest, *(path for path in written.values() if path), *copies])
        with staged_folder(corpus.conf) as staged:
            write_overlay(project, corpus, staged, _Overlay(media, written, record, start, named, videos))
    names = pipelines_for(set(named), given.prepare)
    write_stages(project, name, names)
    return [*told, *_counted(found, videos, named, given), *_left_out(names), *_next(project, corpus)]


def _require_free(corpus: Corpus) -> None:
    project, name = corpus.project, corpus.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("base", "local", "recipes"):
        raise ConfigError(f"name: expected lower-case letters, digits and _, not base or local; found '{name}'.")
    # Tables of an earlier corpus would be taken for those of this one.
    made = [corpus.conf, project / CORPORA / name, *sorted(corpus.raw.glob("*.dvc"))]
    if there := [str(path.relative_to(project)) for path in made if path.exists()]:
        raise ConfigError(
            f"{name}: expected the name of no corpus; exists already: {', '.join(there)}. Delete conf/{name}, data/{name} "
            f"(move videos of yours out of it first) and {CORPORA}/{name}, or choose another name."
        )


def _table_of(files: Sequence[str], assign: Assign, given: Given) -> pd.DataFrame:
    from umt_pipeline.pipelines.ingestion.listing import video_ids

    videos = assign(files)
    if videos.empty:
        raise ConfigError(
            f"--splits {given.splits}: expected the splits of files of {given.videos}, such as '{files[0]}'; found none. "
            "Write paths relative to the folder, or give shares such as 80,10,10."
        )
    return videos.assign(video_id=pd.Series(video_ids(list(videos["video"])), dtype=str))


def _start_parameters(project: Path, like: str | None) -> dict[str, Any]:
    known = environments(project / "conf")
    if like is not None and like not in known:
        raise ConfigError(f"--like: expected a folder of {project / 'conf'}, one of {', '.join(known)}; found '{like}'.")
    loader = config_loader(project, like or "base")
    own = loader.own_parameters() if like else {}
    return {
        block: values if block in own or not isinstance(values, Mapping) else _in_any_precision(values)
        for block, values in loader["parameters"].items()
    }


def _in_any_precision(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of the demo that ask for ``auto``: its own are pinned to fp32, for its published numbers."""
    return {
        key: _in_any_precision(value) if isinstance(value, Mapping) else "auto" if key == "precision" else value
        for key, value in values.items()
    }


def scan(folder: Path, captions: pd.DataFrame | None, class_folders: bool) -> FolderTables:
    """Read a folder; with a table of captions in place of the sidecar files, whose paths may be in another Unicode form."""
    from umt_pipeline.pipelines.ingestion.media_paths import MediaFiles

    if captions is None:
        return read_folder(folder, class_folders)
    named, _ = MediaFiles(folder).match(list(dict.fromkeys(written_paths(captions["video"]))))
    found = read_folder(folder, class_folders, frozenset(named))
    return replace(found, captions=captions)


def labels_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of labels with its column ``task``, which one of a single task need not have."""
    if "task" in table:
        return table
    columns = list(table.columns)
    return table.assign(task="label")[[columns[0], "task", *columns[1:]]]


def copy_media(folder: Path, target: Path, videos: list[str]) -> Path:
    """Copy media and their sidecar files to where DVC will keep them; return that folder.

    Copies and not links: DVC makes what it keeps read-only, and the originals stay the user's.

    Raises:
        ConfigError: there are files already where they would be copied to, or a file cannot be read.
    """
    if folder == target.resolve():
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{target}: expected an empty folder to copy to, found files. Move them away, or name it as --videos."
        )
    with staged_folder(target) as staged:
        for source in [*(folder / video for video in videos), *_sidecars(folder, videos)]:
            copy = staged / source.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(source, copy)
            except OSError as error:
                raise ConfigError(
                    f"{source}: expected a file to copy, found that it cannot be read: {error.strerror or error}. Make it "
                    "readable, take it out of the folder, or use --media leave."
                ) from error
    return target


def _sidecars(folder: Path, videos: Sequence[str]) -> Iterator[Path]:
    stems: dict[PurePosixPath, set[str]] = defaultdict(set)
    for video in map(PurePosixPath, videos):
        stems[video.parent].add(video.stem)
    for parent, names in stems.items():
        for path in sorted((folder / parent).iterdir()):
            if path.suffix.lower() in SIDECAR_SUFFIXES and path.stem in names and path.is_file():
                yield path


def write_table(raw: Path, kind: str, table: pd.DataFrame, source: Path | None) -> Path | None:
    """Put a table into the folder of raw tables, as the user wrote it or made anew; None: it has no row, nothing is written."""
    if source is None:
        if table.empty:
            return None
        path = raw / f"{kind}{TABLES[kind]}"
        TableDataset(str(path)).save(table)
        return path
    path = raw / f"{kind}{source.suffix.lower()}"
    if kind == "labels":
        TableDataset(str(path)).save(table)
    elif source.resolve() != path.resolve():
        with staged_file(path) as staged:
            shutil.copyfile(source, staged)
    return path


def _rest(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {kind: tables.get(kind, pd.DataFrame()) for kind in ("questions", "boxes")}


@dataclass(frozen=True)
class _Overlay:
    """What decides the configuration of a new corpus.

    Attributes:
        media: the folder of media.
        files: where each table was written; None: it has no row.
        record: what was decided.
        start: the parameters to start from.
        tables: those that have rows, with paths as the files are called.
        videos: columns video, split.
    """

    media: Path
    files: Mapping[str, Path | None]
    record: CorpusRecord
    start: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    videos: pd.DataFrame


def write_overlay(project: Path, corpus: Corpus, conf: Path, overlay: _Overlay) -> None:
    """Fill the folder of a corpus' configuration.

    Parameter files hold all values, and no interpolation: what DVC sees is then what runs, ``-S`` can change any of them, and
    the demo's may change without that the corpus does.
    """
    raw, root = corpus.raw.relative_to(project), project.resolve()
    media = raw / "media" if overlay.record.media == "add" else overlay.media
    media = media.relative_to(root) if media.is_relative_to(root) else media
    original: dict[str, Any] = {"type": FOLDER_TYPE, "filepath": "${globals:media}"}
    if overlay.record.media == "leave":
        original["metadata"] = {"dvc": {"instead": str(raw / corpus.manifest.name)}}
    if overlay.record.prepare:
        prepared = {"type": FOLDER_TYPE, "filepath": f"data/{corpus.name}/02_intermediate/media"}
        catalog: dict[str, Any] = {"source_media": original, "raw_media": prepared}
    else:
        catalog = {"raw_media": original}
    catalog["raw_videos"] = {"type": TABLE_TYPE, "filepath": str(raw / corpus.videos.name)}
    for kind, suffix in TABLES.items():
        name = getattr(overlay.files.get(kind), "name", f"{kind}{suffix}")
        catalog[f"raw_{kind}"] = {"type": TABLE_TYPE, "filepath": str(raw / name), "optional": True}
    # Without captions there is no stage 2, and tasks start from stage 1.
    for model, metadata in {"stage2": {"metadata": {"mlflow": {"model": "stage2"}}}, "stage2_control": {}}.items():
        # As conf/base writes paths, so that a run can put all that it makes elsewhere: other seeds are trained beside the data.
        path = f"${{runtime_params:data,${{globals:data}}}}/06_models/{model}"
        catalog[f"{model}_model"] = {"type": FOLDER_TYPE, "filepath": path, "optional": True, **metadata}
    settings = {"data": f"data/{corpus.name}", "results": f"{CORPORA}/{corpus.name}/results", "media": str(media)}
    header = f"# Written by `umt init {corpus.name}`; change it as you like.\n"
    for file_name, content in {"globals.yml": settings, "catalog.yml": catalog, RECORD: overlay.record.model_dump()}.items():
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
        (conf / file_name).write_text(header + text, encoding="utf-8")

    derived = derived_parameters(overlay.tables, overlay.videos, overlay.start)
    own = _own_parameters(corpus, derived, overlay.start)
    for base in sorted((project / "conf" / "base").glob("parameters*.yml")):
        if base.stem == "parameters_demo_corpus":
            continue
        file = conf / base.name
        shutil.copyfile(base, file)
        with edited(file) as blocks:
            for block in list(blocks):
                _set(blocks, {block: overlay.start[block]})
                _set(blocks, {block: own.get(block, {})} if block in own else {})
            if "gate" in blocks:
                # Names are the keys here: those of the demo go.
                blocks["gate"] = derived_gates(overlay.start["gate"], derived)
        file.write_text(header + file.read_text(encoding="utf-8"), encoding="utf-8")


def _set(content: Any, values: Mapping[str, Any]) -> None:
    """Write values into a YAML document; what is equal already stays as it is written."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict) and content[key]:
            _set(content[key], value)
        elif key not in content or content[key] != value:
            content[key] = value


def _own_parameters(corpus: Corpus, derived: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what follows from the corpus. Not of others are the demo's teacher, sentences, words, groups of labels."""
    # Real captions are longer than the demo's and of more words: its sizes would cut most of them.
    small = {**derived["teacher_features"]["train_small"], "vocab_size": 8192, "context_length": 32}
    from umt_pipeline.models.teacher import TRAIN_SMALL  # brings torch, which nobody else here needs

    source = start["teacher_features"]["teacher"]["source"]
    teacher = {"source": TRAIN_SMALL if source == demo_teacher.SOURCE else source}
    bert = {"vocab_size": 8192, "max_length": 32, "max_positions": 64}
    # The first word, not the text: real questions are hardly ever worded alike.
    # Real videos are further from what stage 2 saw than the demo's, and their views are to be enlarged.
    trained = {"freeze_video": False, "train": {"layer_decay": 0.5}}
    asked = {"fine_tuning": {"max_question_length": 25, **trained}, "test": {"types": "first_word"}}
    columns = {"video": "video", "split": "split", "corpus": None, "media": None, "video_id": "video_id"}
    ingestion = {"dataset_id": corpus.name, "splits": list(SPLITS), "columns": {"videos": columns}}
    return {
        "teacher_features": {"dataset_id": corpus.name, "teacher": teacher, "train_small": small},
        "stage2": {"text": bert},
        "ingestion": ingestion,
        "evaluation": {"retrieval_sets": ["test"], "rerank_weight": "match", **derived["evaluation"]},
        "retrieval": {"test": {"sets": ["test"], "rerank_weight": "match"}},
        "detection": {"groups": None, **derived["detection"]},
        "question_answering": {"test_splits": ["test"], **asked},
        "classification": derived["classification"],
    }


def _counted(found: FolderTables, videos: pd.DataFrame, tables: Mapping[str, pd.DataFrame], given: Given) -> list[str]:
    counts = videos["split"].value_counts()
    listed = set(found.videos["video"])
    lines = [f"{len(listed)} files: " + ", ".join(f"{split} {counts.get(split, 0)}" for split in SPLITS)]
    if unsplit := len(listed) - len(videos):
        lines.append(f"{unsplit} files of which {given.splits} names no split are left out")
    lines += [f"{count} files are left out: {reason}" for reason, count in found.left_out.items()]
    for kind, table in tables.items():
        named = int(table["video"].isin(listed).sum())
        origin = "" if kind in given.tables else ", found in the folder"
        lines.append(f"{named} of {len(table)} {kind} name one of these files{origin}")
    lines += [f"warning: no video in split '{split}'; change --splits" for split in SPLITS if not counts.get(split, 0)]
    return lines


def _left_out(names: list[str]) -> list[str]:
    lines = []
    if "stage2" not in names:
        lines.append("no captions: stage2, retrieval and evaluation are left out (--captions, or files x.txt beside x.mp4)")
        lines.append("no captions: the small teacher learns from labels, which each clip needs; or take a published teacher")
    if "classification" not in names:
        lines.append("no labels: classification is left out (--labels, or --class-folders)")
    missing = [task for task in ("question_answering", "detection") if task not in names]
    return [*lines, *([f"no questions or boxes for {', '.join(missing)}: left out"] if missing else [])]


def _next(project: Path, corpus: Corpus) -> list[str]:
    name = corpus.name
    folders = [corpus.conf, corpus.raw, project / CORPORA / name]
    return [
        "written: " + ", ".join(str(path.relative_to(project)) for path in folders),
        f"next: git add conf/{name} corpora/{name} data/{name}",
        f"      git commit -m 'Corpus {name}'",
        f"      dvc repro corpora/{name}/dvc.yaml",
        f"      umt summary --env {name}",
        f"any time: umt status {name}, and umt update {name} when files came, went or changed",
    ]
