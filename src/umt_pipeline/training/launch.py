"""Starts a run from a spec that can be written down: in this process, or as ranks of ``torch.distributed.run``.

Several machines (SLURM, Kubernetes) use the same entry point under their own launcher, on a shared file system:

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -m umt_pipeline.training.launch RUN_DIR/spec.json
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from umt_pipeline.core.errors import CheckpointError, ConfigError, TrainingError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.identity import IDENTITY_FILE, Identity
from umt_pipeline.training import state
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.loop import OnRow, replay, train
from umt_pipeline.training.metrics import Progress
from umt_pipeline.training.spec import RunSpec, read_spec, write_spec
from umt_pipeline.training.state import TrainResult
from umt_pipeline.training.task import Task

if TYPE_CHECKING:
    import pandas as pd

SPEC_FILE = "spec.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        spec: what was trained.
        folder: of the run.
        key: names the run.
        result: history, steps and seconds.
    """

    spec: RunSpec
    folder: Path
    key: str
    result: TrainResult

    @property
    def history(self) -> pd.DataFrame:
        """One row per logged step."""
        import pandas as pd  # ranks have no use for it

        return pd.DataFrame(self.result.history)

    def weights(self) -> dict[str, Tensor]:
        """Read the trained weights, named as in the task's model."""
        return load_file(state.final_weights(self.folder))

    def export(self, folder: Path) -> None:
        """Write the model into ``folder``, which exists and is empty; see :meth:`RunSpec.export`."""
        self.spec.export(self.weights(), folder, {"steps": self.result.steps, "seed": self.spec.seed, "run": self.key})

    def summary(self) -> dict[str, Any]:
        """Return what metric files say of a run: steps, seconds, median speed and waiting, and the last row's losses.

        ``unreadable`` is how many media could not be read and were replaced, ``matching_skipped`` how many samples had no
        negative, both per sample of the whole run.
        """
        pace, counted = ("clips_per_s", "mfu", "data_wait"), ("unreadable", "matching_skipped")
        history = self.history
        last = history.iloc[-1].drop(labels=["step", "eta_s", *pace, *counted], errors="ignore")
        medians = {f"median_{name}": float(history[name].median()) for name in pace if name in history}
        losses = {f"final_{name}": float(value) for name, value in last.items()}
        for name in counted:
            if name in history:
                # Each row is the mean of the steps since the row before.
                steps = history["step"].diff().fillna(history["step"])
                losses[name] = float((history[name] * steps).sum() / steps.sum())
        return {"steps": self.result.steps, "seconds": round(self.result.seconds, 1), **medians, **losses, "run": self.key}


def run(spec: RunSpec, run_dir: Path, on_row: OnRow | None = None) -> FinishedRun:
    """Train as ``spec`` says and wait for the end; go on with a run that was interrupted; return a finished one at once.

    Args:
        spec: the run.
        run_dir: its folder (``training.state``), shared by all ranks; from :func:`umt_pipeline.core.identity.work_folder`,
            or one that is not there yet.
        on_row: called in this process with every row, so that no rank talks to a tracker.

    Raises:
        CheckpointError: the folder holds another run, or a damaged checkpoint.
        TrainingError: training failed; from ranks, with the end of their log.
    """
    key = _require_same_run(spec, run_dir)
    if result := state.finished(run_dir, key):
        logger.info("%s is finished (%d steps): not trained again", run_dir, result.steps)
        replay(result.history, on_row)
        return FinishedRun(spec, run_dir, key, result)
    if spec.train.nproc == 1:
        return FinishedRun(spec, run_dir, key, _train_here(spec, run_dir, key, on_row))
    if resolve_device(spec.train.device).type == "cuda" and spec.train.nproc > torch.cuda.device_count():
        raise ConfigError(
            f"`nproc: {spec.train.nproc}` needs as many CUDA devices, found {torch.cuda.device_count()}; lower `nproc`"
        )
    with state.run_lock(run_dir):
        state.prepare(run_dir, key)  # the followed history must not be cut while it is read
    _run_ranks(spec, run_dir, on_row)
    result = state.finished(run_dir, key)
    if result is None:
        raise TrainingError(f"the ranks ended without an error but wrote no {state.final_weights(run_dir)}")
    return FinishedRun(spec, run_dir, key, result)


def _require_same_run(spec: RunSpec, run_dir: Path) -> str:
    """Return the key of the run in the folder; write the run's identity into a new one."""
    file, own = run_dir / IDENTITY_FILE, spec.identity()
    if not file.is_file():
        write_json(file, own.as_json())
        return own.key
    document = read_json(file)
    there = Identity.from_json(document)
    if not own.agrees_with(there):
        raise CheckpointError(
            f"{run_dir} holds another run: {'; '.join(own.differences(there)) or 'it has other settings'}. Train elsewhere, "
            "or delete the folder"
        )
    return str(document["key"])


def _run_ranks(spec: RunSpec, run_dir: Path, on_row: OnRow | None) -> None:
    spec_path, log_path = run_dir / SPEC_FILE, run_dir / "ranks.log"
    write_spec(spec_path, spec)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.train.nproc}"]
    command += ["-m", "umt_pipeline.training.launch", str(spec_path)]
    follower = state.HistoryFollower(run_dir)
    with (
        log_path.open("wb") as log,
        _ended(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_rank_environment(spec))) as process,
        Progress(type(spec).__name__, spec.train.steps) as progress,
    ):
        running = True
        while running:
            running = process.poll() is None  # asked before reading, so that the last rows are read too
            for row in follower.new_rows():
                if on_row:
                    on_row(row)
                progress.show(row)
            time.sleep(0.2 if running else 0.0)
    if process.returncode != 0:
        tail = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])
        raise TrainingError(
            f"training on {spec.train.nproc} processes failed (exit status {process.returncode}); "
            f"whole log: {log_path}; its end:\n{tail}"
        )


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, ended for sure when the block is left (an interrupted parent leaves no ranks behind)."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # torch.distributed.run passes it on to its ranks
        process.wait()


def _rank_environment(spec: RunSpec) -> dict[str, str]:
    environment = dict(os.environ)
    # Whatever can be imported here can be imported there, also in a notebook or a test with its own sys.path.
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // spec.train.nproc)))
    return environment


def build_task(spec: RunSpec) -> Task:
    """Make the run's task under ``torch.manual_seed(spec.seed)``, so that all ranks start from the same weights."""
    torch.manual_seed(spec.seed)
    return spec.build()


def _train_here(spec: RunSpec, run_dir: Path, key: str, on_row: OnRow | None = None) -> TrainResult:
    return train(build_task(spec), spec.train, seed=spec.seed, run_dir=run_dir, run=key, on_row=on_row)


@record  # writes the error where torch.distributed.run finds it, so that its summary names the root cause
def main(spec_path: str) -> None:
    """Entry point of a rank: ``python -m umt_pipeline.training.launch spec.json`` under torchrun, or alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    spec, run_dir = read_spec(Path(spec_path)), Path(spec_path).parent
    key = _require_same_run(spec, run_dir)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _train_here(spec, run_dir, key)
        return
    device = resolve_device(spec.train.device)
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        _train_here(spec, run_dir, key)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
