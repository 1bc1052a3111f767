"""The branch of a retraining: which one it is, what belongs on it, and how far an earlier attempt came.

All of this is read from git, where a commit of a retraining says which one it is of: there is no other memory, so that an
attempt that was killed at any moment is gone on with from any clone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from umt_pipeline.commands.shell import Shell
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import sha256_file

ID, BASE, STEP = "Retrain-Id", "Retrain-Base", "Retrain-Step"
JUDGED = "judged"
# Of a base of conf/ a corpus reads the files that it has none of its own of.
_SHARED = ("conf/base/parameters*.yml", "conf/base/globals.yml")
_WRITTEN = ("dvc.lock", "results/*", "corpora/*/dvc.lock", "corpora/*/results/*")
# Where a file that git does not know changes what is computed.
_DECIDES = ("src/*", "conf/*", "pyproject.toml")


@dataclass(frozen=True)
class Attempt:
    """What a commit says of the retraining that made it.

    Attributes:
        id: names the retraining: its commit, inputs and what was asked.
        base: the commit that it started from.
        judged: the gate has spoken, and its verdict is committed.
    """

    id: str
    base: str
    judged: bool


class Branch:
    """The branch of a retraining of one corpus.

    Args:
        shell: in the project's folder, which is the top of its git repository.
        name: of the corpus, or ``demo``.
        corpus: the same; None: the demo.
    """

    def __init__(self, shell: Shell, name: str, corpus: str | None) -> None:
        self._shell, self._name = shell, name
        own = (
            (f"conf/{corpus}/*", f"corpora/{corpus}/*", f"data/{corpus}/*") if corpus else ("dvc.yaml", "dvc.lock", "results/*")
        )
        self._belongs = (*_SHARED, *own, *(() if corpus else ("data/[0-9]*.dvc", "data/[0-9]*.gitignore")))

    def head(self) -> str:
        """Return the current commit."""
        return self._shell.read("git", "rev-parse", "HEAD")

    def current(self) -> str:
        """Return the current branch, or "" where there is none."""
        return self._shell.try_read("git", "symbolic-ref", "--short", "-q", "HEAD") or ""

    def attempt(self, commit: str) -> Attempt | None:
        """Return what a commit says of a retraining; None: it is of none of this corpus."""
        message = self._shell.read("git", "log", "-1", "--format=%B", commit)
        found = dict(re.findall(rf"^({ID}|{BASE}|{STEP}): (\S+)$", message, re.MULTILINE))
        if BASE not in found or found.get(ID, "").rpartition("-")[0] != self._name:
            return None
        return Attempt(found[ID], found[BASE], found.get(STEP) == JUDGED)

    def begun(self, wanted: str | None) -> Attempt | None:
        """Return the retraining whose branch the checkout is on; None: it is on another one.

        The name decides as well as the commit: a branch that somebody makes after a merge begins at the retraining's commit.

        Args:
            wanted: name that somebody chose.
        """
        current = self.current()
        own = current == wanted if wanted else current.startswith(f"retrain/{self._name}-")
        return self.attempt("HEAD") if own else None

    def changed(self) -> list[str]:
        """Return the files that differ from the current commit and belong to the retraining.

        Raises:
            ConfigError: others differ too, which would decide the result and be on no branch.
        """
        told = self._shell.read("git", "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
        states = {entry[3:]: entry[:2] for entry in told.split("\0") if entry}
        mine = [path for path in states if _matches(path, self._belongs)]
        others = [path for path, state in states.items() if path not in mine and (state != "??" or _matches(path, _DECIDES))]
        if others:
            raise ConfigError(
                "umt retrain: expected a checkout without changes but those of parameters and data of "
                f"{self._name}, found also:\n  " + "\n  ".join(sorted(others)) + "\nCommit them, or `git stash` them."
            )
        return sorted(mine)

    def inputs(self) -> list[str]:
        """Return those of :meth:`changed` that stages read, and do not write."""
        return [path for path in self.changed() if not _matches(path, _WRITTEN)]

    def identify(self, asked: Sequence[str]) -> str:
        """Return what names a retraining of the current commit with the inputs that are here.

        Args:
            asked: what else decides it, such as the stage.
        """
        top = self._shell.folder
        inputs = {path: sha256_file(top / path) if (top / path).is_file() else "" for path in self.inputs()}
        content = json.dumps([self.head(), self._name, list(asked), inputs], sort_keys=True)
        return f"{self._name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def find(self, id: str, wanted: str | None, remote: str | None) -> tuple[str, str | None]:
        """Return the name of the branch, and the commit of it that an earlier attempt has made.

        Args:
            id: of the retraining.
            wanted: name that somebody chose.
            remote: where it may be already, of another clone.

        Raises:
            ConfigError: the name that somebody chose is of another branch, or the remote does not answer.
        """
        number = 1
        while True:
            name = wanted or f"retrain/{id}{f'-{number}' if number > 1 else ''}"
            tip = self._tip(name, remote)
            if tip is None or tip == self.head():
                return name, None
            attempt = self.attempt(tip)
            if attempt is not None and attempt.id == id:
                return name, tip
            if wanted:
                raise ConfigError(f"--branch {wanted}: expected a new name, found a branch of other work. Choose another one.")
            number += 1

    def _tip(self, name: str, remote: str | None) -> str | None:
        """Return the last commit of a branch: of the one that is further where there are two."""
        here = self._shell.try_read("git", "rev-parse", "--verify", "--quiet", f"refs/heads/{name}")
        if remote is None or not self._shell.read("git", "ls-remote", "--heads", remote, f"refs/heads/{name}"):
            return here
        self._shell.read("git", "fetch", "--quiet", remote, f"refs/heads/{name}")
        there = self._shell.read("git", "rev-parse", "FETCH_HEAD")
        ahead = here and self._shell.try_read("git", "merge-base", "--is-ancestor", there, here) is not None
        return here if ahead else there

    def go_on(self, name: str, commit: str) -> None:
        """Put the checkout on a branch whose commit an earlier attempt has made.

        What it committed may lie here uncommitted: it is staged first, which git takes for the same.
        """
        if changed := self.changed():
            self._shell.read("git", "add", "--", *changed)
        self._shell.read("git", "switch", "--quiet", "-C", name, commit)

    def commit(self, name: str, subject: str, attempt: Attempt, files: Sequence[str]) -> None:
        """Commit files on the branch. Without any, only the gate's verdict is worth a commit.

        Args:
            name: of the branch.
            subject: of the commit.
            attempt: what it says of the retraining.
            files: relative to the project.
        """
        if not files and not attempt.judged:
            return
        if self.current() != name:
            # A branch of this name that is there has no commit of its own; see `find`.
            self._shell.read("git", "switch", "--quiet", "-C", name)
        if files:
            self._shell.read("git", "add", "--", *files)
        trailers = [f"{ID}: {attempt.id}", f"{BASE}: {attempt.base}", *([f"{STEP}: {JUDGED}"] if attempt.judged else [])]
        message = ("-m", subject, "-m", "\n".join(trailers))
        only = ("--only", "--", *files) if files else ("--allow-empty",)
        self._shell.read("git", "commit", "--quiet", *message, *only)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def top_of_repository(project: Path) -> None:
    """Refuse a project that is not the top of a git repository with a commit.

    Raises:
        ConfigError: it is not.
    """
    top = Shell(project).try_read("git", "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != project.resolve():
        raise ConfigError(f"{project}: expected the top of a git repository, found {top or 'none'}. Run `git init`.")
    if Shell(project).try_read("git", "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise ConfigError(f"{project}: expected a commit to retrain from, found none. Commit the project first.")
