"""What the training nodes share: start a run in the workspace, watch it in MLflow, keep its history as a table."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.tracking import flush, metric_logger
from umt_pipeline.training.launch import RunSpec, run
from umt_pipeline.training.state import final_weights
from umt_pipeline.training.task import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A finished training run: its folder, fingerprint, history (one row per logged step) and trained weights."""

    folder: Path
    fingerprint: str
    history: pd.DataFrame
    steps: int
    seconds: float

    def weights(self) -> dict[str, Tensor]:
        """Read the trained weights, named as in the task's model."""
        return load_file(final_weights(self.folder))

    def summary(self) -> dict[str, Any]:
        """Return what metric files say of a run: steps, seconds, median speed and waiting, and the last row's losses.

        ``unreadable`` is how many media could not be read and were replaced, ``matching_skipped`` how many samples had no
        negative, both per sample of the whole run.
        """
        pace = ("clips_per_s", "mfu", "data_wait")
        last = self.history.iloc[-1].drop(labels=["step", "eta_s"], errors="ignore")
        medians = {
            f"median_{name}": float(self.history[name].median())
            for name in pace
            if name in self.history
        }
        counted = ("unreadable", "matching_skipped")
        losses = {f"final_{name}": float(value) for name, value in last.items() if name not in (*pace, *counted)}
        for name in counted:
            if name in self.history:
                # Each row is the mean of the steps since the row before.
                steps = self.history["step"].diff().fillna(self.history["step"])
                losses[name] = float((self.history[name] * steps).sum() / steps.sum())
        return {"steps": self.steps, "seconds": round(self.seconds, 1), **medians, **losses, "run": self.fingerprint}


def train(
    name: str, task: str, kwargs: dict[str, Any], inputs: list[str], config: TrainConfig, seed: int, workspace: Path
) -> FinishedRun:
    """Train a task to its end in the workspace, going on where an interrupted run of the same fingerprint stopped.

    Args:
        name: of the run; its folder in the workspace, and the prefix of its metrics in MLflow.
        task: factory, as in :class:`RunSpec`.
        kwargs: the factory's arguments.
        inputs: hashes of the contents that the arguments only point to.
        config: the loop.
        seed: of weights, order and dropout.
        workspace: folder for unfinished work.
    """
    spec = RunSpec(task=task, kwargs=kwargs, inputs=fingerprint(inputs), train=config, seed=seed, run_dir=workspace)
    spec = spec.model_copy(update={"run_dir": workspace / name / spec.fingerprint})
    result = run(spec, metric_logger(name))
    flush()
    logger.info("%s: %d steps in %.1f s, run %s", name, result.steps, result.seconds, spec.fingerprint)
    return FinishedRun(spec.run_dir, spec.fingerprint, pd.DataFrame(result.history), result.steps, result.seconds)


def write_table(workspace: Path, name: str, table: pd.DataFrame) -> tuple[Path, str]:
    """Keep a table where training processes can map it (:class:`MappedTable`).

    Returns:
        The file, named after its content, and the hash of the content.
    """
    folder = workspace / "tables"
    unnamed = folder / f"{name}.arrow"
    write_mapped(unnamed, table)
    key = sha256_file(unnamed)[:16]
    path = folder / f"{name}-{key}.arrow"
    unnamed.replace(path)
    return path, key


def fresh_folder(workspace: Path, name: str) -> Path:
    """Return an empty folder in the workspace, in which a node puts together what the catalog then moves into place."""
    folder = workspace / "outbox" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
