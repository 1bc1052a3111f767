"""What the registry holds: versions by alias, and their files, checked against the hashes that they were registered with."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from umt_pipeline.core.errors import RegistryError
from umt_pipeline.core.files import move_folder, sha256_file, sha256_folder
from umt_pipeline.project_config import config_loader
from umt_pipeline.registry.names import COMMIT, CORPUS, DEMO, EVIDENCE, FOLDER, KIND, RECORDS, SERVING, own_corpus
from umt_pipeline.tracking.server import SERVER_ERRORS
from umt_pipeline.tracking.target import Target, project_target

logger = logging.getLogger(__name__)

What = Literal["model", "evidence", "records", "serving"]

# What a version keeps, below the folder `artifacts` of the MLflow model, and the tag with its hash.
ARTIFACTS = "artifacts"
FILES: dict[What, tuple[str, str]] = {
    "model": ("model", FOLDER),
    "evidence": ("evidence.parquet", EVIDENCE),
    "records": ("records.json", RECORDS),
    "serving": ("serving.json", SERVING),
}

# How MLflow says that there is no such model, or no such alias.
_ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
_MODEL = "models:/"
# With its own seven attempts, each waiting twice as long, MLflow notices after four minutes that a server is not there.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# They tell of making a database and of each step of packing.
_TALKATIVE = ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store", "mlflow.pyfunc")


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: of the registered model.
        version: its number.
        tags: where it comes from, and the hashes of its files; :mod:`umt_pipeline.registry.names` has their names.
        metrics: the numbers that its model was judged by, under the names of the metrics files.
        model_id: MLflow's id of the logged model that the version points to.
    """

    name: str
    version: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    model_id: str | None = None


def connect(project: Path, corpus: str | None = None) -> Target:
    """Let MLflow, in this process, speak with what the runs of a corpus are sent to, and return what that is.

    A database file is looked for in the project, whatever folder is the current one.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo, whose runs read ``conf/local`` too.
    """
    target = project_target(config_loader(project, corpus), project)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(target.uri)
    return target


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Turn the errors of MLflow, its database and its disks into ours.

    Args:
        what: is asked in the block, for the message.

    Raises:
        RegistryError: something failed.
    """
    try:
        yield
    except SERVER_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryError(
            f"{what}: MLflow at {mlflow.get_tracking_uri()} says: {reason}. Start the server (`make mlflow`) or correct "
            "MLFLOW_TRACKING_URI, and run again: what was done stays, and what is missing is filled in."
        ) from error


def version_at(name: str, alias: str) -> Version | None:
    """Return the version of a registered model that has an alias, or None if there is none.

    Args:
        name: from :func:`umt_pipeline.registry.names.registered_name`.
        alias: ``challenger`` or ``champion``.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    with registry_errors(f"{name}@{alias}"):
        client = MlflowClient()
        try:
            found = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise
        return described(client, found)


def numbered_version(name: str, number: str) -> Version | None:
    """Return a version of a registered model by its number, or None if there is none.

    Args:
        name: from :func:`umt_pipeline.registry.names.registered_name`.
        number: of the version.

    Raises:
        RegistryError: the registry cannot be asked.
    """
    with registry_errors(f"{name} version {number}"):
        client = MlflowClient()
        try:
            found = client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise
        return described(client, found)


def described(client: MlflowClient, found: ModelVersion) -> Version:
    """Return what MLflow knows of a version."""
    metrics: dict[str, float] = {}
    model_id = model_of(found)
    try:
        if model_id:
            rows = client.get_logged_model(model_id).metrics or []
            # The last of each name counts: numbers that were sent again are kept beside the old ones.
            metrics = {row.key: row.value for row in sorted(rows, key=lambda row: int(row.timestamp))}
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        logger.warning("%s version %s: its logged model %s was deleted", found.name, found.version, model_id)
    return Version(found.name, str(found.version), dict(found.tags), metrics, model_id)


def model_of(found: ModelVersion) -> str | None:
    """Return MLflow's id of the logged model that a version points to, or None if it points elsewhere."""
    # A database does not keep what a version was made with, but for its source.
    source = str(found.source).removeprefix(_MODEL)
    return found.model_id or (source if source != found.source else None)


def fetch(version: Version, what: What, folder: Path) -> Path:
    """Bring files of a version into a folder, whole and as they were registered, or not at all.

    Args:
        version: from :func:`version_at`.
        what: ``model``: the model folder; ``evidence``, ``records``, ``serving``: the files.
        folder: where; it is made if it is not there.

    Returns:
        ``folder/model``, or the file in ``folder``; what was there is replaced.

    Raises:
        RegistryError: the files are gone, their hash is not the one that they were registered with, or the registry cannot
            be asked.
    """
    name, tag = FILES[what]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetched-") as temporary:
        found = _download(version, name, Path(temporary))
        digest = sha256_folder(found) if found.is_dir() else sha256_file(found)
        if digest != version.tags.get(tag):
            raise RegistryError(
                f"{version.name} version {version.version}: {name} is not what was registered: expected {tag} "
                f"{version.tags.get(tag)}, found {digest}. {_again(version)}"
            )
        target = folder / name
        if found.is_dir():
            move_folder(found, target)
        else:
            found.replace(target)
    return target


def _download(version: Version, name: str, folder: Path) -> Path:
    uri = f"models:/{version.name}/{version.version}/{ARTIFACTS}/{name}"
    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        if not found.exists() or (found.is_dir() and not any(found.iterdir())):
            raise FileNotFoundError(f"no such artifact: {uri}")
    except SERVER_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryError(
            f"{version.name} version {version.version}: {name} cannot be fetched: {reason}. {_again(version)}"
        ) from error
    return found


def _again(version: Version) -> str:
    """Say how a version gets its files back."""
    tags: Mapping[str, Any] = version.tags
    corpus = own_corpus(tags.get(CORPUS, DEMO))
    command = " ".join(["umt register", *([corpus] if corpus else []), "--kind", str(tags.get(KIND, "KIND"))])
    return f"Register it again: `git checkout {tags.get(COMMIT, 'COMMIT')}`, `dvc pull`, `{command}` puts the files back."
