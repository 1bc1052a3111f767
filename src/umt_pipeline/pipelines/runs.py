"""What the training nodes share: start a run in the workspace, watch it in MLflow, keep its history as a table."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.files import write_json
from umt_pipeline.core.identity import work_folder
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.tracking import flush, metric_logger
from umt_pipeline.training.launch import FinishedRun, run
from umt_pipeline.training.spec import RunSpec

logger = logging.getLogger(__name__)


def train(name: str, spec: RunSpec, workspace: Path) -> FinishedRun:
    """Train to the end in the workspace: a finished run of the same identity is taken, an interrupted one goes on.

    Args:
        name: of the run; its folder in the workspace, and the prefix of its metrics in MLflow.
        spec: the run.
        workspace: folder for unfinished work.
    """
    finished = run(spec, work_folder(workspace / name, spec.identity()), metric_logger(name))
    flush()
    logger.info("%s: %d steps in %.1f s, run %s", name, finished.result.steps, finished.result.seconds, finished.key)
    return finished


def exported(finished: FinishedRun, workspace: Path, name: str) -> Path:
    """Write a run's model into a fresh folder of the workspace."""
    folder = fresh_folder(workspace, name)
    finished.export(folder)
    return folder


def skipped_model(workspace: Path, name: str, reason: str) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Return what a node returns of a model that is not trained: a folder that says why, a history without rows, no summary."""
    folder = fresh_folder(workspace, name)
    write_json(folder / SKIPPED_FILE, {"reason": reason})
    return folder, pd.DataFrame({"step": pd.Series(dtype="int64"), "loss": pd.Series(dtype=float)}), {}


def fresh_folder(workspace: Path, name: str) -> Path:
    """Return an empty folder in the workspace, in which a node puts together what the catalog then moves into place."""
    folder = workspace / "outbox" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
