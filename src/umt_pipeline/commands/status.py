"""`umt status`: which stages `dvc repro` would run, and why, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.corpus import Corpus, existing_corpus
from umt_pipeline.commands.init import scan
from umt_pipeline.commands.media_hashes import HashCache
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import describe_stages, render_stages, stages_file
from umt_pipeline.video.probe_cache import FileState

UP_TO_DATE, RUNS, WAITS, MISSING = "up to date", "will run", "waits", "missing here"
# Parameters that are listed of a stage; others are counted.
MAX_LISTED = 4


@dataclass
class StageState:
    """What `dvc repro` would do about a stage.

    Attributes:
        name: of the stage.
        state: one of the four words above.
        why: reasons, for people.
    """

    name: str
    state: str = UP_TO_DATE
    why: list[str] = field(default_factory=list)


def print_status(console: Console, project: Path, name: str | None) -> None:
    """Print a table of the stages, and what changed in a corpus' folder.

    Args:
        console: to print on.
        project: the project's folder.
        name: of a corpus; None: the demo.

    Raises:
        ConfigError: there is no such corpus, or the project is no DVC project.
    """
    corpus, file = existing_corpus(project, name) if name else None, stages_file(project, name)
    with dvc_repo(project) as repo:
        states = stage_states(repo, file)
        news = folder_news(corpus) if corpus else []
        news += [f"{path} was changed by hand: umt update {name}" for path in edited_files(repo, corpus)] if corpus else []
    table = Table("stage", "", "why", title=f"dvc repro {file.relative_to(project)}", title_justify="left")
    for state in states:
        table.add_row(state.name, state.state, "\n".join(state.why))
    console.print(table)
    for line in news:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    stages = [state.name for state in states]
    if file.read_text(encoding="utf-8") != render_stages(describe_stages(project, name, stages), name):
        again = f"umt stages {name or ''}".rstrip()
        console.print(f"{file} is not what pipelines, catalog and imports give now: {again}", soft_wrap=True, highlight=False)


def stage_states(repo: Any, file: Path) -> list[StageState]:
    """Return the stages of a dvc.yaml, in its order, each with what would happen to it.

    Args:
        repo: from :func:`umt_pipeline.dvc_repo.dvc_repo`.
        file: a dvc.yaml.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: expected stages, found nothing. Write them: umt stages.")
    stages = {stage.name: stage for stage in repo.stage.collect(str(file))}
    told = repo.status(targets=[str(file)])
    order = [name for name in yaml.safe_load(file.read_text(encoding="utf-8"))["stages"] if name in stages]
    makers = {str(out): name for name, stage in stages.items() for out in stage.outs}
    found: dict[str, StageState] = {}
    for name in order:
        stage = stages[name]
        state = found[name] = StageState(name)
        above = [makers[str(dep)] for dep in stage.deps if str(dep) in makers and makers[str(dep)] != name]
        waits = [other for other in dict.fromkeys(above) if found[other].state in (RUNS, WAITS)]
        if not any(dep.hash_info for dep in stage.deps):
            state.state, state.why = RUNS, ["never run"]
        else:
            state.why = [reason for entry in told.get(stage.addressing, []) for reason in _reasons(entry, stage, makers)]
            state.state = RUNS if state.why else UP_TO_DATE
        if state.state == UP_TO_DATE and (gone := [str(out) for out in stage.outs if not out.exists]):
            state.state, state.why = MISSING, [f"{_some(gone)}: fetch it (dvc pull), or it is made again"]
        if waits:
            state.why.append(f"after {', '.join(waits)}, if what it reads of it changes")
            state.state = RUNS if state.state == RUNS else WAITS
    return list(found.values())


