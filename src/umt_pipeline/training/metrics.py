"""Metrics of a window of steps, without waiting for the device at every step; progress for people.

Shapes: M values of a step (loss, then the task's parts).
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from umt_pipeline.core.errors import TrainingError
from umt_pipeline.core.progress import clock
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import LossParts

logger = logging.getLogger(__name__)

COLUMNS = (
    "step",  # finished optimiser steps
    "epoch",  # the same in passes over the data
    "loss",  # mean over the window's samples, all ranks
    "lr",  # of the window's last step
    "grad_norm",  # mean over the window's steps, before clipping
    "tflops",  # of the window's steps, all ranks, in 10^12 floating-point operations; where the task counts them
    "clips_per_s",  # all ranks
    "mfu",  # model FLOPs utilisation, waiting included: 1 is the most the devices are known to do; where the task counts FLOPs
    "data_wait",  # share of the time in which the slowest rank stood waiting for a batch, 0 to 1
    "peak_memory_mib",  # since training began, largest rank: CUDA allocator's peak, or resident memory on the CPU
    "seconds",  # training time so far, including that before a resume
    "eta_s",  # seconds to the end at the speed since the start or resume
)
# Of these, those that tell of the machine and its load: they differ between equal runs.
MEASURED = ("clips_per_s", "mfu", "data_wait", "peak_memory_mib", "seconds", "eta_s")
NEVER = 2**62  # a step that no run reaches


class Meter:
    """Collects the values of steps on the device and turns a window into a row.

    It also remembers the first step with a non-finite value, so that nothing has to be read back at every step, and the
    most that the devices have done in a second, measured or in training: utilisation is a share of that, at most 1.

    Args:
        device: of the losses.
        world: number of processes.
    """

    def __init__(self, device: torch.device, world: int) -> None:
        self._device, self._world = device, world
        self._measure_peak: Callable[[], float] | None = None
        self._best_rate = self._memory = 0.0
        self._names: list[str] = []
        self._reset()

    def _reset(self) -> None:
        self._sums_M = torch.zeros(len(self._names), dtype=torch.float64, device=self._device)
        self._norms = torch.zeros((), dtype=torch.float64, device=self._device)
        self._steps = self._samples = 0
        self._bad_step = torch.full((), NEVER, dtype=torch.int64, device=self._device)
        self._bad_M = self._sums_M
        self._waited = self._flops = 0.0
        self._began = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here counts as waiting for data.

        On a CUDA device this is an upper bound: the device may still be busy with earlier steps.
        """
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def pause(self, seconds: float) -> None:
        """Leave time that went by without training out of the window."""
        self._began += seconds

    def values(self, loss: LossParts) -> Tensor:
        """The M values of a micro-batch, float64 [M], detached.

        Raises:
            TrainingError: the task's parts change their names or take a column's name.
        """
        names = ["loss", *loss.parts]
        if not self._names:
            if taken := set(loss.parts) & set(COLUMNS):
                raise TrainingError(f"loss parts named {sorted(taken)}: these columns belong to the loop; rename them")
            self._names = names
            self._sums_M = torch.zeros(len(names), dtype=torch.float64, device=self._device)
            self._bad_M = self._sums_M
        elif names != self._names:
            raise TrainingError(f"loss parts must be the same at every step: {self._names[1:]} before, now {names[1:]}")
        return torch.stack([value.detach().double() for value in (loss.total, *loss.parts.values())])

    def count(self, flops: float, measure_peak: Callable[[], float]) -> None:
        """Count the floating-point operations of a micro-batch.

        Args:
            flops: of this rank.
            measure_peak: returns how many this rank's device does in a second; called between windows, so that it takes no
                part in their time.
        """
        self._measure_peak = measure_peak
        self._flops += flops

    def add(self, step: int, values_M: Tensor, grad_norm: Tensor, samples: int) -> None:
        """Count a step: means over this rank's ``samples``, norm of the averaged gradient."""
        self._sums_M = self._sums_M + values_M * samples
        self._norms = self._norms + grad_norm
        self._steps += 1
        self._samples += samples
        finite = values_M.isfinite().all() & grad_norm.isfinite()
        first = ~finite & (self._bad_step == NEVER)
        self._bad_step = torch.where(first, step, self._bad_step)
        self._bad_M = torch.where(first, values_M, self._bad_M)

    def first_bad(self) -> tuple[int, dict[str, float]] | None:
        """The window's first step with a non-finite value on any rank; waits for the device.

        Returns:
            step, and this rank's values there (empty if only other ranks met it); None if all is well.
        """
        own, earliest = int(self._bad_step), self._bad_step.clone()
        if self._world > 1:
            dist.all_reduce(earliest, dist.ReduceOp.MIN)
        step = int(earliest)
        if step == NEVER:
            return None
        return step, dict(zip(self._names, self._bad_M.tolist(), strict=True)) if own == step else {}

    def row(self) -> Row:
        """Means of the window over all ranks, then begin a new window."""
        elapsed = time.perf_counter() - self._began
        # Before the peak is measured, which starts CUDA's count anew.
        self._memory = max(self._memory, _peak_memory_mib(self._device))
        peak = 0.0 if self._measure_peak is None else self._measure_peak()
        sums = torch.cat([self._sums_M, self._sums_M.new_tensor([self._samples, self._flops, peak])])
        peaks = torch.tensor([self._waited / elapsed, self._memory], device=self._device)
        if self._world > 1:
            dist.all_reduce(sums, dist.ReduceOp.SUM)
            dist.all_reduce(peaks, dist.ReduceOp.MAX)
        *totals, samples, flops, peak = sums.tolist()
        waited, memory = peaks.tolist()
        row: Row = {name: total / samples for name, total in zip(self._names, totals, strict=True)}
        row["grad_norm"] = float(self._norms) / self._steps
        row["clips_per_s"] = samples / elapsed
        if self._measure_peak is not None:
            row["tflops"] = flops / 1e12
            row["mfu"] = self._utilisation(flops / elapsed, peak)
        row["data_wait"] = waited
        row["peak_memory_mib"] = memory
        self._reset()
        return row

    def _utilisation(self, rate: float, peak: float) -> float:
        known = max(self._best_rate, peak)
        if rate > known:
            message = "training does %.2f TFLOP/s, more than the %.2f measured on a busy machine: mfu was too high so far"
            logger.info(message, rate / 1e12, known / 1e12)
        self._best_rate = max(known, rate)
        return rate / self._best_rate


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux


class Progress:
    """Shows rows to people: a bar with the time left on a terminal, one log line per row elsewhere.

    Args:
        name: of the run.
        total_steps: of the run, or None where it is not known yet.
        quiet: show nothing.
    """

    def __init__(self, name: str, total_steps: int | None, *, quiet: bool = False) -> None:
        self._name, self._total, self._quiet = name, total_steps, quiet
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._line = self._bar.add_task(self._name, total=self._total, text="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, row: Row) -> None:
        """Show one row."""
        mfu = f"mfu {row['mfu']:.1%}  " if "mfu" in row else ""
        text = (
            f"loss {row['loss']:.4f}  lr {row['lr']:.2e}  {row['clips_per_s']:.1f} clips/s  {mfu}"
            f"data wait {row['data_wait']:.0%}  left {clock(row['eta_s'])}"
        )
        if self._bar is not None:
            self._bar.update(self._line, completed=row["step"], text=text)
        else:
            logger.info("%s: step %d%s  %s", self._name, row["step"], f"/{self._total}" if self._total else "", text)
