"""How models were trained: curves of versions out of git's history, and of the last runs out of MLflow."""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.tracking import MlflowClient

from umt_pipeline.commands.evaluate_again import TEACHER
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.git import git
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.registry.names import COMMIT, CORPUS, DEMO
from umt_pipeline.registry.reading import Version, registry_errors
from umt_pipeline.tracking.target import project_target

LAST_RUNS = 4  # beside champion and challenger


@dataclass(frozen=True)
class History:
    """Rows of a training by step, or why they are not known here."""

    rows: pd.DataFrame
    missing: str = ""


def version_history(project: Path, corpus: str | None, kind: str, version: Version) -> History:
    """Return the history of a version's training: the file that lay beside its model in the commit that it was registered at.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model.
        version: of the registry.
    """
    name = catalog_path(project, config_loader(project, corpus), f"{kind}_history").relative_to(project).as_posix()
    commit = version.tags.get(COMMIT, "")
    try:
        return History(pd.read_csv(io.StringIO(git(project, "show", f"{commit}:./{name}"))))
    except (ConfigError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        return History(pd.DataFrame(), f"{name} of commit {commit[:12] or 'unknown'} cannot be read here: {said}")


def last_runs(project: Path, corpus: str | None, kind: str, columns: Collection[str]) -> dict[str, pd.DataFrame]:
    """Return the histories of the last finished runs that MLflow knows of a kind's training, by name, the latest first.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model.
        columns: of the histories, such as ``loss``.

    Raises:
        RegistryError: MLflow cannot be asked.
    """
    experiment = project_target(config_loader(project, corpus), project).experiment
    stage = "teacher_features" if kind == TEACHER else kind
    with registry_errors(f"runs of {stage}"):
        client = MlflowClient()
        if (known := client.get_experiment_by_name(experiment)) is None:
            return {}
        wanted = f"attributes.run_name = '{stage}' and attributes.status = 'FINISHED' and tags.`{CORPUS}` = '{corpus or DEMO}'"
        found = {}
        for run in client.search_runs([known.experiment_id], wanted, max_results=LAST_RUNS, order_by=["start_time DESC"]):
            keys = [column for column in columns if f"{kind}/{column}" in run.data.metrics]
            values = {
                key: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, f"{kind}/{key}")}
                for key in keys
            }
            if values:
                found[f"run {run.info.run_id[:8]}"] = pd.DataFrame(values).rename_axis("step").sort_index().reset_index()
    return found
