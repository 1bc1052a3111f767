"""Which samples make which step, and their delivery ahead of time.

The order is a function of (seed, epoch) alone, so neither world size, worker count nor the step at which a run is resumed
changes what a step trains on. An epoch draws from each corpus by its weight, shuffles what it drew per group (videos,
images), cuts it into global batches of one group each, and shuffles these; a rank takes its share of each global batch.

Shapes: N samples in the data set, B samples of one micro-batch on one rank.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate as running_sums
from multiprocessing import forkserver, resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.core.processes import follow_parent
from umt_pipeline.data.samples import Batch, Corpus, SampleDataset
from umt_pipeline.training import stopping

logger = logging.getLogger(__name__)

# Independent streams of permutations below one seed: that of corpus c is c, that of group g is _GROUPS + g.
_GROUPS, _STEPS = 1 << 20, 1 << 21


@dataclass(frozen=True)
class MicroBatch:
    """The address of one micro-batch: everything a worker needs to read it.

    Args:
        step: 0-based optimiser step.
        epoch: 0-based.
        group: of all its samples.
        indices_B: int64 samples.
        passes_B: int64, how often each was drawn before.
    """

    step: int
    epoch: int
    group: str
    indices_B: np.ndarray
    passes_B: np.ndarray


@dataclass(frozen=True)
class _Epoch:
    """What an epoch draws: per group the samples and passes [2, n] in order, and the group of each step [steps]."""

    number: int
    drawn: tuple[np.ndarray, ...]
    groups: np.ndarray
    # Which batch of its group a step is.
    numbers: np.ndarray


class Sampler:
    """Order of samples for one rank.

    Args:
        samples: the corpora, or how many samples there are if they are one corpus of weight 1.
        batch_size: samples per step over all ranks; a larger one than a single group's epoch becomes as large as that, with
            a warning.
        seed: with the epoch, the key of the permutations (Philox, so epochs are independent streams).
        rank: of this process.
        world: number of processes.
        accumulate: micro-batches per step.
        equal_shares: every process gets as many samples of a step as the others.

    Raises:
        TrainingError: no samples.
        ConfigError: a micro-batch would be empty, shares must be equal and cannot be, or one of several groups has not one
            batch per epoch.
    """

    def __init__(
        self,
        samples: int | Sequence[Corpus],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        equal_shares: bool = False,
    ) -> None:
        corpora = (Corpus("all samples", samples),) if isinstance(samples, int) else tuple(samples)
        if not corpora or min(corpus.size for corpus in corpora) < 1:
            empty = ", ".join(corpus.name for corpus in corpora if corpus.size < 1) or "no corpus"
            raise TrainingError(
                f"the training data set is empty ({empty}): expected at least one sample; check its split and filters"
            )
        self.corpora, self.seed, self.rank, self.world, self.accumulate = corpora, seed, rank, world, accumulate
        self.groups = tuple(dict.fromkeys(corpus.group for corpus in corpora))
        self.num_samples = sum(corpus.size for corpus in corpora)
        # Samples of each corpus per epoch: the same number in every epoch, so that all epochs are equally long.
        self._quotas = [max(1, round(corpus.weight * corpus.size)) for corpus in corpora]
        self._starts = [0, *running_sums(corpus.size for corpus in corpora)]
        per_group = [self._total(group) for group in self.groups]
        shares = world * accumulate
        if equal_shares and batch_size % shares:
            pieces = f" in {accumulate} micro-batches" if accumulate > 1 else ""
            raise ConfigError(
                f"`batch_size` {batch_size} cannot be shared equally by {world} processes{pieces}, as the contrastive loss "
                f"needs; choose a multiple of {shares}, or another number of processes"
            )
        self.batch_size = self._fitting(batch_size, per_group)
        if equal_shares:
            self.batch_size -= self.batch_size % shares
        if self.batch_size < world * accumulate:
            raise ConfigError(
                f"a batch of {self.batch_size} samples cannot be split over {world} processes x {accumulate} "
                "micro-batches; raise `batch_size` or lower `nproc` or `accumulate`"
            )
        self._batches = [total // self.batch_size for total in per_group]
        self._latest: _Epoch | None = None

    def _total(self, group: str) -> int:
        return sum(quota for quota, corpus in zip(self._quotas, self.corpora, strict=True) if corpus.group == group)

    def _fitting(self, batch_size: int, per_group: list[int]) -> int:
        if batch_size <= min(per_group):
            return batch_size
        if len(per_group) == 1:
            logger.warning(
                "batch_size %d is larger than the data set (%d samples): every step uses all of them", batch_size, per_group[0]
            )
            return per_group[0]
        small = self.groups[int(np.argmin(per_group))]
        raise ConfigError(
            f"an epoch draws {min(per_group)} samples of group {small!r}, not enough for one batch of {batch_size}, so none of "
            "them would ever be trained on; lower `batch_size`, raise the weight of these corpora, or leave them out"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; the rest of what each group drew is dropped."""
        return sum(self._batches)

    def share(self, group: str) -> float:
        """Return the share of the steps that belong to a group."""
        return self._batches[self.groups.index(group)] / self.steps_per_epoch

    def order(self, epoch: int) -> np.ndarray:
        """The samples of an epoch's steps, int64 [steps, batch_size]."""
        steps = range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch)
        return np.stack([self.global_batch(step)[0] for step in steps])

    def global_batch(self, step: int) -> tuple[np.ndarray, np.ndarray, str]:
        """The samples and passes of a step over all ranks, int64 [batch_size] each, and their group."""
        epoch, position = divmod(step, self.steps_per_epoch)
        drawn = self._epoch(epoch)
        group, number_in_group = int(drawn.groups[position]), int(drawn.numbers[position])
        columns = slice(number_in_group * self.batch_size, (number_in_group + 1) * self.batch_size)
        indices, passes = drawn.drawn[group][:, columns]
        return indices, passes, self.groups[group]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """This rank's share of each of the ``accumulate`` pieces that the global batch is cut into.

        The pieces are the same for any number of ranks: a loss that compares the samples of a piece compares the same ones.
        """
        indices, passes, group = self.global_batch(step)
        epoch = step // self.steps_per_epoch
        pieces = zip(self._cut(indices), self._cut(passes), strict=True)
        return [MicroBatch(step, epoch, group, *piece) for piece in pieces]

    def _cut(self, values: np.ndarray) -> list[np.ndarray]:
        return [np.array_split(piece, self.world)[self.rank] for piece in np.array_split(values, self.accumulate)]

    def walk(self, start: int, stop: int) -> Iterator[MicroBatch]:
        """All micro-batches of the steps ``start`` to ``stop - 1``."""
        for step in range(start, stop):
            yield from self.micro_batches(step)

    def _epoch(self, epoch: int) -> _Epoch:
        latest = self._latest  # read once: the loader's thread may be an epoch ahead and replace it
        if latest is None or latest.number != epoch:
            drawn = tuple(self._draw_group(number, epoch) for number in range(len(self.groups)))
            groups = np.repeat(np.arange(len(self.groups)), self._batches)
            if len(self.groups) > 1:
                groups = groups[self._permutation(len(groups), _STEPS, epoch)]
            numbers = np.empty_like(groups)
            for number, batches in enumerate(self._batches):
                numbers[groups == number] = np.arange(batches)
            latest = self._latest = _Epoch(epoch, drawn, groups, numbers)
        return latest

    def _draw_group(self, number: int, epoch: int) -> np.ndarray:
        """Samples and passes [2, n] of one group, shuffled over its corpora."""
        parts = [
            self._draw_corpus(index, epoch) for index, corpus in enumerate(self.corpora) if corpus.group == self.groups[number]
        ]
        drawn = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        # One corpus is in random order as it is.
        return drawn if len(parts) == 1 else drawn[:, self._permutation(drawn.shape[1], _GROUPS + number, epoch)]

    def _draw_corpus(self, index: int, epoch: int) -> np.ndarray:
        """Samples and passes [2, quota]: the next so many of an endless row of permutations, one per pass."""
        size, quota = self.corpora[index].size, self._quotas[index]
        start, stop = epoch * quota, (epoch + 1) * quota
        drawn, done = np.empty((2, quota), dtype=np.int64), 0
        for number in range(start // size, -(-stop // size)):
            chosen = self._permutation(size, index, number)[max(start - number * size, 0) : stop - number * size]
            # Into its place: with millions of samples, each copy on the way is felt.
            samples, passes = drawn[:, done : done + len(chosen)]
            np.add(chosen, self._starts[index], out=samples)
            passes[:] = number
            done += len(chosen)
        return drawn

    def _permutation(self, size: int, stream: int, number: int) -> np.ndarray:
        key = np.array([self.seed, (stream << 40) | number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(size)


def needed_pieces(batch_size: int, accumulate: int, world: int, device_batch: int | None, equal_shares: bool) -> int:
    """Return in how many micro-batches a step is computed: ``accumulate``, or more where a device cannot hold its share.

    Args:
        batch_size: samples per step over all ranks.
        accumulate: the least.
        world: number of processes.
        device_batch: most samples at once on a device; None: no limit.
        equal_shares: the loss compares the samples of a micro-batch, so that another number would be another loss.

    Raises:
        ConfigError: a device cannot hold its share, and the loss must not be cut.
    """
    pieces = accumulate
    while device_batch is not None and math.ceil(math.ceil(batch_size / pieces) / world) > device_batch:
        pieces += 1
    if pieces > accumulate and equal_shares:
        needed = math.ceil(math.ceil(batch_size / accumulate) / (device_batch or batch_size))
        raise ConfigError(
            f"`device_batch` {device_batch} on {world} processes would cut the batch of {batch_size} into {pieces} pieces, not "
            f"{accumulate}, and the contrastive loss compares only what is in one piece: use {needed} processes, or set "
            f"`accumulate`, which makes it another run"
        )
    return pieces


class BatchReader(Dataset[Batch]):
    """Reads a micro-batch by its address. It travels to worker processes, so it holds the data set and nothing else."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, address: MicroBatch) -> Batch:
        """The batch at ``address``, arrays turned into tensors."""
        batch = self.dataset.batch(address.indices_B, address.passes_B)
        tensors = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}
        return {**tensors, "epoch": address.epoch, "group": address.group}


def _follow_rank(worker: int) -> None:
    # Not by the look of its own parent, the fork server: that one lives as long as any of those that it forked.
    del worker
    follow_parent()


class Loader:
    """Iterates over the batches of ``addresses`` in order, read ahead.

    With ``workers`` = 0 one background thread reads while the model computes: enough for a feature store, which reads the
    records of a batch in threads of its own, outside the interpreter lock. Decoding video wants worker processes.

    Args:
        reader: reads one micro-batch.
        addresses: what to read.
        workers: loader processes.
        pin: page-locked memory, for asynchronous copies to a CUDA device.
        ahead: batches read ahead (per worker).
    """

    def __init__(self, reader: BatchReader, addresses: Iterator[MicroBatch], workers: int, pin: bool, ahead: int = 2) -> None:
        self._reader, self._addresses, self._workers, self._pin, self._ahead = reader, addresses, workers, pin, ahead
        self._stop = threading.Event()

    def __iter__(self) -> Generator[Batch, None, None]:
        """Start reading; closing the generator ends thread or workers."""
        return self._thread() if self._workers == 0 else self._processes()

    def _processes(self) -> Generator[Batch, None, None]:
        sampler: Any = self._addresses  # torch's annotation asks for its own Sampler; any iterable of keys works
        # Not forked from this process: it runs CUDA's and torch's threads, and a fork copies the locks that they hold.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([type(self._reader.dataset).__module__])  # once, in memory that the workers share
        with stopping.kept_from_children():
            resource_tracker.ensure_running()  # by itself, for it unblocks signals when it has begun
        with stopping.kept_from_children():
            forkserver.ensure_running()
        loader: Any = DataLoader(
            self._reader,
            batch_size=None,
            sampler=sampler,
            num_workers=self._workers,
            multiprocessing_context=context,
            worker_init_fn=_follow_rank,
            prefetch_factor=self._ahead,
            pin_memory=self._pin,
            # Without one of its own the loader draws from the global generator, and so changes the next step's dropout.
            generator=torch.Generator(),
        )
        batches = iter(loader)
        try:
            yield from batches
        finally:
            # Not left to the end of its last reference, which the traceback of an error may be: its workers know no SIGTERM.
            batches._shutdown_workers()

    def _thread(self) -> Generator[Batch, None, None]:
        if self._pin:
            self._reader.dataset.pin()
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
