"""Starts a run from a spec that can be written down: in this process, or as ranks of ``torch.distributed.run``.

Several machines that share a file system use the same entry point; each of them starts the same line (docs/cluster.md):

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT \
      -m umt_pipeline.training.launch RUN_DIR/spec.json

``python -m umt_pipeline.training.torchrun`` in place of ``torchrun`` takes the same arguments and tells a scheduler by its exit
status whether to start the run again.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from umt_pipeline.core.errors import CheckpointError, ConfigError, TrainingError, TrainingInterrupted
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.identity import IDENTITY_FILE, Identity, code_parts
from umt_pipeline.core.processes import cores
from umt_pipeline.training import state, stopping
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.loop import OnRow, replay, train
from umt_pipeline.training.metrics import MEASURED, Progress
from umt_pipeline.training.peers import Peers, lost_peers_named
from umt_pipeline.training.spec import RunSpec, read_spec, write_spec
from umt_pipeline.training.state import TrainResult
from umt_pipeline.training.task import Task

if TYPE_CHECKING:
    import pandas as pd

SPEC_FILE = "spec.json"
# Of a run, their median is told.
_PACE = ("clips_per_s", "mfu", "data_wait")

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
        """One row per logged step, with what code, data and seed decide; :meth:`times` has the rest."""
        import pandas as pd  # ranks have no use for it

        return pd.DataFrame(self.result.history).drop(columns=list(MEASURED), errors="ignore")

    def weights(self) -> dict[str, Tensor]:
        """Read the trained weights, named as in the task's model."""
        return load_file(state.final_weights(self.folder))

    def export(self, folder: Path) -> None:
        """Write the model into ``folder``, which exists and is empty; see :meth:`RunSpec.export`."""
        self.spec.export(self.weights(), folder, {"steps": self.result.steps, "seed": self.spec.seed, "run": self.key})

    def summary(self) -> dict[str, Any]:
        """Return what metric files say of a run: steps, its key, and the last row's losses.

        ``unreadable`` is how many media could not be read and were replaced, ``matching_skipped`` how many samples had no
        negative, both per sample of the whole run; ``tflops`` is what all of it took, where that is counted.
        """
        counted = ("unreadable", "matching_skipped")
        history = self.history
        last = history.iloc[-1].drop(labels=["step", "tflops", *counted], errors="ignore")
        losses = {f"final_{name}": float(value) for name, value in last.items()}
        if "tflops" in history:
            losses["tflops"] = float(history["tflops"].sum())
        for name in counted:
            if name in history:
                # Each row is the mean of the steps since the row before.
                steps = history["step"].diff().fillna(history["step"])
                losses[name] = float((history[name] * steps).sum() / steps.sum())
        return {"steps": self.result.steps, **losses, "run": self.key}

    def times(self) -> dict[str, Any]:
        """Return what the run took on the machine that it ran on, which differs between equal runs.

        ``seconds`` of training; the median speed, utilisation and waiting; the peak of memory; and ``rows``: the step and
        these numbers of each row of the history, by column.
        """
        import pandas as pd

        rows = pd.DataFrame(self.result.history)
        there = [name for name in MEASURED if name in rows]
        medians = {f"median_{name}": float(rows[name].median()) for name in _PACE if name in there}
        peak = {"peak_memory_mib": float(rows["peak_memory_mib"].max())} if "peak_memory_mib" in there else {}
        return {"seconds": round(self.result.seconds, 1), **medians, **peak, "rows": rows[["step", *there]].to_dict("list")}


def run(spec: RunSpec, run_dir: Path, on_row: OnRow | None = None) -> FinishedRun:
    """Train as ``spec`` says and wait for the end; go on with a run that was interrupted; return a finished one at once.

    Args:
        spec: the run.
        run_dir: its folder (``training.state``), shared by all ranks; from :func:`umt_pipeline.core.identity.work_folder`
            with the identity of ``spec.resolved()``, or one that is not there yet.
        on_row: called in this process with every row, so that no rank talks to a tracker.

    Raises:
        CheckpointError: the folder holds another run, or a damaged checkpoint.
        ConfigError: the run cannot be trained on ``nproc`` processes.
        TrainingError: training failed; from ranks, with the end of their log.
        TrainingInterrupted: training was asked to stop, and saved a checkpoint.
    """
    spec = spec.resolved()  # before ranks start, so that all take the same
    key = require_same_run(spec, run_dir)
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


def require_same_run(spec: RunSpec, run_dir: Path) -> str:
    """Return the key of the run in the folder; write the run's identity into a new one.

    Raises:
        CheckpointError: the folder holds another run.
    """
    file, own = run_dir / IDENTITY_FILE, spec.identity()
    if not file.is_file():
        write_json(file, own.as_json())
        return own.key
    document = read_json(file)
    there = Identity.from_json(document)
    if not own.agrees_with(there):
        begun, now = (identity.settings.get("train.precision") for identity in (there, own))
        hint = f"set train.precision to {begun.value} to go on with it, train" if begun and now and begun != now else "train"
        raise CheckpointError(
            f"{run_dir} holds another run: {'; '.join(own.differences(there)) or 'it has other settings'}. To go on: {hint} "
            "elsewhere, or delete the folder"
        )
    return str(document["key"])


