"""The folder of a run: history, checkpoints, final weights.

    run_dir/
      history.jsonl                     one row of metrics per line
      checkpoint/step-00000100/         model.safetensors, optimizer.pt, checkpoint.json; ema.safetensors with `ema`
      final/                            model.safetensors, result.json: there when, and only when, the run is finished
                                        (with `ema` the model is the average, and raw.safetensors are the last weights)
      nonfinite/                        batches that gave a non-finite loss

A checkpoint is a new folder that gets its name by one rename after its files are on disk, and older ones are removed
only then: whatever moment a process is killed at, the newest named folder is whole. There is no RNG state to keep:
sample order, masks and dropout of a step are derived from (seed, step, rank), and the learning rate from the step.

Of several ranks the first alone writes here, holding the lock. It also says which checkpoint all go on from, and by which hash
they know it: on a shared file system a machine may see an older folder for a while (:func:`await_same`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pickle
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umt_pipeline.core.errors import CheckpointError, TrainingError
from umt_pipeline.core.files import read_json, sha256_folder, staged_file, staged_folder, write_json
from umt_pipeline.training.ema import AverageWeights

logger = logging.getLogger(__name__)

Row = dict[str, float]

# What file systems say that keep no locks, as against a lock that somebody holds.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run returns.

    Args:
        history: rows of metrics, oldest first (``training.metrics.COLUMNS`` and the task's loss parts).
        steps: optimiser steps of the whole run.
        seconds: training time, including that before a resume.
    """

    history: list[Row]
    steps: int
    seconds: float


@dataclass(frozen=True)
class CheckpointInfo:
    """``checkpoint.json``: where the run stands and what it belongs to.

    Args:
        step: finished optimiser steps, which is also the sampler's position.
        fingerprint: names the run.
        samples: size of the training data set.
        seconds: training time so far.
    """

    step: int
    fingerprint: str
    samples: int
    seconds: float


def final_weights(run_dir: Path) -> Path:
    """Where a finished run keeps its trained weights: with ``ema`` the average, which is what is used from then on."""
    return run_dir / "final" / "model.safetensors"


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the folder for this process.

    A POSIX record lock: the kernel drops it when the process dies by whatever means, and forked loader workers do not
    inherit it. On NFS it holds over machines. Where a file system has no locks, a warning says so.

    Raises:
        TrainingError: another process is at work in the folder.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                handle.seek(0)
                raise TrainingError(
                    f"{run_dir} is in use by process {handle.read().strip() or 'unknown'}, which is at work there; "
                    "wait for it or end it"
                ) from error
            logger.warning("%s: this file system has no locks (%s): see to it that no second run works there", run_dir, error)
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield


def prepare(run_dir: Path, run: str) -> list[Row]:
    """Bring the folder of an unfinished run into the state of its newest checkpoint.

    Removes what a killed process left half-written and cuts the history to the checkpoint's step.

    Args:
        run_dir: folder of the run.
        run: names it.

    Returns:
        the rows kept.

    Raises:
        CheckpointError: the folder belongs to another run.
    """
    for left in [*run_dir.glob(".*.part"), *(run_dir / "checkpoint").glob(".*.part")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    folder = newest_checkpoint(run_dir)
    step = 0
    if folder is not None:
        info = read_info(folder)
        _same_run(folder, info.fingerprint, run)
        step = info.step
    kept = [row for row in read_history(run_dir) if row["step"] <= step]
    _write_history(run_dir, kept)  # also where no row goes: a half-written last line does
    return kept


def finished(run_dir: Path, run: str) -> TrainResult | None:
    """The result of a finished run, or None.

    Raises:
        CheckpointError: the folder holds the result of another run.
    """
    path = run_dir / "final" / "result.json"
    if not path.exists():
        return None
    result = read_json(path)
    _same_run(path, result["fingerprint"], run)
    return TrainResult(read_history(run_dir), result["steps"], result["seconds"])


def _same_run(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"{path} belongs to another run: fingerprint {found}, this run has {expected} (another task, parameter, "
            "seed or input); train in another folder, or delete this one if it is not needed"
        )


# ---------------------------------------------------------------------------------------------------------- checkpoints


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint folder with the highest step, or None."""
    return max((run_dir / "checkpoint").glob("step-*"), default=None, key=lambda folder: folder.name)


def read_info(folder: Path) -> CheckpointInfo:
    """Read ``checkpoint.json``.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        return CheckpointInfo(**read_json(folder / "checkpoint.json"))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: checkpoint.json cannot be used ({error}); delete this folder") from error


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay.

    Args:
        newest: so many.
        every: and those at multiples of so many steps, for later study, also when the run is finished; None: none.
    """

    newest: int = 1
    every: int | None = None

    def for_good(self, folder: Path) -> bool:
        """Whether a checkpoint's folder stays whatever comes."""
        return self.every is not None and int(folder.name.removeprefix("step-")) % self.every == 0


def save_checkpoint(
    run_dir: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AverageWeights | None,
    info: CheckpointInfo,
    keep: Keep,
) -> Path:
    """Write ``checkpoint/step-N`` whole or not at all, then remove older ones but those to ``keep``.

    Raises:
        TrainingError: it cannot be written; older checkpoints are as they were.
    """
    target = run_dir / "checkpoint" / f"step-{info.step:08d}"
    with _writing(target), staged_folder(target) as staged:
        _save_weights(model.state_dict(), staged / "model.safetensors")
        if average is not None:
            _save_weights(average.weights, staged / "ema.safetensors")
        torch.save(optimizer.state_dict(), staged / "optimizer.pt")
        write_json(staged / "checkpoint.json", asdict(info))
        _sync(staged)
    _sync_folder(target.parent)
    for old in sorted(target.parent.glob("step-*"))[: -keep.newest]:
        if not keep.for_good(old):
            shutil.rmtree(old)
    return target


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say what to do where the block cannot write: a full disk, a limit on file sizes.

    Raises:
        TrainingError: the block ended in an error of writing.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save's writer stumbles over a full disk, and then over what it left: the first says more.
        first: BaseException | None = error
        while first is not None and not isinstance(first, OSError):
            first = first.__context__
        raise TrainingError(
            f"{path}: cannot be written: {first or error}. Checkpoints from before are as they were: make room (or lower "
            "`keep`, raise `keep_every`), and run again to go on from the newest"
        ) from error


def await_same(folder: Path, sha256: str, timeout: float) -> None:
    """Wait until a folder has the content that another machine sees, which a shared file system may show late.

    Args:
        folder: a checkpoint, or the final weights.
        sha256: of its files, from :func:`umt_pipeline.core.files.sha256_folder`.
        timeout: seconds to wait.

    Raises:
        CheckpointError: it has other content, or is not there, after that time.
    """
    deadline = time.monotonic() + timeout
    while (found := sha256_folder(folder) if folder.is_dir() else "nothing") != sha256:
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{folder} on {socket.gethostname()}: expected what the first process sees (sha256 {sha256[:12]}…), found "
                f"{found[:12]} after {timeout:g} seconds. Is the run's folder on a file system that all machines share?"
            )
        time.sleep(min(1.0, timeout / 10))


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: AverageWeights | None, samples: int
) -> CheckpointInfo:
    """Put weights, optimiser state and averaged weights back.

    Args:
        folder: a checkpoint.
        model: of the same architecture.
        optimizer: over its parameters.
        average: over its state dict, if the run keeps one.
        samples: size of the training data set now.

    Raises:
        CheckpointError: damaged, of another model, or of a data set of another size.
    """
    info = read_info(folder)
    if info.samples != samples:
        raise CheckpointError(
            f"{folder} was trained on {info.samples} samples, the data set now has {samples}; restore the data, or "
            "delete the folder to train from the start"
        )
    try:
        weights = load_file(folder / "model.safetensors")
        state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        if average is not None:
            average.load(load_file(folder / "ema.safetensors"))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{folder} does not fit the model or is damaged; delete it to go on. {error}") from error
    return info


