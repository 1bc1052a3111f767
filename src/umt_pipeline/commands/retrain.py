"""`umt retrain`: from changed data, parameters or code to a pull request with new models, numbers and the gate's verdict.

It calls what a person would call, in that person's order, and each step may be done twice: killed anywhere, the next `umt
retrain` goes on. What is expensive is kept by DVC as soon as it is made, what is decided by git.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from umt_pipeline.commands.corpus import existing_corpus
from umt_pipeline.commands.imports import dvc_files, has_address, imported_files, update_imports
from umt_pipeline.commands.overrides import Override, apply_overrides
from umt_pipeline.commands.pull_request import changed_stages, open_pull_request, pull_request_text
from umt_pipeline.commands.retrain_branch import Attempt, Branch, top_of_repository
from umt_pipeline.commands.retrain_models import touched_models
from umt_pipeline.commands.shell import Shell
from umt_pipeline.commands.stage_states import stage_states
from umt_pipeline.commands.worktrees import passing_worktree
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import staged_file
from umt_pipeline.core.locking import try_lock
from umt_pipeline.dvc_repo import dvc_repo, has_remote
from umt_pipeline.dvc_stages import stages_file
from umt_pipeline.registry.names import DEMO

# Exit statuses of `umt promote`: promoted, refused, cannot be told. None of them is a failure of retraining.
VERDICTS = (0, 3, 4)
AGAIN = "What was done is kept: the same `umt retrain` goes on from there."
# A token that may write to the repository is for git and gh, not for the code that trains.
_TOKENS = ("GH_TOKEN", "GITHUB_TOKEN", "GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")


@dataclass(frozen=True)
class Asked:
    """What somebody asked of a retraining.

    Attributes:
        corpus: name of a corpus; None: the demo.
        stage: reproduce this one, with what it needs; None: all.
        overrides: parameters to change.
        update_imports: let DVC look whether imported data has changed where it comes from.
        branch: name of the branch; None: one that tells the retraining from others.
        base: branch that the pull request is for.
        remote: git's name of the repository that the branch goes to.
        push: data goes to DVC's remote and the branch to git's.
        pull_request: gh opens one.
    """

    corpus: str | None = None
    stage: str | None = None
    overrides: tuple[Override, ...] = ()
    update_imports: bool = False
    branch: str | None = None
    base: str = "main"
    remote: str = "origin"
    push: bool = True
    pull_request: bool = True

    @property
    def name(self) -> str:
        """The corpus as the commands take it."""
        return self.corpus or DEMO


def retrain(project: Path, asked: Asked) -> Iterator[str]:
    """Retrain, yielding what is done, for people.

    Raises:
        ConfigError: something that is needed is missing, another retraining is at work, or a step failed.
    """
    require(project, asked)
    with _alone(project):
        yield from _Retraining(project, asked).run()


def require(project: Path, asked: Asked) -> None:
    """Refuse what would fail after the training: before it.

    Raises:
        ConfigError: what is missing, and what to do.
    """
    top_of_repository(project)
    if asked.branch == asked.base:
        raise ConfigError(
            f"--branch {asked.branch}: expected a branch of its own, found the one that the pull request is for (--base). Name "
            "another one, or leave --branch out: what goes to the base is looked at first."
        )
    if asked.corpus:
        existing_corpus(project, asked.corpus)
    shell = Shell(project)
    if asked.push and shell.try_read("git", "remote", "get-url", asked.remote) is None:
        raise ConfigError(
            f"--remote {asked.remote}: expected a remote of git, found {_listed(shell.read('git', 'remote'))}. Name one, "
            f"`git remote add {asked.remote} URL`, or keep everything here: --no-push."
        )
    if asked.push and not has_remote(project):
        raise ConfigError(
            "dvc remote: expected a default one, found none. A pull request would name data and models that nobody else has. "
            "`dvc remote add --default storage URL`, or keep everything here: --no-push."
        )
    if asked.push and asked.pull_request and not shell.has("gh"):
        raise ConfigError(
            "gh: expected GitHub's command line on the PATH, found none. Install it, or push the branch alone: "
            "--no-pull-request."
        )


def preview(project: Path, asked: Asked) -> list[str]:
    """Return what a retraining would do. Nothing is changed: parameters are tried in a checkout that is deleted again."""
    top_of_repository(project)
    shell = Shell(project)
    branch = Branch(shell, asked.name, asked.corpus)
    with passing_worktree(project) as folder:
        for path in branch.changed():
            if (project / path).is_file():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes((project / path).read_bytes())
            else:
                (folder / path).unlink(missing_ok=True)
        told = [f"sets {line}" for line in apply_overrides(folder, asked.overrides)]
        with dvc_repo(folder) as repo:
            states = stage_states(repo, stages_file(folder, asked.corpus))
    if asked.stage is not None:
        # What comes after it does not run.
        states = states[: 1 + next((at for at, state in enumerate(states) if state.name == asked.stage), len(states))]
    due = [state for state in states if state.would_run]
    told += [f"{state.name} {state.state}: {'; '.join(state.why)}" for state in due]
    if asked.update_imports:
        told += [f"dvc update {file.relative_to(project)}" for file in imported_files(project, asked.corpus)]
        told += [f"umt update {asked.name}"] if has_address(project, asked.corpus) else []
    if not due:
        return [*told, "no stage would run"]
    steps = [" ".join(step) for step in (_repro(project, asked), *([_push(project, asked)] if asked.push else []))]
    steps += [f"git commit on a branch retrain/{asked.name}-…", f"umt register {asked.name}", f"umt promote {asked.name} --yes"]
    steps += [f"git push {asked.remote}"] if asked.push else []
    return [*told, *steps, *([f"gh pr create --base {asked.base}"] if asked.push and asked.pull_request else [])]


class _Retraining:
    def __init__(self, project: Path, asked: Asked) -> None:
        self._project, self._asked = project, asked
        self._shell = Shell(project)
        kept = {name: value for name, value in self._shell.environment.items() if name not in _TOKENS}
        self._work = replace(self._shell, environment=kept)
        self._branch = Branch(self._shell, asked.name, asked.corpus)

    def run(self) -> Iterator[str]:
        branch, asked = self._branch, self._asked
        name, attempt = yield from self._begin()
        if inputs := branch.inputs():
            # First, so that every run is one of a commit.
            attempt = replace(attempt, judged=False)
            branch.commit(name, f"Retrain {asked.name}: inputs", attempt, inputs)
        self._work.show(*_repro(self._project, asked), remedy=AGAIN)
        results = branch.changed()
        if branch.head() == attempt.base and not results:
            yield f"Nothing changed: the lock of {asked.name} is that of the code, parameters and data that are here."
            return
        if asked.stage is None:
            self._require_in_step()
        if asked.push:
            self._work.show(*_push(self._project, asked), remedy=f"The data is not where others find it. {AGAIN}")
        if results:
            attempt = replace(attempt, judged=False)
            branch.commit(name, self._subject(attempt), attempt, results)
        yield f"committed on {name}"
        self._send(name)
        if not attempt.judged:
            self._judge(attempt)
            attempt = replace(attempt, judged=True)
            branch.commit(name, f"Verdict on {asked.name}", attempt, branch.changed())
            self._send(name)
        yield from self._propose(name, attempt)

    def _begin(self) -> Generator[str, None, tuple[str, Attempt]]:
        """Bring the inputs up to date; return the branch's name, and what an earlier attempt has done."""
        asked, branch = self._asked, self._branch
        branch.changed()  # refuses what would be on no branch, before anything is touched
        for line in apply_overrides(self._project, asked.overrides):
            yield f"set {line}"
        if asked.update_imports:
            update_imports(self._project, asked.corpus, self._work, AGAIN)
        if (earlier := branch.begun(asked.branch)) is not None:
            yield f"going on with {branch.current()}"
            return branch.current(), earlier
        id = branch.identify([asked.stage or ""])
        name, commit = branch.find(id, asked.branch, asked.remote if asked.push else None)
        if commit is None:
            return name, Attempt(id, branch.head(), judged=False)
        branch.go_on(name, commit)
        yield f"going on with {name}, which an earlier attempt has made"
        earlier = branch.attempt("HEAD")
        assert earlier is not None  # `find` has read it
        return name, earlier

    def _require_in_step(self) -> None:
        with dvc_repo(self._project) as repo:
            states = stage_states(repo, stages_file(self._project, self._asked.corpus))
        wrong = [f"{state.name}: {'; '.join(state.why)}" for state in states if state.would_run]
        if wrong:
            raise ConfigError(
                "dvc.lock: expected every stage to be done, found that one would run again: " + "\n  ".join(wrong)
            )

    def _judge(self, attempt: Attempt) -> None:
        """Register the models that the retraining touched, and let the gate speak about each."""
        asked = self._asked
        file = stages_file(self._project, asked.corpus)
        stages = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        models = touched_models(self._project, asked.corpus, stages, changed_stages(self._shell, file, attempt.base))
        # An earlier attempt may have been elsewhere, and what is up to date was not fetched.
        missing = {path.relative_to(self._project) for model in models for path in model.candidate.files if not path.exists()}
        if missing:
            self._work.show("dvc", "pull", *sorted(map(str, missing)), remedy=AGAIN)
        models = [model for model in models if not model.is_left_out()]
        if models:
            kinds = (option for model in models for option in ("--kind", model.candidate.kind))
            self._work.show("umt", "register", asked.name, *kinds, remedy=AGAIN)
        for model in models:
            if model.gated:
                command = ("umt", "promote", asked.name, "--kind", model.candidate.kind, "--yes")
                self._work.show(*command, fine=VERDICTS, remedy=AGAIN)

    def _send(self, name: str) -> None:
        if self._asked.push:
            self._shell.show("git", "push", "--quiet", self._asked.remote, f"HEAD:refs/heads/{name}", remedy=AGAIN)

    def _subject(self, attempt: Attempt) -> str:
        stages = changed_stages(self._shell, stages_file(self._project, self._asked.corpus), attempt.base)
        return f"Retrain {self._asked.name}: {', '.join(stages) or 'no stage'}"

    def _propose(self, name: str, attempt: Attempt) -> Iterator[str]:
        asked = self._asked
        text = self._project / "data" / ".checkpoints" / "retrain" / f"{attempt.id}.md"
        with staged_file(text) as staged:
            staged.write_text(pull_request_text(self._shell, self._project, asked.corpus, attempt.base), encoding="utf-8")
        if summary := self._shell.environment.get("GITHUB_STEP_SUMMARY"):
            with Path(summary).open("a", encoding="utf-8") as handle:
                handle.write(text.read_text(encoding="utf-8"))
        if asked.push and asked.pull_request:
            yield open_pull_request(self._shell, asked.base, name, self._subject(attempt), text)
        else:
            yield f"what a pull request would say: {text.relative_to(self._project)}"
        yield f"you are on {name}; back with: git switch {asked.base} && dvc checkout"


@contextmanager
def _alone(project: Path) -> Iterator[None]:
    lock = project / "data" / ".checkpoints" / "retrain" / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as handle:
        if not try_lock(handle):
            raise ConfigError(f"{project}: another `umt retrain` is at work here. Wait until it has ended, or end it.")
        yield


def _repro(project: Path, asked: Asked) -> tuple[str, ...]:
    file = str(stages_file(project, asked.corpus).relative_to(project))
    target = f"{file}:{asked.stage}" if asked.stage else file
    # What is not touched by the change is not fetched.
    return ("dvc", "repro", *(["--pull"] if has_remote(project) else []), "--allow-missing", target)


def _push(project: Path, asked: Asked) -> tuple[str, ...]:
    file = str(stages_file(project, asked.corpus).relative_to(project))
    return ("dvc", "push", "--run-cache", file, *(str(path.relative_to(project)) for path in dvc_files(project, asked.corpus)))


def _listed(names: str) -> str:
    return ", ".join(names.split()) or "none"
