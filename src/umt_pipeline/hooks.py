"""What happens around a Kedro run: one MLflow run per `kedro run`, filled from what the catalog declares."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from kedro.config import AbstractConfigLoader
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from pydantic import BaseModel

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, UmtError
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.executors import OFFLINE
from umt_pipeline.tracking.dependencies import Stages, dvc_md5, joining_tags
from umt_pipeline.tracking.finished import Output, joins_runs, tracked
from umt_pipeline.tracking.live import begin, end
from umt_pipeline.tracking.provenance import provenance_tags, run_tags
from umt_pipeline.tracking.record import DEPENDENCIES, JOIN, Input, RunRecord, flat_params
from umt_pipeline.tracking.target import corpus_of, project_target, track_command

_log = logging.getLogger(__name__)


class InputsHook:
    """Checks all that a run will read before its first node: files of the catalog, and what parameters name beside them."""

    @hook_impl(tryfirst=True)  # before the run is opened in MLflow
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Refuse a run that would fail later, when other nodes have been paid for.

        A block of parameters is checked (:meth:`Config.check_inputs`) if the pipeline of its name runs. Others may read it
        too, but have no use for what it names: stage 1 compares the store with ``teacher_features``, and fetches no teacher.
        The executor is any pipeline's that reads it.

        Raises:
            ConfigError: something is missing or does not fit; of files, all that are missing are named.
        """
        require_files(pipeline, catalog)
        running = run_params["pipeline_names"] or ["__default__"]
        for name in sorted(pipeline.inputs()):
            block = name.removeprefix("params:")
            if block == name or (block != OFFLINE and not {block, "__default__"} & set(running)):
                continue
            parameters = catalog.load(name)
            if isinstance(parameters, Config):
                try:
                    parameters.check_inputs()
                except UmtError as error:
                    raise ConfigError(f"parameters {block}: {error}") from error


