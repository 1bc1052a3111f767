"""What happens around a Kedro run: one MLflow run per `kedro run`, filled from what the catalog declares."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook
from pydantic import BaseModel

from umt_pipeline import tracking
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, UmtError
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.executors import OFFLINE

_log = logging.getLogger(__name__)


class TrackedDataset(Config):
    """The ``metadata.mlflow`` of a catalog entry.

    Args:
        metrics: the dataset is a JSON file whose numbers are metrics; the value is put before their names.
        artifact: the dataset is a file to keep with the run; the value is the folder inside the run's artifacts.
        model: the dataset is a model folder; the value is the name of the registered model.
    """

    metrics: str | None = None
    artifact: str | None = None
    model: str | None = None


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


class TrackingHook(MlflowHook):  # type: ignore[misc]  # kedro-mlflow has no types
    """kedro-mlflow's hook, which starts and ends the run and logs parameters, and what this project adds to it.

    - Typed parameters (pydantic models) are logged field by field, with the defaults that the files leave out.
    - Tags join the runs of one `dvc repro`: stage, experiment, git commit, uncommitted changes.
    - When a pipeline has ended well, each dataset that it wrote is tracked as ``metadata.mlflow`` says.
    """

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Start the run and tag it."""
        super().before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=catalog)
        if self._is_mlflow_enabled:
            mlflow.set_tags(tracking.provenance_tags(Path(run_params["project_path"]), os.environ))

    @hook_impl
    def before_node_run(self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], is_async: bool) -> None:
        """Log the node's parameters."""
        # `parameters` is every pipeline's parameters: a report may want them, but they are not this run's.
        parameters = {
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in inputs.items()
            if name.startswith("params:")
        }
        super().before_node_run(node=node, catalog=catalog, inputs=parameters, is_async=is_async)

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Track what the pipeline wrote, then end the run."""
        if self._is_mlflow_enabled:
            try:
                tracking.flush()
                track_outputs(pipeline, catalog)
            except BaseException:
                # Kedro calls no other hook after this one: the run must not stay open, nor look finished.
                mlflow.end_run("FAILED")
                raise
        super().after_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=catalog)

    @hook_impl
    def on_pipeline_error(
        self, error: Exception, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Mark the run as failed; the metrics that were on their way still arrive."""
        if self._is_mlflow_enabled:
            tracking.flush()
        super().on_pipeline_error(error=error, run_params=run_params, pipeline=pipeline, catalog=catalog)


def tracked_dataset(name: str, dataset: object) -> TrackedDataset | None:
    """Return what the catalog says about tracking a dataset, or ``None``.

    Raises:
        ConfigError: the catalog entry has keys or values that mean nothing.
    """
    declared = (dataset.metadata or {}).get("mlflow") if isinstance(dataset, PathDataset) else None
    if declared is None:
        return None
    try:
        return TrackedDataset.model_validate(declared)
    except ValueError as error:
        raise ConfigError(f"catalog entry '{name}', metadata.mlflow: {error}") from error


def track_outputs(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Send the metrics, files and models that a finished pipeline has written to the active MLflow run."""
    outputs: list[tuple[PathDataset[Any, Any], TrackedDataset]] = []
    for name in sorted(pipeline.all_outputs()):
        dataset = catalog.get(name)
        tracked = tracked_dataset(name, dataset)
        if isinstance(dataset, PathDataset) and tracked is not None:
            outputs.append((dataset, tracked))

    metrics: dict[str, float] = {}
    for dataset, tracked in outputs:
        if tracked.metrics is not None:
            metrics |= tracking.flatten_numbers(dataset.load(), tracked.metrics)
    tracking.log_numbers(metrics)

    for dataset, tracked in outputs:
        if tracked.artifact is not None:
            mlflow.log_artifact(str(dataset.path), tracked.artifact)
        if tracked.model is not None and not any(dataset.path.rglob("*.safetensors")):
            _log.info("%s holds no weights, its pipeline left the model out: nothing is registered", dataset.path)
        elif tracked.model is not None:
            # A version carries the numbers of the run that made it, so that versions can be compared in the registry.
            version = tracking.register_model(
                tracked.model, dataset.load(), {name: f"{value:.6g}" for name, value in metrics.items()}
            )
            _log.info("registered %s version %s as %s", tracked.model, version, tracking.CHALLENGER)