def save_final(
    run_dir: Path, model: nn.Module, average: AverageWeights | None, run: str, end: tuple[int, float], keep: Keep
) -> None:
    """Write ``final/``, which marks the run as finished, then remove the checkpoints but those to keep for good.

    Args:
        run_dir: folder of the run.
        model: as trained.
        average: of its weights, if the run keeps one.
        run: names it.
        end: steps and seconds of the whole run.
        keep: which checkpoints stay.

    Raises:
        TrainingError: it cannot be written; the newest checkpoint is as it was.
    """
    steps, seconds = end
    with _writing(run_dir / "final"), staged_folder(run_dir / "final") as staged:
        if average is None:
            _save_weights(model.state_dict(), staged / "model.safetensors")
        else:
            _save_weights(average.weights, staged / "model.safetensors")
            _save_weights(model.state_dict(), staged / "raw.safetensors")
        write_json(staged / "result.json", {"fingerprint": run, "steps": steps, "seconds": seconds})
        _sync(staged)
    _sync_folder(run_dir)
    kept = [folder for folder in (run_dir / "checkpoint").glob("step-*") if keep.for_good(folder)]
    for folder in [*(run_dir / "checkpoint").glob("step-*")] if kept else [run_dir / "checkpoint"]:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def load_final(run_dir: Path, model: nn.Module) -> None:
    """Put a finished run's weights into ``model``.

    Raises:
        CheckpointError: damaged, or of another model.
    """
    path = final_weights(run_dir)
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the model or is damaged; delete {path.parent}. {error}") from error


def _save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    # Copies, because safetensors refuses tensors that share memory (tied embeddings): each name gets its own bytes.
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}, path)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------------------------------------------------------- history


def history_path(run_dir: Path) -> Path:
    """Where a run writes its rows."""
    return run_dir / "history.jsonl"


def append_row(run_dir: Path, row: Row) -> None:
    """Add one row, on disk before this returns (so that the history never lags behind a checkpoint).

    Raises:
        TrainingError: it cannot be written.
    """
    with _writing(history_path(run_dir)), history_path(run_dir).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_history(run_dir: Path) -> list[Row]:
    """All whole rows; a last line without its end (a killed writer) is left out."""
    path = history_path(run_dir)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _write_history(run_dir: Path, rows: list[Row]) -> None:
    with staged_file(history_path(run_dir)) as staged:
        staged.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class HistoryFollower:
    """Hands over the rows that another process appends, from the first row of the file on."""

    def __init__(self, run_dir: Path) -> None:
        self._path = history_path(run_dir)
        self._offset = 0

    def new_rows(self) -> list[dict[str, Any]]:
        """Whole rows written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            data = handle.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [json.loads(line) for line in data[:end].splitlines()]
