"""`umt reproduce`: the code, lock and data of a run of MLflow in a checkout of their own, and the run again.

A run says which commit it was of and the md5 of everything that it read. The commit's lock may be older than that: it is
committed after the run. So what the run read is fetched by its md5, wherever DVC has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from umt_pipeline.commands.corpus import edited
from umt_pipeline.commands.shell import Shell
from umt_pipeline.commands.worktrees import add_worktree
from umt_pipeline.compute.machine import this_machine
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import project_pipelines, stages_file
from umt_pipeline.project_config import catalog_resolver, config_loader
from umt_pipeline.tracking.dependencies import dvc_md5
from umt_pipeline.tracking.record import CORPUS
from umt_pipeline.tracking.rows import flatten_numbers
from umt_pipeline.tracking.server import DEPENDENCIES_FILE, SERVER_ERRORS
from umt_pipeline.tracking.target import DEMO, project_target

COMMIT, DIRTY, STAGE = "git.commit", "git.dirty", "dvc.stage"
# Of a run that is repeated they are others.
_TIMES = "_times"
# Numbers that are listed of those that differ.
MAX_LISTED = 10


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow says of a run.

    Attributes:
        id: of the run.
        tags: of the run.
        metrics: its last values.
        dependencies: md5 by path of what it read; empty if it did not say.
        processors: kinds of machines that its records name; a training has none.
    """

    id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    dependencies: Mapping[str, str]
    processors: frozenset[str] = frozenset()

    @property
    def corpus(self) -> str | None:
        """The corpus; None: the demo."""
        name = self.tags.get(CORPUS, DEMO)
        return None if name == DEMO else name

    @property
    def stage(self) -> str:
        """The stage's name in its dvc.yaml."""
        return self.tags[STAGE].rpartition(":")[2]


@dataclass(frozen=True)
class Comparison:
    """A run and its repetition.

    Attributes:
        equal: how many numbers are equal to the last bit.
        different: name, first and second value of the others, the largest relative difference first.
        absent: names that only one of them has.
    """

    equal: int
    different: tuple[tuple[str, float, float], ...]
    absent: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every number was found again."""
        return self.equal > 0 and not self.different and not self.absent


def tracking_uri(project: Path) -> str:
    """Return the address of MLflow's server or database, to which `kedro run` sends."""
    return project_target(config_loader(project, None), project).uri


