"""What nodes share: start a run in the workspace, watch it in MLflow, keep its history; know contents by hashes.

A stage that trains first says what, as data: a dataset ``<something>_runs`` of runs by name. So ``umt spec`` can write them
down for other machines to train, and a later run of the stage finds them finished.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.core.identity import IDENTITY_FILE, Identity, fingerprint, work_folder
from umt_pipeline.data.mapped import table_sha256
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.tracking import metric_logger
from umt_pipeline.training.launch import SPEC_FILE, FinishedRun, run
from umt_pipeline.training.spec import RunSpec, write_spec
from umt_pipeline.training.state import final_weights, newest_checkpoint

# What a model folder is known by.
MODEL_FILES = ("*.safetensors", "config.json", SKIPPED_FILE)

# How datasets end whose values are runs by name.
RUNS = "_runs"
NamedRuns = Mapping[str, RunSpec]
# What a node returns of a model: its folder, the history and the summary of its training, and what that took.
TrainedModel = tuple[Path, pd.DataFrame, dict[str, Any], dict[str, Any]]

logger = logging.getLogger(__name__)


def train(name: str, spec: RunSpec, workspace: Path) -> FinishedRun:
    """Train to the end in the workspace: a finished run of the same identity is taken, an interrupted one goes on.

    Args:
        name: of the run; its folder in the workspace, and the prefix of its metrics in MLflow.
        spec: the run.
        workspace: folder for unfinished work.

    Raises:
        CheckpointError: see :func:`umt_pipeline.training.launch.run`; or the run was begun in another precision than ``auto``
            takes now, as on another kind of device.
        TrainingError: training failed.
    """
    chosen = spec.resolved()
    if spec.train.precision == "auto":
        _require_not_begun_otherwise(chosen, workspace / name)
    finished = run(chosen, work_folder(workspace / name, chosen.identity()), metric_logger(name))
    logger.info("%s: %d steps in %.1f s, run %s", name, finished.result.steps, finished.result.seconds, finished.key)
    return finished


def _require_not_begun_otherwise(spec: RunSpec, folder: Path) -> None:
    """Refuse to leave an unfinished run behind in silence because ``auto`` takes another precision on this device."""
    own = spec.train.precision
    for begun in ("fp32", "bf16"):
        other = spec.model_copy(update={"train": spec.train.model_copy(update={"precision": begun})}).identity()
        for file in sorted(folder.glob(f"*/{IDENTITY_FILE}")) if begun != own else ():
            there = file.parent
            unfinished = newest_checkpoint(there) is not None and not final_weights(there).is_file()
            if unfinished and other.agrees_with(Identity.from_json(read_json(file))):
                raise CheckpointError(
                    f"{there}: expected a run in {own}, which `train.precision: auto` takes on this device, found one that was "
                    f"begun in {begun} and not finished. Set precision to {begun} to go on with it, or to {own} to train anew"
                )


def write_down(name: str, spec: RunSpec, workspace: Path) -> tuple[Path, bool]:
    """Write a run's spec into its folder in the workspace, where :func:`train` will look for it; nothing is started.

    A precision of ``auto`` becomes what this machine would take: it is part of what a run is known by.

    Returns:
        The spec's file, and whether the run is finished.
    """
    chosen = spec.resolved()
    folder = work_folder(workspace / name, chosen.identity())
    write_spec(folder / SPEC_FILE, chosen)
    return folder / SPEC_FILE, final_weights(folder).is_file()


def exported(finished: FinishedRun, workspace: Path, name: str) -> Path:
    """Write a run's model into a fresh folder of the workspace."""
    folder = fresh_folder(workspace, name)
    finished.export(folder)
    return folder


def trained_model(finished: FinishedRun, workspace: Path, name: str) -> TrainedModel:
    """Return what a node returns of a model that was trained."""
    return exported(finished, workspace, name), finished.history, finished.summary(), finished.times()


def skipped_model(workspace: Path, name: str, reason: str) -> TrainedModel:
    """Return what a node returns of a model that is not trained: a folder that says why, a history without rows, no numbers."""
    folder = fresh_folder(workspace, name)
    write_json(folder / SKIPPED_FILE, {"reason": reason})
    return folder, pd.DataFrame({"step": pd.Series(dtype="int64"), "loss": pd.Series(dtype=float)}), {}, {}


def with_speeds(history: pd.DataFrame, times: Mapping[str, Any]) -> pd.DataFrame:
    """Return a history with the columns of its times, where there are any, for a page.

    Args:
        history: rows of training; with a column ``part`` where parts have names.
        times: of :meth:`FinishedRun.times`; by part where parts have names.
    """
    if "part" in history:
        parts = history.groupby("part", sort=False)
        whole = [with_speeds(rows.drop(columns="part"), times.get(str(part), {})).assign(part=part) for part, rows in parts]
        return pd.concat(whole, ignore_index=True)
    rows = times.get("rows")
    return history if not rows else history.merge(pd.DataFrame(rows), on="step", how="left")


def without_rows(times: Mapping[str, Any]) -> dict[str, Any]:
    """Return times, nested or not, without what each row of a history took."""
    return {
        name: without_rows(value) if isinstance(value, Mapping) else value for name, value in times.items() if name != "rows"
    }


def content_keys(contents: Mapping[str, pd.DataFrame | Path]) -> dict[str, str]:
    """Return hashes of tables and of the models in folders. Raw media are left out: the video table has their hashes."""
    keys = {}
    for name, value in contents.items():
        if isinstance(value, pd.DataFrame):
            keys[name] = table_sha256(value)
        elif not name.startswith("raw_"):
            files = sorted(file for pattern in MODEL_FILES for file in value.rglob(pattern))
            keys[name] = fingerprint({file.relative_to(value).as_posix(): sha256_file(file) for file in files})
    return keys


def fresh_folder(workspace: Path, name: str) -> Path:
    """Return an empty folder in the workspace, in which a node puts together what the catalog then moves into place."""
    folder = workspace / "outbox" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
