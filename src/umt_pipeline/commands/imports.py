"""Data that comes from elsewhere: imported by DVC, or brought by `umt update` from an address."""

from __future__ import annotations

from pathlib import Path

import yaml

from umt_pipeline.commands.corpus import existing_corpus
from umt_pipeline.commands.shell import Shell
from umt_pipeline.dvc_repo import has_remote
from umt_pipeline.tables.staging import is_address


def dvc_files(project: Path, corpus: str | None) -> list[Path]:
    """Return the .dvc files of a corpus; those of the demo (None) are in the numbered layers."""
    folders = [project / "data" / corpus] if corpus else sorted((project / "data").glob("[0-9]*"))
    return sorted(path for folder in folders for path in folder.rglob("*.dvc") if path.is_file())


def imported_files(project: Path, corpus: str | None) -> list[Path]:
    """Return the .dvc files of data that `dvc import` or `dvc import-url` has brought."""
    return [path for path in dvc_files(project, corpus) if yaml.safe_load(path.read_text(encoding="utf-8")).get("deps")]


def has_address(project: Path, corpus: str | None) -> bool:
    """Whether the videos of a corpus come from an address, where `umt update` looks for new ones."""
    source = existing_corpus(project, corpus).record.source if corpus else None
    return source is not None and is_address(source)


def update_imports(project: Path, corpus: str | None, shell: Shell, remedy: str) -> None:
    """Take in what has changed where data comes from.

    Args:
        project: the project's folder.
        corpus: name of a corpus; None: the demo.
        shell: in the project's folder.
        remedy: what to do when a program fails.
    """
    if files := imported_files(project, corpus):
        shell.show("dvc", "update", *_relative(project, files), remedy=remedy)
    if corpus and has_address(project, corpus):
        # The update compares with what there was: with all of it.
        if has_remote(project):
            shell.show("dvc", "pull", *_relative(project, dvc_files(project, corpus)), remedy=remedy)
        shell.show("umt", "update", corpus, remedy=remedy)


def _relative(project: Path, files: list[Path]) -> list[str]:
    return [str(file.relative_to(project)) for file in files]
