"""MLflow's server or database, as far as tracking needs it. Imports mlflow: to be imported by what is about to use it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from umt_pipeline.tracking.record import CORPUS, KEY, OUTPUTS, Input, RunRecord
from umt_pipeline.tracking.rows import Row

_Item = TypeVar("_Item")

# What MLflow raises when there is no server, a dead one, a locked database or a full disk. (Those of requests are OSErrors.)
SERVER_ERRORS = (MlflowException, SQLAlchemyError, OSError)
DEPENDENCIES_FILE = "dvc_dependencies.json"

# MLflow's own would wait for minutes: 120 s, and 7 times again.
_WAITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
# They tell of each attempt, of making a database and, with a traceback, of what is raised as well.
_TALKATIVE = ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool", "mlflow.utils.rest_utils")

# MLflow's servers refuse a request with more metrics than 1000, or more parameters than 100.
_METRICS_PER_REQUEST = 500
_PARAMS_PER_REQUEST = 100
_MAX_VALUE = 6000


class Server:
    """A client of MLflow for one experiment. Every method may raise one of :data:`SERVER_ERRORS`.

    Args:
        uri: of the server or database.
        experiment: its name; it is made if it is new, and restored if it was deleted.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        for name, value in _WAITS.items():
            os.environ.setdefault(name, value)
        for logger in _TALKATIVE:
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            self._experiment = self._make(experiment)
        else:
            self._experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)

    def _make(self, experiment: str) -> str:
        try:
            return str(self._client.create_experiment(experiment))
        except MlflowException:
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                raise
            return str(found.experiment_id)  # another run was first

    def create(self, record: RunRecord) -> str:
        """Begin a run with all that is known of it, and return its id."""
        run = self._client.create_run(
            self._experiment, start_time=record.began_ms, tags=record.all_tags(), run_name=record.name
        )
        run_id = str(run.info.run_id)
        self.describe(run_id, record)
        return run_id

    def describe(self, run_id: str, record: RunRecord) -> int:
        """Add to a run what it does not say yet of what is known of it beside its results.

        Returns:
            How many tags, parameters, inputs and files were added.
        """
        run = self._client.get_run(run_id)
        tags = {name: value for name, value in record.all_tags().items() if run.data.tags.get(name) != value}
        params = {name: value[:_MAX_VALUE] for name, value in record.params.items() if name not in run.data.params}
        for some in _pieces(list(tags.items()), _PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, tags=[RunTag(*item) for item in some], synchronous=True)
        for some in _pieces(list(params.items()), _PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, params=[Param(*item) for item in some], synchronous=True)
        known = {entry.dataset.name for entry in run.inputs.dataset_inputs} if run.inputs else set()
        inputs = [_as_dataset(entry) for entry in record.inputs if entry.name not in known]
        if inputs:
            self._client.log_inputs(run_id, inputs)
        files = 0
        if record.dependencies and DEPENDENCIES_FILE not in self._artifacts(run_id, ""):
            self._client.log_dict(run_id, record.dependencies, DEPENDENCIES_FILE)
            files = 1
        return len(tags) + len(params) + len(inputs) + files

    def find(self, tags: Mapping[str, str]) -> str | None:
        """Return the newest run that has these tags; None: there is none."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found: Sequence[Run] = self._client.search_runs(
            [self._experiment],
            filter_string=wanted,
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return str(found[0].info.run_id) if found else None

    def find_record(self, record: RunRecord) -> str | None:
        """Return the run that was begun for a record; None: there is none."""
        return self.find({KEY: record.key})

    def find_complete(self, corpus: str, pipeline: str, digest: str) -> str | None:
        """Return the newest run that says all that the finished files of a pipeline say; None: there is none."""
        return self.find({CORPUS: corpus, f"{OUTPUTS}.{pipeline}": digest})

    def log_rows(self, run_id: str, rows: Iterable[Row]) -> None:
        """Send rows, in as few requests as may be."""
        metrics = [Metric(name, value, row.at_ms, row.step) for row in rows for name, value in row.values.items()]
        for some in _pieces(metrics, _METRICS_PER_REQUEST):
            self._client.log_batch(run_id, metrics=some, synchronous=True)

    def lacking(self, run_id: str, rows: Iterable[Row]) -> list[Row]:
        """Return of these rows what the run does not have, by name and step."""
        rows = list(rows)
        known = self._client.get_run(run_id).data.metrics
        names = {name for row in rows for name in row.values if name in known}
        there = {(name, metric.step) for name in names for metric in self._client.get_metric_history(run_id, name)}
        left = [
            Row(row.series, row.step, {n: v for n, v in row.values.items() if (n, row.step) not in there}, row.at_ms)
            for row in rows
        ]
        return [row for row in left if row.values]

    def log_files(self, run_id: str, files: Iterable[tuple[Path, str]]) -> int:
        """Send files that the run does not have, or of another size.

        Args:
            run_id: the run.
            files: each with its folder in the artifacts.

        Returns:
            How many were sent.
        """
        listed: dict[str, dict[str, int]] = {}
        sent = 0
        for file, folder in files:
            if folder not in listed:
                listed[folder] = self._artifacts(run_id, folder)
            if listed[folder].get(file.name) != file.stat().st_size:
                self._client.log_artifact(run_id, str(file), folder)
                sent += 1
        return sent

    def end(self, run_id: str, record: RunRecord) -> int:
        """End a run, and say of which pipelines it has everything, if it does not say so yet.

        Returns:
            How many tags were added, and one if the run had not ended.
        """
        run = self._client.get_run(run_id)
        tags = {name: value for name, value in record.last_tags().items() if run.data.tags.get(name) != value}
        for some in _pieces(list(tags.items()), _PARAMS_PER_REQUEST):
            self._client.log_batch(run_id, tags=[RunTag(*item) for item in some], synchronous=True)
        if run.info.status == record.status:
            return len(tags)
        self._client.set_terminated(run_id, record.status, record.ended_ms)
        return len(tags) + 1

    def _artifacts(self, run_id: str, folder: str) -> dict[str, int]:
        found = self._client.list_artifacts(run_id, folder or None)
        return {PurePosixPath(item.path).name: item.file_size or 0 for item in found if not item.is_dir}


def _as_dataset(entry: Input) -> DatasetInput:
    # Not mlflow.data.from_pandas and the like, which would read the data: name, content and place are known.
    source = json.dumps({"uri": entry.path})
    dataset = Dataset(name=entry.name, digest=entry.md5, source_type="local", source=source)
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "input")])


def _pieces(items: list[_Item], size: int) -> Iterable[list[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