def _reasons(entry: Any, stage: Any, makers: Mapping[str, str]) -> Iterator[str]:
    """Put an entry of DVC's status into words."""
    if isinstance(entry, str):
        yield {"changed checksum": "its command changed"}.get(entry, entry)
        return
    for path, how in entry.get("changed deps", {}).items():
        if isinstance(how, dict):
            yield from _parameters(next(dep for dep in stage.deps if str(dep) == path))
        elif how == "deleted":
            yield f"{path} is made by {makers[path]}" if path in makers else f"{path} is missing"
        else:
            yield f"{path} changed" if how == "modified" else f"{path} is {how}"
    for path, how in entry.get("changed outs", {}).items():
        # What is missing, but known, is fetched: no reason to run.
        if how not in ("deleted", "not in cache"):
            yield f"{path}, a result, was changed by hand" if how == "modified" else f"{path}, a result, is {how}"


def _parameters(dependency: Any) -> Iterator[str]:
    before, now = _flat(dependency.hash_info.value or {}), _flat(dependency.read_params())
    names = [name for name in {**now, **before} if before.get(name, "nothing") != now.get(name, "nothing")]
    for name in names[:MAX_LISTED]:
        yield f"parameter {name}: {before.get(name, 'nothing')} became {now.get(name, 'nothing')}"
    if len(names) > MAX_LISTED:
        yield f"{len(names) - MAX_LISTED} more parameters of {dependency} changed"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def edited_files(repo: Any, corpus: Corpus) -> list[str]:
    """Return the raw tables that were changed by hand since DVC was told of them."""
    kept = {str(path.relative_to(corpus.project)): path for path in corpus.raw_files()}
    kept = {name: path for name, path in kept.items() if path.exists() and path.with_name(f"{path.name}.dvc").is_file()}
    told = repo.status(targets=[f"{path}.dvc" for path in kept.values() if path.is_file()])
    changed = {_relative(corpus.project, stage) for stage in told}
    return [name for name in kept if f"{name}.dvc" in changed]


def _relative(project: Path, stage: str) -> str:
    # DVC's names are relative to the current folder.
    return str(Path(stage).resolve().relative_to(project.resolve()))


def folder_news(corpus: Corpus) -> list[str]:
    """Return what came, went or changed in the folder of media since the last update, without reading what is new."""
    if not corpus.media.is_dir():
        return [f"{corpus.media} is not here: stages that are up to date do not need it"]
    if not corpus.manifest.is_file():
        return [f"{corpus.manifest} is not here: dvc pull -R data/{corpus.name} corpora/{corpus.name}"]
    captions = corpus.load("captions") if corpus.record.captions == "table" else None
    found = scan(corpus.media, captions, corpus.record.class_folders)
    listed = TableDataset(str(corpus.manifest)).load().astype({"size_bytes": int}).set_index("video")
    states = {video: FileState.of(corpus.media / video) for video in found.videos["video"]}
    sizes = {video: state.size for video, state in states.items() if state}  # others vanished since the folder was read
    videos, cache = set(sizes), HashCache(corpus.hashes)
    new, gone = videos - set(listed.index), set(listed.index) - videos
    known = sorted(videos & set(listed.index))
    changed = {video for video in known if sizes[video] != listed.at[video, "size_bytes"]}
    # Of the same size, but touched: read them. Where nothing is remembered, as in a fresh clone, the size has to do.
    touched = [video for video in known if video not in changed and cache.is_touched(corpus.media, video)]
    hashes = cache.table(corpus.media, touched).set_index("video")["sha256"]
    changed |= {video for video in touched if hashes[video] != listed.at[video, "sha256"]}
    # And what was hashed since the last update, by an earlier status.
    changed |= {video for video in known if (seen := cache.known(corpus.media, video)) and seen != listed.at[video, "sha256"]}
    told = {"new": sorted(new), "changed": sorted(changed), "vanished": sorted(gone)}
    lines = [f"{len(paths)} files in {corpus.media} are {word}: {_some(paths)}" for word, paths in told.items() if paths]
    if new and gone:
        lines.append("of the new and vanished ones some may be the same, moved: the update finds out")
    return [*lines, *([f"to take this in: umt update {corpus.name}"] if lines else [])]
