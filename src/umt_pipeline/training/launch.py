"""Starts a run from a spec that can be written down: in this process, or as ranks of ``torch.distributed.run``.

Several machines (SLURM, Kubernetes) use the same entry point under their own launcher, on a shared file system:

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:PORT -m umt_pipeline.training.launch RUN_DIR/spec.json
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import Field, field_validator
from torch.distributed.elastic.multiprocessing.errors import record

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.training import state
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.loop import OnRow, replay, train
from umt_pipeline.training.metrics import Progress
from umt_pipeline.training.state import TrainResult
from umt_pipeline.training.task import Task, TrainConfig

logger = logging.getLogger(__name__)


class RunSpec(Config):
    """Everything that a training process needs to know, as JSON.

    ``inputs`` is a fingerprint of the contents that ``kwargs`` only point to (store manifest, weight hash): a path
    stays the same when the data behind it changes, and the old run must not be taken for the new one.
    """

    task: str = Field(pattern=r"^[\w.]+:\w+$", description="module:function that returns the Task")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its arguments, JSON values only")
    inputs: str = Field(description="fingerprint of the contents of the inputs")
    train: TrainConfig
    seed: int = Field(ge=0)
    run_dir: Path

    @field_validator("kwargs")
    @classmethod
    def _json_only(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for key, value in kwargs.items():
            try:
                same = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"argument {key!r} is not JSON: {error}; pass model_dump(mode='json') or str()"
                ) from error
            if not same:
                raise ValueError(f"argument {key!r} changes when written as JSON; use lists, not tuples, and str keys")
        return kwargs

    @property
    def identity(self) -> str:
        """Task and inputs, as ``train`` wants it."""
        return fingerprint(self.task, self.kwargs, self.inputs)

    @property
    def fingerprint(self) -> str:
        """Names the run; final weights depend on nothing else (on one machine)."""
        return state.run_fingerprint(self.train, self.seed, self.identity)


def run(spec: RunSpec, on_row: OnRow | None = None) -> TrainResult:
    """Train as ``spec`` says and wait for the end; a finished run is returned at once.

    Args:
        spec: the run.
        on_row: called in this process with every row, so that no rank talks to a tracker.

    Raises:
        TrainingError: training failed; from ranks, with the end of their log.
    """
    if spec.train.nproc == 1:
        return _train_here(spec, on_row, rank=0, world=1)
    if result := state.finished(spec.run_dir, spec.fingerprint):
        logger.info("%s is finished (%d steps): not trained again", spec.run_dir, result.steps)
        replay(result.history, on_row)
        return result
    if resolve_device(spec.train.device).type == "cuda" and spec.train.nproc > torch.cuda.device_count():
        raise ConfigError(
            f"`nproc: {spec.train.nproc}` needs as many CUDA devices, found {torch.cuda.device_count()}; lower `nproc`"
        )
    with state.run_lock(spec.run_dir):
        state.prepare(spec.run_dir, spec.fingerprint)  # the followed history must not be cut while it is read
    _run_ranks(spec, on_row)
    result = state.finished(spec.run_dir, spec.fingerprint)
    if result is None:
        raise TrainingError(f"the ranks ended without an error but wrote no {state.final_weights(spec.run_dir)}")
    return result


def _run_ranks(spec: RunSpec, on_row: OnRow | None) -> None:
    spec_path, log_path = spec.run_dir / "spec.json", spec.run_dir / "ranks.log"
    write_json(spec_path, spec.model_dump(mode="json"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={spec.train.nproc}"]
    command += ["-m", "umt_pipeline.training.launch", str(spec_path)]
    follower = state.HistoryFollower(spec.run_dir)
    with (
        log_path.open("wb") as log,
        _ended(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_rank_environment(spec))) as process,
        Progress(spec.task.partition(":")[2], spec.train.steps) as progress,
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
    """Call the task factory under ``torch.manual_seed(spec.seed)``, so that all ranks start from the same weights.

    Raises:
        ConfigError: there is no such factory, or it does not take these arguments.
    """
    module, _, function = spec.task.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"task {spec.task!r} cannot be imported: {error}") from error
    torch.manual_seed(spec.seed)
    task = factory(**spec.kwargs)
    if not isinstance(task, Task):
        raise ConfigError(f"task factory {spec.task!r} returned a {type(task).__name__}, expected a Task")
    return task


def _train_here(spec: RunSpec, on_row: OnRow | None, rank: int, world: int) -> TrainResult:
    return train(
        build_task(spec),
        spec.train,
        seed=spec.seed,
        run_dir=spec.run_dir,
        identity=spec.identity,
        on_row=on_row,
        rank=rank,
        world=world,
    )


@record  # writes the error where torch.distributed.run finds it, so that its summary names the root cause
def main(spec_path: str) -> None:
    """Entry point of a rank: ``python -m umt_pipeline.training.launch spec.json`` under torchrun, or alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    spec = RunSpec.model_validate(read_json(Path(spec_path)))
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        _train_here(spec, None, rank, world)
        return
    device = resolve_device(spec.train.device)
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        _train_here(spec, None, rank, world)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