def require_files(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuse a pipeline that reads files which neither are there nor are made by it.

    Raises:
        ConfigError: files or folders are missing; all are named.
    """
    inputs = {name: catalog.get(name) for name in sorted(pipeline.inputs())}
    missing = [
        f"{name} ({dataset.path})"
        for name, dataset in inputs.items()
        if isinstance(dataset, PathDataset) and not dataset.optional and not dataset.exists()
    ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: expected before the first step, found nothing. Run the pipelines that make them first "
            "(`dvc repro` runs all that is missing), or correct the catalog"
        )


class TrackingHook:
    """Tracks each `kedro run` as a run of MLflow, and never stops it (:mod:`umt_pipeline.tracking`).

    - Parameters are logged field by field, with the defaults that the files leave out.
    - Tags, inputs and `dvc_dependencies.json` say which code, data and models a run is of, and join runs.
    - When a pipeline has ended well, each dataset that it wrote is tracked as ``metadata.mlflow`` says.
    """

    _loader: AbstractConfigLoader

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the configuration is; it is read when a pipeline runs."""
        self._loader = context.config_loader

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Begin the run.

        Raises:
            ConfigError: ``mlflow.yml`` or a ``metadata.mlflow`` is not as expected.
        """
        project = Path(run_params["project_path"])
        target = project_target(self._loader, project)
        tracked_outputs(pipeline, catalog)  # a misspelt declaration is found before anything is paid for
        try:
            record = new_record(run_params, pipeline, catalog)
            workspace = catalog.get("workspace") if "workspace" in catalog else None
            begin(target, record, workspace.path if isinstance(workspace, PathDataset) else None)
        except Exception as error:  # what is wrong with tracking is no reason for a run to fail
            _log.warning(
                "This run is not tracked: %s: %s. The run goes on without it, and its results are the same. When it has ended, "
                "`%s` sends what is missing.",
                type(error).__name__, error, track_command(corpus_of(run_params["env"])),
            )  # fmt: skip

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Track what the pipelines wrote, and end the run."""
        outputs: dict[str, list[Output]] = {}
        made: dict[str, str] = {}
        try:
            outputs = outputs_by_pipeline(run_params, pipeline, catalog)
            made = made_tags(Path(run_params["project_path"]), pipeline, catalog)
        except Exception as error:  # the same
            _log.warning("What this run wrote is not tracked: %s: %s. Its results are the same.", type(error).__name__, error)
        end("FINISHED", outputs, made)

    @hook_impl
    def on_pipeline_error(self, error: Exception, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Mark the run as failed; the metrics that are on their way still arrive."""
        end("FAILED", {}, {})


def tracked_outputs(pipeline: Pipeline, catalog: DataCatalog) -> list[Output]:
    """Return what a pipeline writes that the catalog says to track.

    Raises:
        ConfigError: a catalog entry has a ``metadata.mlflow`` that means nothing.
    """
    outputs = []
    for name in sorted(pipeline.all_outputs()):
        dataset = catalog.get(name)
        declared = tracked(name, dataset.metadata) if isinstance(dataset, PathDataset) else None
        if isinstance(dataset, PathDataset) and declared is not None:
            outputs.append(Output(name, dataset.path, declared, dataset.optional))
    return outputs


def outputs_by_pipeline(run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> dict[str, list[Output]]:
    """Return the tracked outputs of the pipelines that ran, by their names; of those that ran in part by none, ""."""
    names = run_params["pipeline_names"] or [name for name in pipelines if name != "__default__"]
    written = {output.name: output for output in tracked_outputs(pipeline, catalog)}
    found: dict[str, list[Output]] = {}
    for name in names:
        if pipelines[name].all_outputs() <= pipeline.all_outputs():
            found[name] = [written.pop(made) for made in sorted(pipelines[name].all_outputs()) if made in written]
    return found | ({"": list(written.values())} if written else {})


def new_record(run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> RunRecord:
    """Return what is known of a run at its start."""
    project, env = Path(run_params["project_path"]), run_params["env"]
    names, corpus = run_params["pipeline_names"] or ["__default__"], corpus_of(env)
    stages = Stages.of(project, corpus, under_dvc="DVC_STAGE" in os.environ)
    dependencies = {path: md5 for name in names for path, md5 in stages.dependencies(name).items()}
    inputs = tuple(
        Input(name=name, path=path, md5=md5)
        for name, path in _read_paths(project, pipeline, catalog).items()
        if (md5 := stages.md5_of(path)) is not None
    )
    provenance = provenance_tags(project, os.environ)
    tags = {
        **provenance,
        **run_tags(run_params, provenance.get("git.commit")),
        **joining_tags({**dependencies, **{entry.path: entry.md5 for entry in inputs}}),
        **({JOIN: join} if (join := stages.join()) else {}),
        **({DEPENDENCIES: fingerprint(dependencies)} if dependencies else {}),
    }
    return RunRecord(
        name="+".join(names), corpus=corpus, tags=tags, params=flat_params(_parameters(pipeline, catalog)), inputs=inputs,
        dependencies=dependencies,
    )  # fmt: skip


def _parameters(pipeline: Pipeline, catalog: DataCatalog) -> dict[str, Any]:
    # `parameters` is every pipeline's parameters: a report may want them, but they are not this run's.
    names = sorted(name for name in pipeline.inputs() if name.startswith("params:"))
    loaded = {name.removeprefix("params:"): catalog.load(name) for name in names}
    return {name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for name, value in loaded.items()}


def made_tags(project: Path, pipeline: Pipeline, catalog: DataCatalog) -> dict[str, str]:
    """Return tags of the models and tables that a pipeline made."""
    md5s = {}
    for name in sorted(pipeline.all_outputs()):
        dataset = catalog.get(name)
        if not isinstance(dataset, PathDataset):
            continue
        declared = tracked(name, dataset.metadata)
        # Folders other than models may be large, and DVC will hash them.
        if joins_runs(declared) and (
            declared.model is not None and dataset.path.is_dir() if declared else dataset.path.is_file()
        ):
            md5s[_in_project(project, dataset.path)] = dvc_md5(dataset.path)
    return joining_tags(md5s)


def _read_paths(project: Path, pipeline: Pipeline, catalog: DataCatalog) -> dict[str, str]:
    datasets = {name: catalog.get(name) for name in sorted(pipeline.inputs())}
    return {name: _in_project(project, entry.path) for name, entry in datasets.items() if isinstance(entry, PathDataset)}


def _in_project(project: Path, path: Path) -> str:
    return (path.relative_to(project) if path.is_relative_to(project) else path).as_posix()
