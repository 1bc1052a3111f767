"""Other checkouts of the project: a git worktree of a commit, with DVC's cache shared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umt_pipeline.commands.shell import Shell
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.dvc_repo import dvc_repo


def add_worktree(project: Path, commit: str, folder: Path) -> Shell:
    """Check a commit out into a new folder, which shares git's objects, DVC's cache and the local settings of both.

    Raises:
        ConfigError: the folder is there, or git refuses.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: expected a new folder, found one with files. Name another one: --into FOLDER.")
    git = Shell(project)
    # Of a folder that somebody deleted git still has a note, which would stand in the way.
    git.read("git", "worktree", "prune")
    git.read("git", "worktree", "add", "--detach", str(folder), commit)
    shell = Shell(folder)
    if not (folder / ".dvc").is_dir():
        raise ConfigError(f"{commit}: expected a commit of this project, found no folder .dvc in it.")
    local = project / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy(local, folder / ".dvc" / "config.local")
    with dvc_repo(project) as repo:
        cache = repo.cache.local.path
    shell.read("dvc", "config", "--local", "cache.dir", str(Path(cache).parents[1]))
    return shell


def remove_worktree(project: Path, folder: Path) -> None:
    """Delete a worktree with all that is in it."""
    Shell(project).try_read("git", "worktree", "remove", "--force", str(folder))
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def passing_worktree(project: Path) -> Iterator[Path]:
    """Yield a checkout of the current commit that is deleted when the block ends."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "worktree"
        try:
            add_worktree(project, "HEAD", folder)
            yield folder
        finally:
            remove_worktree(project, folder)
