"""`umt status`: which stages `dvc repro` would run, and why, in words; in a fresh clone too, without any data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from umt_pipeline.commands.corpus import RECORD, Corpus, existing_corpus
from umt_pipeline.commands.imports import has_address, imported_files
from umt_pipeline.commands.init import scan
from umt_pipeline.commands.media_hashes import HashCache
from umt_pipeline.commands.stage_states import MISSING, UP_TO_DATE, StageState, due, some, stage_states, study_states
from umt_pipeline.datasets import TableDataset
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import describe_stages, render_stages, stages_file
from umt_pipeline.registry.names import DEMO
from umt_pipeline.video.probe_cache import FileState

STUDIES = "studies/dvc.yaml"


@dataclass
class Status:
    """What is to say about a dvc.yaml.

    Attributes:
        title: the command that would do something.
        states: of its stages.
        notes: what else there is to know.
        stale: the file is not what the code gives now, so that `dvc repro` would go by an old one.
    """

    title: str
    states: list[StageState]
    notes: list[str] = field(default_factory=list)
    stale: bool = False

    @property
    def in_step(self) -> bool:
        """Whether nothing would run, and the file is that of the code."""
        return not self.stale and not due(self.states)


def project_status(project: Path, name: str | None) -> list[Status]:
    """Return the status of the stages of a corpus, and what changed in its folder; of the demo: also that of the studies.

    Args:
        project: the project's folder.
        name: of a corpus; None: the demo.

    Raises:
        ConfigError: there is no such corpus, or the project is no DVC project.
    """
    corpus, file, studies = existing_corpus(project, name) if name else None, stages_file(project, name), project / STUDIES
    with dvc_repo(project) as repo:
        found = [Status(f"dvc repro {file.relative_to(project)}", stage_states(repo, file))]
        if corpus:
            found[0].notes += folder_news(corpus)
            found[0].notes += [f"{path} was changed by hand: umt update {name}" for path in edited_files(repo, corpus)]
        elif studies.is_file():
            found.append(Status("make claims", study_states(repo, studies)))
    # Of a corpus those that there are: which ones there should be, its raw tables say, which may not be here.
    stages = [state.name for state in found[0].states] if corpus else None
    if file.read_text(encoding="utf-8") != render_stages(describe_stages(project, name, stages), name):
        found[0].stale = True
        again = f"umt stages {name or ''}".rstrip()
        found[0].notes.append(f"{file} is not what pipelines, catalog and imports give now: {again}")
    return found


def due_corpora(project: Path, imports: bool = False) -> list[str]:
    """Return the corpora of which a stage would run, by the names that `umt retrain` takes.

    Args:
        project: the project's folder.
        imports: also those whose data comes from elsewhere, where it may have changed.
    """
    named = [None, *sorted(path.parent.name for path in (project / "conf").glob(f"*/{RECORD}"))]
    # A project may keep its own corpora alone.
    corpora = [name for name in named if stages_file(project, name).is_file()]
    with dvc_repo(project) as repo:
        found = {name for name in corpora if due(stage_states(repo, stages_file(project, name)))}
    if imports:
        found |= {name for name in corpora if imported_files(project, name) or has_address(project, name)}
    return [name or DEMO for name in corpora if name in found]


def print_status(console: Console, project: Path, name: str | None) -> bool:
    """Print a table of the stages, and what changed in a corpus' folder; see :func:`project_status`.

    Returns:
        Whether nothing would run.
    """
    found = project_status(project, name)
    for status in found:
        table = Table("stage", "", "why", title=status.title, title_justify="left")
        for state in status.states:
            table.add_row(state.name, state.state, "\n".join(state.why))
        console.print(table)
        for line in status.notes:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    return all(status.in_step for status in found)


def markdown_status(found: list[Status]) -> str:
    """Return what a pull request shows of :func:`project_status`: the stages that are not up to date, and a count of others."""
    lines = []
    for status in found:
        told = [state for state in status.states if state.state not in (UP_TO_DATE, MISSING)]
        lines += [f"### `{status.title}`", ""]
        if told:
            lines += ["| stage | | why |", "| --- | --- | --- |"]
            lines += [f"| {state.name} | {state.state} | {_cell(state.why)} |" for state in told]
            lines.append("")
        quiet = len(status.states) - len(told)
        lines += [f"{quiet} of {len(status.states)} stages {'is' if quiet == 1 else 'are'} up to date.", ""]
        lines += [line for note in status.notes for line in (note, "")]
    return "\n".join(lines)


def _cell(texts: list[str]) -> str:
    return "<br>".join(text.replace("|", "\\|").replace("<", "&lt;") for text in texts)


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
    lines = [f"{len(paths)} files in {corpus.media} are {word}: {some(paths)}" for word, paths in told.items() if paths]
    if new and gone:
        lines.append("of the new and vanished ones some may be the same, moved: the update finds out")
    return [*lines, *([f"to take this in: umt update {corpus.name}"] if lines else [])]
