"""What `dvc repro` would do about each stage of a dvc.yaml, and why: found from code, parameters, data and the lock.

Nothing here needs data. A file that is missing here, but known, is what the lock says it is: a stage reads what another one
made, or what a .dvc file keeps, and the hashes of both are in git.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.dvc_stages import CODE

UP_TO_DATE, RUNS, WAITS, MISSING, EARLIER = "up to date", "will run", "waits", "missing here", "of earlier code"
# Parameters that are listed of a stage; others are counted.
MAX_LISTED = 4
_CODE = (CODE.partition("/")[0], "studies")

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


@dataclass
class StageState:
    """What `dvc repro` would do about a stage.

    Attributes:
        name: of the stage.
        state: one of the words above.
        why: reasons, for people.
    """

    name: str
    state: str = UP_TO_DATE
    why: list[str] = field(default_factory=list)

    @property
    def would_run(self) -> bool:
        """Whether the stage is not done: it runs, or may have to when one before it has run."""
        return self.state in (RUNS, WAITS)


def stage_states(repo: Any, file: Path) -> list[StageState]:
    """Return the stages of a dvc.yaml, in its order, each with what would happen to it.

    Args:
        repo: from :func:`umt_pipeline.dvc_repo.dvc_repo`.
        file: a dvc.yaml.

    Raises:
        ConfigError: there is no such file.
    """
    stages = _stages(repo, file)
    changes = _Changes(repo, file, stages)
    found: dict[str, StageState] = {}
    for name, stage in stages.items():
        state = found[name] = StageState(name)
        above = [changes.makers[str(dep)] for dep in stage.deps if str(dep) in changes.makers]
        waits = [other for other in dict.fromkeys(above) if other != name and found[other].would_run]
        if _never_run(stage):
            state.state, state.why = RUNS, ["never run"]
        else:
            state.why = [reason.text for reason in changes.of(stage)]
            state.state = RUNS if state.why else UP_TO_DATE
        if waits:
            state.why.append(f"after {', '.join(waits)}, if what it reads of it changes")
            state.state = RUNS if state.state == RUNS else WAITS
        elif state.state == UP_TO_DATE and (gone := [str(out) for out in stage.outs if not out.exists]):
            state.state, state.why = MISSING, [f"{some(gone)}: fetch it (dvc pull), or it is made again"]
    return list(found.values())


def study_states(repo: Any, file: Path) -> list[StageState]:
    """Return the stages of a dvc.yaml of studies.

    A study is a finished work of the code that it was made with, and takes an hour to make again, so that it may be of earlier
    code. It is wrong if its results are not those that the run wrote, or its parameters are others.
    """
    stages = _stages(repo, file)
    changes = _Changes(repo, file, stages)
    found = []
    for name, stage in stages.items():
        reasons = [Reason("command", "never run")] if _never_run(stage) else list(changes.of(stage))
        wrong = [reason.text for reason in reasons if reason.kind not in ("code", "data")]
        earlier = [reason.text for reason in reasons if reason.kind in ("code", "data")]
        found.append(StageState(name, RUNS if wrong else EARLIER if earlier else UP_TO_DATE, wrong or earlier))
    return found


def some(names: list[str]) -> str:
    """Name the first two, and count the others."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _stages(repo: Any, file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{file}: expected stages, found nothing. Write them: umt stages.")
    stages = {stage.name: stage for stage in repo.stage.collect(str(file))}
    order = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    return {name: stages[name] for name in order if name in stages}


def _never_run(stage: Any) -> bool:
    return not any(dep.hash_info for dep in stage.deps)


class _Changes:
    """What DVC's status says about stages, but for what is only not here.

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
                yield Reason("command", "its command changed" if entry in ("changed checksum", "changed command") else entry)
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
    elif how not in ("deleted", "not in cache"):  # what is missing, but known, is fetched
        yield Reason("result", f"{path}, a result, is {how}")


def _parameters(dependency: Any) -> Iterator[Reason]:
    before, now = _flat(dependency.hash_info.value or {}), _flat(dependency.read_params())
    names = [name for name in {**now, **before} if before.get(name, "nothing") != now.get(name, "nothing")]
    for name in names[:MAX_LISTED]:
        yield Reason("parameter", f"parameter {name}: {before.get(name, 'nothing')} became {now.get(name, 'nothing')}")
    if len(names) > MAX_LISTED:
        yield Reason("parameter", f"{len(names) - MAX_LISTED} more parameters of {dependency} changed")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def due(states: Iterable[StageState]) -> bool:
    """Whether `dvc repro` would run anything."""
    return any(state.would_run for state in states)