def read_run(project: Path, run_id: str) -> TrackedRun:
    """Ask MLflow for a run.

    Raises:
        ConfigError: there is no such run, no server, or the run does not say which stage of which commit it was.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(project)
    # Artifacts of a server are asked of this one.
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
    except SERVER_ERRORS as error:
        raise ConfigError(f"{run_id}: expected a run of {uri}, found none: {error}. `make mlflow` shows the runs.") from error
    tags = dict(run.data.tags)
    if missing := [tag for tag in (COMMIT, STAGE) if tag not in tags]:
        raise ConfigError(
            f"{run_id}: expected tags {COMMIT} and {STAGE}, found no {', no '.join(missing)}. A run that `dvc repro` starts "
            "in a git repository has them; any other can only be repeated by hand."
        )
    place = run.info.artifact_uri
    try:
        dependencies = {str(path): str(md5) for path, md5 in mlflow.artifacts.load_dict(f"{place}/{DEPENDENCIES_FILE}").items()}
    except (MlflowException, OSError):
        dependencies = {}
    try:
        listed = [file.path for file in client.list_artifacts(run_id, "reports") if file.path.endswith("_records.json")]
        records = [record for file in listed for record in json.loads(mlflow.artifacts.load_text(f"{place}/{file}"))]
    except (MlflowException, OSError, ValueError):
        records = []
    protocols = [record["protocol"] for record in records if record.get("protocol")]
    kinds = frozenset(str(protocol["processor"]) for protocol in protocols if protocol.get("processor"))
    return TrackedRun(run_id, tags, dict(run.data.metrics), dependencies, kinds)


class Reproduction:
    """A checkout of a run's commit, with the data that the run read.

    Args:
        project: the project's folder.
        run: the run.
        folder: new folder of the checkout.
        remote: git's name of the repository to ask for a commit that is not here.
    """

    def __init__(self, project: Path, run: TrackedRun, folder: Path, remote: str = "origin") -> None:
        self._project, self._run, self._folder, self._remote = project, run, folder, remote
        self.missing: list[str] = []

    def check_out(self) -> Iterator[str]:
        """Make the checkout, bring the data, and say what is missing, which is kept in ``missing``.

        Raises:
            ConfigError: the commit is nowhere, or the folder is there.
        """
        run, commit = self._run, self._run.tags[COMMIT]
        self._fetch(commit)
        shell = add_worktree(self._project, commit, self._folder)
        yield f"{self._folder}: {commit[:12]}, stage {run.tags[STAGE]}"
        if run.tags.get(DIRTY) == "true":
            self._miss(f"what was changed and not committed when it ran ({DIRTY}): the commit alone may give other results")
        file, stages = stages_file(self._folder, run.corpus), self._stages()
        if run.stage not in stages:
            raise ConfigError(f"{file}: expected the stage {run.stage}, found {', '.join(stages) or 'none'} in {commit[:12]}.")
        if not run.dependencies:
            self._miss(f"{DEPENDENCIES_FILE}: the run does not say what it read; the lock of its commit is taken")
        self._pin(file)
        self._bring(shell, stages[run.stage]["deps"])
        self._compare_machines()
        yield from self.missing or ["nothing is missing"]

    def _compare_machines(self) -> None:
        import torch

        here = this_machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")).processor
        if self._run.processors and here not in self._run.processors:
            kinds = ", ".join(sorted(self._run.processors))
            self._miss(f"a processor of the kind {kinds}; this is {here}, on which the last digits are others")

    def _miss(self, text: str) -> None:
        self.missing.append(f"missing: {text}")

    def _fetch(self, commit: str) -> None:
        shell = Shell(self._project)
        here = ("git", "cat-file", "-e", f"{commit}^{{commit}}")
        if shell.try_read(*here) is None:
            shell.try_read("git", "fetch", "--quiet", self._remote, commit)
            shell.try_read("git", "fetch", "--quiet", self._remote)
        if shell.try_read(*here) is None:
            raise ConfigError(
                f"{commit}: expected the commit of the run here or in {self._remote}, found it in neither. It was never "
                "pushed, or its branch is gone: look for another clone, and fetch it from there."
            )

    def _pin(self, file: Path) -> None:
        """Let the lock and the .dvc files of the checkout name what the run read."""
        lock, wanted = file.with_name("dvc.lock"), self._run.dependencies
        if lock.is_file():
            with edited(lock) as content:
                for stage in content.get("stages", {}).values():
                    for out in stage.get("outs", ()):
                        _repoint(out, str(out["path"]), wanted)
        for path in wanted:
            note = self._folder / f"{path}.dvc"
            if note.is_file():
                with edited(note) as content:
                    _repoint(content["outs"][0], path, wanted)

    def _bring(self, shell: Shell, paths: list[str]) -> None:
        """Fetch what the stage reads, and compare it with what the run read."""
        with dvc_repo(self._folder) as repo:
            kept = {out.fs_path for out in repo.index.outs if out.use_cache}
            remote = bool(repo.config["core"].get("remote"))
        for path in paths:
            place = self._folder / path
            if str(place) in kept:
                if shell.try_read("dvc", "checkout", path) is None and remote:
                    shell.try_read("dvc", "pull", path)
                if not place.exists():
                    md5 = self._run.dependencies.get(path, "as the lock says")
                    where = (
                        "neither in DVC's cache nor in its remote" if remote else "not in DVC's cache, and there is no remote"
                    )
                    self._miss(f"{path} ({md5}): it is {where}")
            elif not place.exists():
                self._miss(f"{path}: it is not in the commit, and DVC does not keep it")
            elif path in self._run.dependencies and dvc_md5(place) != self._run.dependencies[path]:
                self._miss(f"{path} as it was ({self._run.dependencies[path]}): the commit has another version")

    def run(self) -> Comparison:
        """Run the stage again, without taking anything from DVC's run cache, and compare its numbers with the run's.

        Raises:
            ConfigError: it fails.
        """
        # The repetition is a run of the same server, or of the same database, and of the checkout's code.
        own = {"MLFLOW_TRACKING_URI": tracking_uri(self._project), "PYTHONPATH": str(self._folder / "src")}
        again = Shell(self._folder, {**Shell(self._folder).environment, **own})
        file = stages_file(self._folder, self._run.corpus).relative_to(self._folder)
        again.show("dvc", "repro", "--single-item", "--force", "--no-run-cache", f"{file}:{self._run.stage}")
        return compare(self._run.metrics, self._numbers())

    def _stages(self) -> Mapping[str, Any]:
        file = stages_file(self._folder, self._run.corpus)
        found: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"] if file.is_file() else {}
        return found

    def _numbers(self) -> dict[str, float]:
        """Return the numbers of the stage's metrics files but for times, named as in MLflow."""
        resolver = catalog_resolver(config_loader(self._folder, self._run.corpus or "base"))
        numbers: dict[str, float] = {}
        for name in sorted(project_pipelines()[self._run.stage].all_outputs()):
            entry = resolver.resolve_pattern(name)
            prefix = ((entry.get("metadata") or {}).get("mlflow") or {}).get("metrics")
            if prefix is not None and not name.endswith(_TIMES) and (file := self._folder / str(entry["filepath"])).is_file():
                numbers |= flatten_numbers(read_json(file), prefix)
        return numbers


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Comparison:
    """Compare the numbers of a metrics file with those that a run logged; what the run logged beside them is left out."""
    both = [name for name in second if name in first]
    different = [(name, first[name], second[name]) for name in both if first[name] != second[name]]
    different.sort(key=lambda item: -_relative(item[1], item[2]))
    return Comparison(len(both) - len(different), tuple(different), tuple(sorted(set(second) - set(first))))


def told(comparison: Comparison) -> Iterator[str]:
    """Put a comparison into words."""
    total = comparison.equal + len(comparison.different) + len(comparison.absent)
    yield f"{comparison.equal} of {total} numbers are equal to the last bit"
    for name, first, second in comparison.different[:MAX_LISTED]:
        yield f"  {name}: {first:.6g} in the run, {second:.6g} now ({100 * _relative(first, second):.2g} %)"
    if len(comparison.different) > MAX_LISTED:
        yield f"  {len(comparison.different) - MAX_LISTED} more differ less"
    if comparison.absent:
        yield f"  the run has no {', '.join(comparison.absent[:MAX_LISTED])}"
    if comparison.different:
        yield "Equal numbers are promised on one kind of machine: on another processor the last digits differ."


def _relative(first: float, second: float) -> float:
    return abs(first - second) / max(abs(first), abs(second), math.ulp(1.0))


def _repoint(out: Any, path: str, wanted: Mapping[str, str]) -> None:
    if path in wanted and out.get("md5") != wanted[path]:
        out["md5"] = wanted[path]
        # Of other content these are not known.
        for name in ("size", "nfiles"):
            out.pop(name, None)
