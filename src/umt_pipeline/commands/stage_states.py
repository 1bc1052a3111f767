"""What `dvc repro` would do about each stage of a dvc.yaml, and why: found from code, parameters, data and the lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.dvc_changes import Changes, Reason

UP_TO_DATE, RUNS, WAITS, MISSING, EARLIER = "up to date", "will run", "waits", "missing here", "of earlier code"


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
    changes = Changes(repo, file, stages)
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
    changes = Changes(repo, file, stages)
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


def due(states: Iterable[StageState]) -> bool:
    """Whether `dvc repro` would run anything."""
    return any(state.would_run for state in states)