def _run_ranks(spec: RunSpec, run_dir: Path, on_row: OnRow | None) -> None:
    spec_path, log_path = run_dir / SPEC_FILE, run_dir / "ranks.log"
    write_spec(spec_path, spec)
    command = [sys.executable, "-m", "umt_pipeline.training.torchrun", "--standalone"]
    command += [f"--nproc-per-node={spec.train.nproc}", "-m", "umt_pipeline.training.launch", str(spec_path)]
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
    if process.returncode == stopping.INTERRUPTED_STATUS:
        raise TrainingInterrupted(f"{run_dir}: training was asked to stop and saved a checkpoint; run again to go on from it")
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
            process.terminate()  # passed on to the ranks, which save a checkpoint first
        process.wait()


def _rank_environment(spec: RunSpec) -> dict[str, str]:
    environment = dict(os.environ)
    # Whatever can be imported here can be imported there, also in a notebook or a test with its own sys.path.
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    environment[stopping.STARTED_BY_VARIABLE] = str(os.getpid())
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // spec.train.nproc)))
    return environment


def build_task(spec: RunSpec) -> Task:
    """Make the run's task under ``torch.manual_seed(spec.seed)``, so that all ranks start from the same weights."""
    torch.manual_seed(spec.seed)
    return spec.build()


def _train_here(spec: RunSpec, run_dir: Path, key: str, on_row: OnRow | None = None) -> TrainResult:
    return train(build_task(spec), spec.train, seed=spec.seed, run_dir=run_dir, run=key, on_row=on_row)


@record  # writes the error where torch.distributed.run finds it, so that its summary names the root cause
def main(spec_path: str) -> None:
    """Entry point of a rank: ``python -m umt_pipeline.training.launch spec.json`` under torchrun, or alone.

    SIGTERM and SIGUSR1 make all ranks save a checkpoint and end. Alone, the exit status then is
    :data:`umt_pipeline.training.stopping.INTERRUPTED_STATUS`; under torchrun it is 0, for any other would start ranks again.

    Raises:
        ConfigError: the spec is of another version, ranks are not of one mind, or the run cannot be trained on so many.
        TrainingError: training failed, here or on another rank.
    """
    stopping.listen()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    spec, run_dir = read_spec(Path(spec_path)), Path(spec_path).parent
    try:
        with _together(spec):
            peers = Peers(spec.train.timeout)
            spec = spec.resolved()
            require_one_mind(peers, spec)
            spec.check_world(peers.world)
            _train_here(spec, run_dir, peers.decided_by_first(lambda: require_same_run(spec, run_dir)))
    except TrainingInterrupted as interrupted:
        logger.warning("%s", interrupted)
        stopping.tell_interrupted()
        if not stopping.started_by_launcher():
            sys.exit(stopping.INTERRUPTED_STATUS)


@contextmanager
def _together(spec: RunSpec) -> Iterator[None]:
    """The group of all processes, while the block runs; a process by itself needs none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device, timeout = resolve_device(spec.train.device), spec.train.timeout
    host, rank, world = socket.gethostname(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with lost_peers_named(rank, world, host, timeout):
        if device.type == "cuda":
            dist.init_process_group("nccl", device_id=device, timeout=timedelta(seconds=timeout))
        else:
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        try:
            yield
        except TrainingInterrupted:
            dist.destroy_process_group()
            raise
        # After any other error the group is left to the end of the process: to take it down, others would have to answer.
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Mind:
    """What a process would train: which run, by which code."""

    host: str
    identity: dict[str, Any]
    code: dict[str, str]
    torch: str


def require_one_mind(peers: Peers, spec: RunSpec) -> None:
    """Refuse to train if a process has other code, other data or another spec than the first one.

    Raises:
        ConfigError: some do; each machine is named, with what is different there.
    """
    own = _Mind(socket.gethostname(), spec.identity().as_json(), code_parts(*spec.code_sources()), torch.__version__)
    minds = peers.gather(own)
    first = minds[0]
    found = {mind.host: text for mind in minds if (text := "; ".join(_differences(mind, first)))}
    if found:
        lines = "\n".join(f"  {host}: {text}" for host, text in found.items())
        raise ConfigError(
            f"the processes do not train the same run. Different from {first.host}, which has the first process:\n{lines}\n"
            "Install the same version everywhere, and let all machines read the same files"
        )


def _differences(mind: _Mind, first: _Mind) -> list[str]:
    own, its = Identity.from_json(mind.identity), Identity.from_json(first.identity)
    found = [] if mind.torch == first.torch else [f"torch {mind.torch} in place of {first.torch}"]
    if own.code != its.code:
        files = sorted(name for name in mind.code.keys() | first.code.keys() if mind.code.get(name) != first.code.get(name))
        found.append(f"other code in {', '.join(files[:5])}{' and more' if len(files) > 5 else ''}")
        own = Identity(own.settings, own.inputs, its.code)
    return found + own.differences(its)


if __name__ == "__main__":
    main(sys.argv[1])
