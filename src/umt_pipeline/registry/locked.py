"""What DVC and git say of finished stages: whether all that a result came from is locked and committed, or why not.

A stage is locked if it, and every stage that it reads from, is what ``dvc.lock`` says: command, parameters, code, inputs and
results. Inputs that are not on this machine count as unchanged if what makes them is locked with the very hash that was read.
What is not in DVC's cache must be in git: the lock itself, ``dvc.yaml``, code, parameters, lists of raw files, small results.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.git import git
from umt_pipeline.dvc_changes import Changes
from umt_pipeline.dvc_stages import CORPORA

# Files that are named in a message; others are counted.
MAX_NAMED = 5


class LockedStages:
    """The stages of one ``dvc.yaml``.

    Args:
        repo: from :func:`umt_pipeline.dvc_repo.dvc_repo`.
        project: the project's folder.
        corpus: None: the demo.
        file: the ``dvc.yaml``.

    Attributes:
        project: the project's folder.

    Raises:
        ConfigError: there is no such file.
    """

    def __init__(self, repo: Any, project: Path, corpus: str | None, file: Path) -> None:
        if not file.is_file():
            raise ConfigError(f"{file}: expected stages, found nothing. Write them: umt stages {corpus or ''}".rstrip())
        self._repo, self.project, self._corpus, self._file = repo, project.resolve(), corpus, file
        self._stages: dict[str, Any] = {stage.name: stage for stage in repo.stage.collect(str(file))}
        self._makers = {Path(out.fs_path): stage for stage in self._stages.values() for out in stage.outs}
        self._changes: Changes | None = None

    def stage_of(self, path: Path) -> str | None:
        """Return the stage that makes a file or folder, or None."""
        stage = self._makers.get(path.resolve())
        return None if stage is None else stage.name

    def address(self, stage: str) -> str:
        """Return what DVC calls a stage, from the project's folder."""
        return f"{CORPORA}/{self._corpus}/dvc.yaml:{stage}" if self._corpus else stage

    def has_run(self, stage: str) -> bool:
        """Tell whether the lock knows the stage."""
        return any(out.hash_info for out in self._stages[stage].outs)

    def md5(self, path: Path) -> str:
        """Return the hash of a stage's result in the lock; that of a folder ends in ``.dir``."""
        path = path.resolve()
        return str(next(out for out in self._makers[path].outs if Path(out.fs_path) == path).hash_info.value)

    def reasons(self, stages: Iterable[str]) -> list[str]:
        """Return why stages are not locked, for people; nothing if they are."""
        all_stages = self._with_upstream(stages)
        if self._changes is None:
            # Once: it hashes all that was touched since DVC saw it last.
            self._changes = Changes(self._repo, self._file, self._stages)
        found = []
        for name, stage in all_stages.items():
            if not self.has_run(name):
                found.append(f"{self.address(name)} was never run")
                continue
            found += [f"{self.address(name)}: {reason.text}" for reason in self._changes.of(stage)]
        return found or self._uncommitted(all_stages.values())

    def _with_upstream(self, stages: Iterable[str]) -> dict[str, Any]:
        waiting, found = list(stages), {}
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = self._stages[name]
                above = (self.stage_of(Path(dep.fs_path)) for dep in self._stages[name].deps if dep.protocol == "local")
                waiting += [maker for maker in above if maker is not None]
        return {name: found[name] for name in self._stages if name in found}

    def _uncommitted(self, stages: Iterable[Any]) -> list[str]:
        """Return what git has not, of all that the lock stands on and DVC does not keep."""
        lock = self._file.resolve().with_name("dvc.lock")
        paths = {self._file.resolve(), lock}
        for item in (item for stage in stages for item in [*stage.deps, *stage.outs]):
            path = Path(item.fs_path)
            if item.protocol == "local" and path.is_relative_to(self.project) and not self._in_cache(path):
                listed = path.with_name(f"{path.name}.dvc")
                paths.add(listed if listed.exists() else path)
        names = sorted(str(path.relative_to(self.project)) for path in paths)
        changed = [line[3:] for line in git(self.project, "status", "--porcelain", "-uall", "--", *names).splitlines()]
        if not git(self.project, "ls-files", "--", str(lock)) and not changed:
            changed = [f"{lock.relative_to(self.project)} (git ignores it)"]
        if not changed:
            return []
        more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        return [f"not committed: {', '.join(changed[:MAX_NAMED])}{more}. Commit them: git add -A, git commit"]

    def _in_cache(self, path: Path) -> bool:
        maker = self._makers.get(path)
        return maker is not None and any(out.use_cache for out in maker.outs if Path(out.fs_path) == path)

