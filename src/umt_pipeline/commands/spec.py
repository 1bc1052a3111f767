"""Runs written down for other machines to train, and nothing started."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.hooks import require_files
from umt_pipeline.pipelines.runs import RUNS, NamedRuns, write_down
from umt_pipeline.pipelines.tasks import named_runs
from umt_pipeline.project_config import parsed_overrides
from umt_pipeline.tasks.task import Plan


@dataclass(frozen=True)
class Written:
    """A run that was written down.

    Attributes:
        name: of the run.
        file: the spec, in the run's folder.
        finished: it was trained before.
    """

    name: str
    file: Path
    finished: bool

    def line(self) -> str:
        """What each machine starts, with the numbers of machines and devices and a host to be filled in."""
        run = f"-m umt_pipeline.training.launch {shlex.quote(str(self.file))}"
        return (
            "torchrun --nnodes NODES --nproc-per-node DEVICES --rdzv-backend c10d --rdzv-endpoint HOST:29400 "
            f"--rdzv-id {self.name}-{self.file.parent.name} --max-restarts 3 {run}"
        )


def write_specs(project: Path, stage: str, env: str | None, overrides: str) -> list[Written]:
    """Write down the runs of a stage, as far as they are known: one that starts from another waits until that is finished.

    The stage's nodes before its training run here: they check stores and tables, and put what training maps into the workspace.

    Args:
        project: the project's folder.
        stage: name of a pipeline.
        env: overlay.
        overrides: as in ``kedro run --params``.

    Raises:
        ConfigError: the stage is not known, trains nothing, or misses files; or parameters are wrong.
    """
    bootstrap_project(project)
    known = {
        name: found for name, pipeline in dict(pipelines).items() if (found := _runs_of(pipeline)) and name != "__default__"
    }
    if stage not in known:
        raise ConfigError(f"umt spec: expected a stage that trains, one of {', '.join(sorted(known))}; found '{stage}'")
    written: list[Written] = []
    with KedroSession.create(project_path=project, env=env, runtime_params=parsed_overrides(overrides)) as session:
        assert isinstance(session, KedroSession)  # `create` promises less
        catalog = session.load_context().catalog
        workspace: Path = catalog.load("workspace")
        for dataset in known[stage]:
            part = pipelines[stage].to_outputs(dataset)
            require_files(part, catalog)
            value: NamedRuns | Plan = SequentialRunner().run(part, catalog)[dataset].load()
            runs = named_runs(stage, value) if isinstance(value, Plan) else value
            written += [Written(name, *write_down(name, spec, workspace)) for name, spec in runs.items()]
            if not all(run.finished for run in written):
                break
    return written


def _runs_of(pipeline: Pipeline) -> list[str]:
    """Return the datasets of a pipeline that hold runs, each after those that it depends on."""
    return [output for node in pipeline.nodes for output in node.outputs if output.endswith(RUNS)]


def lines(stage: str, written: list[Written]) -> list[str]:
    """What `umt spec` says."""
    if not written:
        return [f"{stage} trains nothing with these parameters."]
    said: list[str] = []
    for run in written:
        said += [f"{run.name}: {run.file.parent}{' (finished)' if run.finished else ''}"]
        said += [] if run.finished else [f"  {run.line()}"]
    waiting = [run.name for run in written if not run.finished]
    if waiting:
        said += [
            "",
            "Start the line on each machine, with their number, the devices of each, and a host that all reach.",
            f"Then `kedro run --pipelines {stage}`, with the same --env and --params, takes {' and '.join(waiting)} as found.",
        ]
    if waiting == ["text"]:
        said += ["What else the stage trains starts from this run: call `umt spec` again when it is finished."]
    return said
