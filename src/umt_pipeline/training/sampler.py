"""Which samples make which step, and their delivery ahead of time.

The order is a function of (seed, epoch) alone. Every epoch is a permutation cut into global batches; a rank takes its
share of each global batch. So neither world size, worker count nor the step at which a run is resumed changes what a
step trains on.

Shapes: N samples in the data set, B samples of one micro-batch on one rank.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from umt_pipeline.errors import ConfigError, TrainingError
from umt_pipeline.training.task import Batch, Sample, SampleDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MicroBatch:
    """The address of one micro-batch: everything a worker needs to read it.

    Args:
        step: 0-based optimiser step.
        epoch: 0-based.
        indices_B: int64 samples.
    """

    step: int
    epoch: int
    indices_B: np.ndarray


@dataclass
class Sampler:
    """Order of samples for one rank.

    Args:
        num_samples: N.
        batch_size: samples per step over all ranks; a larger one than N becomes N, with a warning.
        seed: with the epoch, the key of the permutation (Philox, so epochs are independent streams).
        rank: of this process.
        world: number of processes.
        accumulate: micro-batches per step.

    Raises:
        TrainingError: no samples.
        ConfigError: a micro-batch would be empty.
    """

    num_samples: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    accumulate: int = 1
    _order: tuple[int, np.ndarray] = field(default=(-1, np.empty(0, np.int64)), repr=False)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise TrainingError(
                "the training data set is empty: expected at least one sample; check its split and filters"
            )
        if self.batch_size > self.num_samples:
            logger.warning(
                "batch_size %d is larger than the data set (%d samples): every step uses all of them",
                self.batch_size,
                self.num_samples,
            )
            self.batch_size = self.num_samples
        if self.batch_size < self.world * self.accumulate:
            raise ConfigError(
                f"a batch of {self.batch_size} samples cannot be split over {self.world} processes x "
                f"{self.accumulate} micro-batches; raise `batch_size` or lower `nproc` or `accumulate`"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; the rest of a permutation is dropped."""
        return self.num_samples // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch, int64 [N]."""
        cached = self._order  # read once: the loader's thread may be an epoch ahead and replace it
        if cached[0] != epoch:
            generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], np.uint64)))
            cached = self._order = (epoch, generator.permutation(self.num_samples))
        return cached[1]

    def global_batch(self, step: int) -> np.ndarray:
        """The samples of a step over all ranks, int64 [batch_size]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """This rank's share of a step: a contiguous slice of the global batch, cut into ``accumulate`` pieces."""
        share = np.array_split(self.global_batch(step), self.world)[self.rank]
        epoch = step // self.steps_per_epoch
        return [MicroBatch(step, epoch, indices) for indices in np.array_split(share, self.accumulate)]

    def walk(self, start: int, stop: int) -> Iterator[MicroBatch]:
        """All micro-batches of the steps ``start`` to ``stop - 1``."""
        for step in range(start, stop):
            yield from self.micro_batches(step)


class BatchReader(Dataset[Batch]):
    """Reads a micro-batch by its address, with the data set's own ``batch`` if it has one."""

    def __init__(self, dataset: SampleDataset, collate: Callable[[list[Sample]], Batch]) -> None:
        self.dataset = dataset
        self.collate = collate

    def __getitem__(self, address: MicroBatch) -> Batch:
        """The batch at ``address``, arrays turned into tensors."""
        batch = self.dataset.batch(address.indices_B, address.epoch)
        if batch is None:
            batch = self.collate([self.dataset[int(index), address.epoch] for index in address.indices_B])
        return {
            key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()
        }


class Loader:
    """Iterates over the batches of ``addresses`` in order, read ahead.

    With ``workers`` = 0 one background thread reads while the model computes: enough for a memory-mapped store, whose
    reading is mostly copying outside the interpreter lock. Decoding video wants worker processes.

    Args:
        reader: reads one micro-batch.
        addresses: what to read.
        workers: loader processes.
        pin: page-locked memory, for asynchronous copies to a CUDA device.
        ahead: batches read ahead (per worker).
    """

    def __init__(
        self, reader: BatchReader, addresses: Iterator[MicroBatch], workers: int, pin: bool, ahead: int = 2
    ) -> None:
        self._reader, self._addresses, self._workers, self._pin, self._ahead = reader, addresses, workers, pin, ahead
        self._stop = threading.Event()

    def __iter__(self) -> Generator[Batch, None, None]:
        """Start reading; closing the generator ends thread or workers."""
        return self._thread() if self._workers == 0 else self._processes()

    def _processes(self) -> Generator[Batch, None, None]:
        sampler: Any = self._addresses  # torch's annotation asks for its own Sampler; any iterable of keys works
        yield from DataLoader(
            self._reader,
            batch_size=None,
            sampler=sampler,
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            pin_memory=self._pin,
            # Without one of its own the loader draws from the global generator, and so changes the next step's dropout.
            generator=torch.Generator(),
        )

    def _thread(self) -> Generator[Batch, None, None]:
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(self._ahead)

        def put(item: Batch | BaseException | None) -> None:
            while not self._stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        def read() -> None:
            try:
                for address in self._addresses:
                    if self._stop.is_set():
                        return
                    batch = self._reader[address]
                    if self._pin:
                        batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                    put(batch)
                put(None)
            except BaseException as error:  # handed to the training thread, which raises it
                put(error)

        thread = threading.Thread(target=read, name="umt-loader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()
            thread.join()
