"""What changed of a stage since ``dvc.lock`` was written, in words.

Nothing here needs data. A file that is missing here, but known, is what the lock says it is: a stage reads what another one
made, or what a .dvc file keeps, and the hashes of both are in git.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from umt_pipeline.core.nested import dotted

# Parameters that are listed of a stage; others are counted.
MAX_LISTED = 4
_CODE = ("src", "studies")
_WORDS = {
    "changed checksum": "its command changed",
    "changed command": "its command changed",
    "always changed": "it runs each time",
}

Kind = Literal["command", "code", "data", "parameter", "result"]


@dataclass(frozen=True)
class Reason:
    """Why a stage would run.

    Attributes:
        kind: what changed.
        text: the same for people.
    """

    kind: Kind
    text: str


class Changes:
    """What DVC's status says about stages, but for what is only not here.

    Args:
        repo: from :func:`umt_pipeline.dvc_repo.dvc_repo`.
        file: a dvc.yaml.
        stages: its stages by name.

    Attributes:
        makers: names of stages by the paths of what they make.
    """

    def __init__(self, repo: Any, file: Path, stages: Mapping[str, Any]) -> None:
        self.makers = {str(out): name for name, stage in stages.items() for out in stage.outs}
        self._told = repo.status(targets=[str(file)], check_updates=False)
        self._known = {out.fs_path: out.hash_info for out in repo.index.outs}

    def of(self, stage: Any) -> Iterator[Reason]:
        """Yield the reasons for which a stage runs."""
        for entry in self._told.get(stage.addressing, []):
            if isinstance(entry, str):
                yield Reason("command", _WORDS.get(entry, entry))
                continue
            for path, how in entry.get("changed deps", {}).items():
                yield from self._dependency(next(dep for dep in stage.deps if str(dep) == path), path, how)
            for path, how in entry.get("changed outs", {}).items():
                yield from _result(next(out for out in stage.outs if str(out) == path), path, how)

    def _dependency(self, dep: Any, path: str, how: Any) -> Iterator[Reason]:
        if isinstance(how, dict):
            yield from _parameters(dep)
            return
        kind: Kind = "code" if _is_code(dep) else "data"
        if how != "deleted":
            yield Reason(kind, f"{path} changed" if how == "modified" else f"{path} is {how}")
        elif dep.fs_path not in self._known:
            yield Reason(kind, f"{path} is missing")
        elif self._known[dep.fs_path] != dep.hash_info:
            maker = f", as {self.makers[path]} has made it anew" if path in self.makers else ""
            yield Reason(kind, f"{path} changed{maker}")


def _is_code(dep: Any) -> bool:
    path, root = Path(dep.fs_path), Path(dep.repo.root_dir)
    return path.is_relative_to(root) and path.relative_to(root).parts[0] in _CODE


def _result(out: Any, path: str, how: str) -> Iterator[Reason]:
    if how == "modified":
        yield Reason("result", f"{path}, a result, was changed by hand")
    elif how == "deleted" and not out.use_cache:
        yield Reason("result", f"{path}, a result that git keeps, is missing (git restore {path})")
    elif how == "not in cache":
        # Then DVC does not look whether what is here is what was locked.
        if out.exists and out.changed_checksum():
            yield Reason("result", f"{path}, a result, was changed by hand")
    elif how != "deleted":  # what is missing, but known, is fetched
        yield Reason("result", f"{path}, a result, is {how}")


def _parameters(dependency: Any) -> Iterator[Reason]:
    before, now = (
        {name: list(value) if isinstance(value, tuple) else value for name, value in dotted(values).items()}
        for values in (dependency.hash_info.value or {}, dependency.read_params())
    )
    names = [name for name in {**now, **before} if before.get(name, "nothing") != now.get(name, "nothing")]
    for name in names[:MAX_LISTED]:
        yield Reason("parameter", f"parameter {name}: {before.get(name, 'nothing')} became {now.get(name, 'nothing')}")
    if len(names) > MAX_LISTED:
        yield Reason("parameter", f"{len(names) - MAX_LISTED} more parameters of {dependency} changed")
