"""Which code and which DVC stage a run belongs to."""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.git import git

# Under `dvc repro` and `dvc exp run` DVC exports these.
_DVC_VARIABLES = {
    "DVC_STAGE": "dvc.stage",
    "DVC_EXP_NAME": "dvc.exp_name",
    "DVC_EXP_BASELINE_REV": "dvc.exp_baseline_rev",
}

_MAX_TAG = 5000

_log = logging.getLogger(__name__)


def provenance_tags(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say which code and which DVC stage a run belongs to.

    ``git.dirty`` is about inputs: ``dvc.lock`` and ``results/`` are what runs write, here and in ``corpora/``, so they do not
    count. A project that is not in git, or a machine without it, gives no git tags.
    """
    tags = {tag: environment[variable] for variable, tag in _DVC_VARIABLES.items() if environment.get(variable)}
    try:
        tags["git.commit"] = git(project, "rev-parse", "HEAD")
        written = ("dvc.lock", "results", "corpora/*/dvc.lock", "corpora/*/results")
        changes = git(project, "status", "--porcelain", "--", ".", *(f":!{path}" for path in written))
        tags["git.dirty"] = str(bool(changes)).lower()
    except ConfigError:
        _log.info("%s: no git commit to tag the run with", project)
    return tags


def run_tags(run_params: Mapping[str, Any], commit: str | None) -> dict[str, str]:
    """Return the tags by which MLflow's own page shows where a run comes from.

    Args:
        run_params: as Kedro gives them to hooks.
        commit: of git.
    """
    command = "kedro run"
    if env := run_params.get("env"):
        command += f" --env {env}"
    if names := run_params.get("pipeline_names"):
        command += f" --pipelines {','.join(names)}"
    if params := run_params.get("runtime_params"):
        command += f" --params {json.dumps(params, default=str)}"
    tags = {"mlflow.source.name": command[:_MAX_TAG], "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError):  # a container whose user has no name
        tags["mlflow.user"] = getpass.getuser()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def commit_of(project: Path, file: Path) -> str | None:
    """Return the commit that a file is of, as it is; None: it was changed since, is in no commit, or there is no git."""
    try:
        if git(project, "status", "--porcelain", "--", str(file)):
            return None
        return git(project, "log", "-1", "--format=%H", "--", str(file)) or None
    except ConfigError:
        return None


def page_provenance(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ties a page to its code: the tags of the run in the current folder, and the versions that records name.

    Args:
        records: as :class:`umt_pipeline.evaluation.records.Record` dumps them.
    """
    versions = {record["protocol"]["version"] for record in records if record.get("protocol")}
    return {"run": provenance_tags(Path.cwd(), os.environ), "version": sorted(versions)}

