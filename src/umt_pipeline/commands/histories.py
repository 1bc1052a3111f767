"""How models were trained: curves of versions out of git's history, and of the last runs out of MLflow."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow.tracking import MlflowClient

from umt_pipeline.commands.evaluate_again import TEACHER, model_dataset
from umt_pipeline.dvc_stages import stages_file
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.registry.names import MD5
from umt_pipeline.registry.reading import Version, registry_errors

# Runs beside champion and challenger, and seconds that git may take.
LAST_RUNS, _GIT_SECONDS = 4, 60


@dataclass(frozen=True)
class History:
    """Rows of a training by step, or why they are not known here."""

    rows: pd.DataFrame
    missing: str = ""


def locked_md5(project: Path, corpus: str | None, kind: str) -> str | None:
    """Return DVC's hash of a kind's model folder as dvc.lock has it, or None if it was never made."""
    file = stages_file(project, corpus).with_name("dvc.lock")
    if not file.is_file():
        return None
    wanted = _relative(project, corpus, model_dataset(kind))
    stages: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")).get("stages", {})
    found = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", ())}
    return found.get(wanted)


def version_history(project: Path, corpus: str | None, kind: str, version: Version) -> History:
    """Return the history of a version's training: the file that lay beside its model in the commit that locked it.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model.
        version: of the registry.
    """
    md5, name = version.tags.get(MD5, ""), _relative(project, corpus, f"{kind}_history")
    lock = stages_file(project, corpus).with_name("dvc.lock").relative_to(project).as_posix()
    try:
        if md5 and md5 == locked_md5(project, corpus, kind) and (project / name).is_file():
            return History(pd.read_csv(project / name))
        commits = _git(project, "log", "--all", "--reverse", "--format=%H", f"-S{md5}", "--", lock).split() if md5 else []
        if not commits:
            return History(pd.DataFrame(), f"no commit here has a {lock} with its model, {md5 or 'of no known hash'}")
        return History(pd.read_csv(io.StringIO(_git(project, "show", f"{commits[0]}:./{name}"))))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines() or [type(error).__name__]
        return History(pd.DataFrame(), f"{name} of its commit cannot be read: {said[-1]}")


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
    experiment = str(config_loader(project, "base")["mlflow"]["tracking"]["experiment"]["name"])
    stage = "teacher_features" if kind == TEACHER else kind
    with registry_errors(f"runs of {stage}"):
        client = MlflowClient()
        if (known := client.get_experiment_by_name(experiment)) is None:
            return {}
        wanted = f"attributes.run_name = '{stage}' and attributes.status = 'FINISHED'"
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


def _relative(project: Path, corpus: str | None, dataset: str) -> str:
    return catalog_path(project, config_loader(project, corpus), dataset).relative_to(project).as_posix()


def _git(project: Path, *arguments: str) -> str:
    command = ["git", "-C", str(project), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_GIT_SECONDS).stdout
