"""What we tell MLflow: training metrics while a node runs, provenance of a run, and trained models.

Nodes import this module; nothing downstairs does. Every function here works when there is no tracking: it then does
nothing.
"""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from umt_pipeline.core.files import sha256_file

CHALLENGER = "challenger"

# Under `dvc repro` and `dvc exp run` DVC exports these, so runs of one reproduction can be found together.
_DVC_VARIABLES = {
    "DVC_STAGE": "dvc.stage",
    "DVC_EXP_NAME": "dvc.exp_name",
    "DVC_EXP_BASELINE_REV": "dvc.exp_baseline_rev",
}

# MLflow's servers refuse a request with more metrics than 1000.
_METRICS_PER_REQUEST = 500

_log = logging.getLogger(__name__)


def metric_logger(prefix: str = "") -> Callable[[Mapping[str, Any]], None]:
    """Return a callback that sends a training loop's metric rows to the active MLflow run.

    Args:
        prefix: put before each name, as in ``stage2/loss``; needed where one run trains two models.

    Returns:
        A function of one row: ``step`` and any number of values. Finite numbers are sent in the background (about 1 ms
        a row); everything else in the row is left out. Without an active run it does nothing.
    """
    run = mlflow.active_run()
    if run is None:
        return lambda row: None
    # An active run belongs to a thread, and a training loop may call from another one.
    run_id = run.info.run_id

    def log_row(row: Mapping[str, Any]) -> None:
        metrics = flatten_numbers({name: value for name, value in row.items() if name != "step"}, prefix)
        if metrics:
            mlflow.log_metrics(metrics, step=int(row["step"]), run_id=run_id, synchronous=False)

    return log_row


def flatten_numbers(value: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the finite numbers of nested mappings as ``{"a/b": 1.0}``; other values are left out.

    Characters that MLflow does not allow in a name become ``_``.
    """
    numbers: dict[str, float] = {}
    for key, item in value.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(item, Mapping):
            numbers.update(flatten_numbers(item, name))
        elif isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item):
            numbers[re.sub(r"[^\w.\-/ ]", "_", name)] = float(item)
    return numbers


def log_numbers(value: Mapping[str, Any], prefix: str = "") -> None:
    """Log the numbers of a metrics file (see :func:`flatten_numbers`) to the active run."""
    numbers = list(flatten_numbers(value, prefix).items())
    for start in range(0, len(numbers), _METRICS_PER_REQUEST):
        mlflow.log_metrics(dict(numbers[start : start + _METRICS_PER_REQUEST]))


def flush() -> None:
    """Wait until all metrics that were sent in the background have arrived."""
    mlflow.flush_async_logging()


def provenance_tags(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say which code and which DVC stage a run belongs to.

    ``git.dirty`` is about inputs: ``dvc.lock`` and ``results/`` are what runs write, here and in ``corpora/``, so they do not
    count. A project
    that is not in git, or a machine without it, gives no git tags.
    """
    tags = {tag: environment[variable] for variable, tag in _DVC_VARIABLES.items() if environment.get(variable)}
    try:
        tags["git.commit"] = _git(project, "rev-parse", "HEAD")
        written = ("dvc.lock", "results", "corpora/*/dvc.lock", "corpora/*/results")
        changes = _git(project, "status", "--porcelain", "--", ".", *(f":!{path}" for path in written))
        tags["git.dirty"] = str(bool(changes)).lower()
    except (OSError, subprocess.SubprocessError):
        _log.info("%s: no git commit to tag the run with", project)
    return tags


def page_provenance(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ties a page to its code: the tags of the run in the current folder, and the versions that records name.

    Args:
        records: as :class:`umt_pipeline.evaluation.records.Record` dumps them.
    """
    versions = {record["protocol"]["version"] for record in records if record.get("protocol")}
    return {"run": provenance_tags(Path.cwd(), os.environ), "version": sorted(versions)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def register_model(name: str, folder: Path, tags: Mapping[str, str]) -> str:
    """Store a model folder with the active run, as a new version of a registered model.

    The new version gets the alias ``challenger``; making it the champion is a decision that is taken elsewhere.

    Args:
        name: the registered model's name; it is made if it is new.
        folder: safetensors weights and their configuration.
        tags: put on the version, beside the SHA-256 of each weights file.

    Returns:
        The number of the new version.

    Raises:
        RuntimeError: there is no active run.
    """
    run = mlflow.active_run()
    if run is None:
        raise RuntimeError(f"register_model({name!r}): expected an active MLflow run, found none.")
    artifact_path = f"models/{name}"
    mlflow.log_artifacts(str(folder), artifact_path)
    # Not mlflow.pytorch.log_model: it would pickle or export code, and weights and a configuration are all one needs.
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # At any depth: a folder may hold several models.
    weights = sorted(folder.rglob("*.safetensors"))
    hashes = {f"sha256.{path.relative_to(folder).as_posix()}": sha256_file(path) for path in weights}
    version = client.create_model_version(
        name, source=f"{run.info.artifact_uri}/{artifact_path}", run_id=run.info.run_id, tags={**tags, **hashes}
    ).version
    client.set_registered_model_alias(name, CHALLENGER, version)
    return str(version)
