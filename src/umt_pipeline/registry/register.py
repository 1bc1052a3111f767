"""Registering: finished models become versions, each once, and what DVC has locked now gets the alias ``challenger``.

The files are the truth, and the registry a view of them: whatever was killed on the way, a second run fills in what is missing.
A version is made when all its files are there, with all its tags, and gets the alias last.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlflow.entities import LoggedModel, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from umt_pipeline.core.errors import RegistryError
from umt_pipeline.core.locking import only_writer
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path
from umt_pipeline.registry.candidates import Candidate, Found, find_candidates
from umt_pipeline.registry.names import CHALLENGER, COMMIT, CORPUS, EVIDENCE, MD5, STAGE, own_corpus
from umt_pipeline.registry.packing import collect_files, write_mlflow_model
from umt_pipeline.registry.reading import FILES, Version, connect, described, fetch, model_of, registry_errors

logger = logging.getLogger(__name__)

RUN_NAME = "register"
# MLflow's servers refuse a request with more metrics than 1000.
_METRICS_PER_REQUEST = 500


@dataclass(frozen=True)
class Registered:
    """What :func:`register` did about a model, or would do.

    Attributes:
        name: of the registered model.
        version: its number; None: :func:`planned` would make one.
        fresh: it is new; otherwise it was there, and what was missing of it was filled in.
    """

    name: str
    version: str | None
    fresh: bool


def register(project: Path, corpus: str | None, kinds: Sequence[str] | None = None) -> list[Registered]:
    """Register the finished models of a corpus. Nothing is trained or measured, and doing it twice makes nothing new.

    Args:
        project: the project's folder.
        corpus: its name; None or ``demo``: the demo.
        kinds: of models; None: all that there are.

    Returns:
        What became of each, in the order of the pipelines; of kinds that have nothing to register the log says why.

    Raises:
        ConfigError: a model or what it was judged by is not what ``dvc.lock`` says, or that is not committed; or another
            process registers in this project. Nothing was registered.
        RegistryError: the registry cannot be reached, or records are of other weights than those in the model folder.
    """
    experiment = connect(project, own_corpus(corpus)).experiment
    found = _found(project, corpus, kinds)
    with _registering(project, found.loader) as workplace:
        return _Registration(project, found, experiment, workplace).run()


def planned(project: Path, corpus: str | None, kinds: Sequence[str] | None = None) -> list[Registered]:
    """Return what :func:`register` would do, with its errors; arguments are the same."""
    connect(project, own_corpus(corpus))
    found = _found(project, corpus, kinds)
    with registry_errors("the registry"):
        client = MlflowClient()
        versions = [_known(client, item.name, found.tags[item.kind]) for item in found.candidates]
    return [
        Registered(item.name, version.version if version else None, version is None)
        for item, version in zip(found.candidates, versions, strict=True)
    ]


def _found(project: Path, corpus: str | None, kinds: Sequence[str] | None) -> Found:
    found = find_candidates(project, own_corpus(corpus), kinds)
    for kind, reason in found.left_out.items():
        logger.warning("%s is left out: %s", kind, reason)
    for candidate in found.candidates:
        # Asked before anything is written: it refuses records of other weights.
        logger.debug("%s: %d numbers", candidate.name, len(candidate.metrics))
    return found


@contextmanager
def _registering(project: Path, loader: ProjectConfigLoader) -> Iterator[Path]:
    """Yield an empty folder; nobody else registers in this project while the block runs."""
    lock = catalog_path(project, loader, "workspace") / "registry"
    # The name lets only_writer sweep away what a killed process left.
    with only_writer(lock), tempfile.TemporaryDirectory(dir=lock, prefix=".files-", suffix=".part") as workplace:
        yield Path(workplace)


class _Registration:
    """One call of :func:`register`."""

    def __init__(self, project: Path, found: Found, experiment: str, workplace: Path) -> None:
        self._project, self._found, self._experiment_name, self._workplace = project, found, experiment, workplace
        self._client = MlflowClient()
        self._run_id: str | None = None

    def run(self) -> list[Registered]:
        ended = "FAILED"
        try:
            result = [self._one(candidate) for candidate in self._found.candidates]
            ended = "FINISHED"
        finally:
            if self._run_id is not None:
                with registry_errors("the end of the run"):
                    self._client.set_terminated(self._run_id, ended)
        return result

    def _one(self, candidate: Candidate) -> Registered:
        """Make a version of a model or find it, fill in what is missing of it, and give it the alias."""
        name, folder = candidate.name, self._workplace / candidate.kind
        files = folder / "files"
        files.mkdir(parents=True)
        settings = collect_files(candidate, self._project, self._found.loader, files)
        tags = {**self._found.tags[candidate.kind], **settings}
        with registry_errors(name):
            self._ensure_model(name)
            version = _known(self._client, name, tags)
            fresh = version is None
            if version is None:
                model = self._logged_model(candidate, tags, files)
                made = self._client.create_model_version(
                    name, source=f"models:/{model.model_id}", run_id=model.source_run_id, tags=tags, model_id=model.model_id
                )
                version = described(self._client, made)
            else:
                self._fill_in(version, candidate, tags, files)
            self._client.set_registered_model_alias(name, CHALLENGER, version.version)
        return Registered(name, version.version, fresh)

    def _ensure_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _logged_model(self, candidate: Candidate, tags: Mapping[str, str], files: Path) -> LoggedModel:
        """Return a model with all files and numbers: one that a killed run began, or a new one."""
        wanted = " AND ".join(f"tags.`{tag}` = '{tags[tag]}'" for tag in (CORPUS, MD5, EVIDENCE))
        found = self._client.search_logged_models([self._experiment], f"name = '{candidate.kind}' AND {wanted}")
        model = found[0] if found else None
        if model is None:
            model = self._client.create_logged_model(
                self._experiment, candidate.kind, source_run_id=self._run(), tags=dict(tags), model_type=candidate.kind
            )
        self._send_files(model, candidate, files)
        self._send_metrics(model.model_id, candidate.metrics)
        return self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _fill_in(self, version: Version, candidate: Candidate, tags: Mapping[str, str], files: Path) -> None:
        """Give a version what a killed run, or somebody's broom, left out of it."""
        others = {tag: value for tag, value in tags.items() if tag not in (COMMIT, STAGE) and version.tags.get(tag) != value}
        if others or not self._is_whole(version):
            self._send_files(self._client.get_logged_model(str(version.model_id)), candidate, files)
        # The commit of its first registration stays, as long as it is one of these very files.
        changed = others and any(tag in version.tags for tag in others)
        for tag, value in tags.items():
            if tag in others or tag not in version.tags or changed:
                self._client.set_model_version_tag(version.name, version.version, tag, value)
        if any(version.metrics.get(name) != value for name, value in candidate.metrics.items()):
            self._send_metrics(str(version.model_id), candidate.metrics)

    def _is_whole(self, version: Version) -> bool:
        with tempfile.TemporaryDirectory(dir=self._workplace) as temporary:
            try:
                for what in FILES:
                    fetch(version, what, Path(temporary))
            except RegistryError as error:
                logger.warning("%s", error)
                return False
        return True

    def _send_files(self, model: LoggedModel, candidate: Candidate, files: Path) -> None:
        folder = self._workplace / candidate.kind / "mlflow"
        write_mlflow_model(candidate.kind, files, folder, model)
        self._client.log_model_artifacts(model.model_id, str(folder))

    def _send_metrics(self, model_id: str, metrics: Mapping[str, float]) -> None:
        now, run_id = int(time.time() * 1000), self._run()
        rows = [Metric(name, value, now, 0, model_id=model_id, run_id=run_id) for name, value in metrics.items()]
        for start in range(0, len(rows), _METRICS_PER_REQUEST):
            self._client.log_batch(run_id, metrics=rows[start : start + _METRICS_PER_REQUEST])

    @cached_property
    def _experiment(self) -> str:
        """The experiment of the corpus' runs; it is made if it is new, and restored if it was deleted."""
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is not None and found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id if found else self._client.create_experiment(self._experiment_name))

    def _run(self) -> str:
        """Return the run of this call; it is made when something is sent for the first time."""
        if self._run_id is None:
            tags = [self._found.tags[candidate.kind] for candidate in self._found.candidates]
            stages = ", ".join(dict.fromkeys(tag[STAGE] for tag in tags))
            run = self._client.create_run(
                self._experiment,
                run_name=RUN_NAME,
                tags={CORPUS: tags[0][CORPUS], COMMIT: tags[0][COMMIT], STAGE: stages},
            )
            self._run_id = str(run.info.run_id)
        return self._run_id


def _known(client: MlflowClient, name: str, tags: Mapping[str, str]) -> Version | None:
    """Return the first version with this model folder and evidence, or None. One whose logged model was deleted is no more."""
    versions = client.search_model_versions(f"name = '{name}' AND tags.`{MD5}` = '{tags[MD5]}'")
    for found in sorted(versions, key=lambda version: int(version.version)):
        if found.tags.get(EVIDENCE) == tags[EVIDENCE] and _is_there(client, model_of(found)):
            return described(client, found)
    return None


def _is_there(client: MlflowClient, model_id: str | None) -> bool:
    try:
        return bool(model_id) and client.get_logged_model(str(model_id)) is not None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
