"""Processes that share the work of a test, one per device; each loads the models once, and hands back little.

Features of clips are not sent: who makes them writes them to files (:mod:`umt_pipeline.evaluation.feature_cache`).
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, Self, TypeVar

import torch

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.processes import cores, follow_parent
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.params import WorkParams

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = TypeVar("Batch", bound=Sized)
Tick = Callable[[int], object]

# Batches that another process gets at once. Decoding runs ahead within them only, so they are not too few; progress is seen
# after each, so they are not too many.
_BATCHES = 32

_state: Any = None  # of a worker process: what its ``load`` returned


class Workers(Generic[T]):
    """Calls functions of what is loaded (here, models) and an item: in this process, or in several.

    Args:
        load: called once in each process. Other processes are sent it, so it is no lambda where there are several.
        count: processes. One means this one; several are started at the first call.

    Attributes:
        here: what is loaded in this process.
    """

    def __init__(self, load: Callable[[], T], count: int = 1) -> None:
        self.count, self.here = count, load()
        self._load = load
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(self, function: Callable[[T, Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """Yield the index of each item and the function's result, in the order in which they get ready.

        Raises:
            EvaluationError: a process ended without an error of its own; errors of the function come as they are.
        """
        if self.count == 1 or not items:
            for index, item in enumerate(items):
                yield index, function(self.here, item)
            return
        if self._pool is None:
            # Not forked: CUDA and the threads of torch do not survive it.
            context = multiprocessing.get_context("spawn")
            start = functools.partial(_start, self._load, context.Value("i", 0), max(1, cores() // self.count))
            self._pool = ProcessPoolExecutor(self.count, context, initializer=start)
        futures = {self._pool.submit(_call, function, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise EvaluationError(
                f"one of the {self.count} processes of the test ended without a word: it was killed (memory?), or could not "
                "load the models (then its error stands above). Run again, maybe with a lower `nproc`: training that has "
                "finished and features that were written are kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def share(
        self, function: Callable[[T, Sequence[Batch], Tick], Result], batches: Sequence[Batch], title: str, unit: str
    ) -> list[Result]:
        """Divide batches among the processes, neighbours together, and show how many of their items are done.

        Args:
            function: of what is loaded, some batches, and something to call with the number of items that are done. It is
                sent to other processes, so it is no lambda.
            batches: the same whoever works at them.
            title: for the progress bar, as is ``unit``.
            unit: what an item is.

        Returns:
            Results in the order of the batches; one for all of them if this process does it alone.

        Raises:
            EvaluationError: a process ended without an error of its own; errors of the function come as they are.
        """
        done = 0
        with progress(title, sum(map(len, batches)), unit) as show:

            def add(more: int) -> None:
                nonlocal done
                done += more
                show(done)

            if self.count == 1 or not batches:
                return [function(self.here, batches, add)]
            count = min(len(batches), self.count * -(-len(batches) // (_BATCHES * self.count)))
            edges = [len(batches) * number // count for number in range(count + 1)]
            shares = [batches[start:stop] for start, stop in itertools.pairwise(edges)]
            found: dict[int, Result] = {}
            for index, result in self.map(functools.partial(_do_share, function), shares):
                found[index] = result
                add(sum(map(len, shares[index])))
        return [found[index] for index in range(count)]

    def threads(self, wanted: int | None = None) -> int:
        """Return how many threads each process decodes in: as many as wanted, or as there are cores for it."""
        return wanted or max(1, cores() // self.count)


def require_devices(count: int, setting: str) -> None:
    """Check that so many processes have a device each, before anything is done that needs them; ``setting`` says so many.

    Raises:
        ConfigError: there are CUDA devices, but fewer.
    """
    if count > 1 and torch.cuda.is_available() and count > torch.cuda.device_count():
        raise ConfigError(f"`{setting}: {count}` needs as many CUDA devices, found {torch.cuda.device_count()}; lower it")


def default_device() -> torch.device:
    """Return the GPU if there is one, else the CPU. Each process has made its own GPU the current one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def work_precision(params: WorkParams) -> Precision:
    """Return the precision that work runs in; who starts it asks once and tells all processes."""
    return resolve_precision(params.precision, default_device())


def _start(load: Callable[[], Any], started: Any, threads: int) -> None:
    global _state  # the only way from the initialiser of a pool's process to its calls
    follow_parent()
    with started.get_lock():
        rank = started.value
        started.value += 1
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    _state = load()


def _call(function: Callable[[Any, Any], Any], item: Any) -> Any:
    return function(_state, item)


def _do_share(function: Callable[[T, Sequence[Batch], Tick], Result], loaded: T, share: Sequence[Batch]) -> Result:
    return function(loaded, share, _ignore)


def _ignore(_: int) -> None:
    pass  # the first process counts whole shares
