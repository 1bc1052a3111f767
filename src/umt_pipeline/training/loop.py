"""The training loop: steps of a ``Task`` from wherever the run folder stands to the end.

Everything random in a step is derived from (seed, step, rank), so a step gives the same result whether the run got
there in one go or was killed and resumed. The loop never waits for the device between two rows of the history.

Shapes: M logged values of a step.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import autocast, dtype_of, resolve_precision
from umt_pipeline.core.errors import ConfigError, TrainingError, TrainingInterrupted
from umt_pipeline.core.files import sha256_folder
from umt_pipeline.core.identity import fingerprint, settings_of
from umt_pipeline.training import state, stopping
from umt_pipeline.training.deterministic import deterministic_algorithms
from umt_pipeline.training.device import agreed_precision, resolve_device
from umt_pipeline.training.ema import AverageWeights
from umt_pipeline.training.metrics import Meter, Progress
from umt_pipeline.training.optim import clip_gradients, make_optimizer
from umt_pipeline.training.peers import Peers
from umt_pipeline.training.prefetch import DeviceBatches
from umt_pipeline.training.sampler import BatchReader, Loader, Sampler, needed_pieces
from umt_pipeline.training.schedule import make_schedule
from umt_pipeline.training.state import Row, TrainResult
from umt_pipeline.training.task import Task, TrainConfig

logger = logging.getLogger(__name__)

OnRow = Callable[[Row], None]

# Under this name in the newer ones of the versions of torch that we take, where the old name warns.
_SYNC_BUFFERS = "forward_sync_buffers"
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"
_CONSTANT_BUFFERS: dict[str, Any] = {_SYNC_BUFFERS: False}


def train(
    task: Task,
    config: TrainConfig,
    *,
    seed: int,
    run_dir: Path,
    run: str | None = None,
    on_row: OnRow | None = None,
) -> TrainResult:
    """Train ``task.model`` in place, or take up a run that was interrupted, or load one that is finished.

    Of several processes each one calls this, after ``torch.distributed.init_process_group``.

    Args:
        task: what to train.
        config: settings.
        seed: of sample order, masks and dropout (initial weights are the task's matter).
        run_dir: the run's folder (``training.state``), shared by all ranks.
        run: names the run and all that final weights depend on; a folder of another run is refused. None: made of settings
            and seed, for callers that change neither model nor data.
        on_row: called on rank 0 with every row of the history, those from before a resume included.

    Returns:
        the history (on rank 0; empty elsewhere), steps and seconds. ``task.model`` has the weights of
        ``run_dir/final/model.safetensors``, with ``ema`` the averaged ones.

    Raises:
        TrainingError: non-finite loss, empty data set, folder in use, a checkpoint that cannot be written.
        TrainingInterrupted: it was asked to stop (``training.stopping``), and saved a checkpoint.
        CheckpointError: the folder holds another run or a damaged checkpoint.
        ConfigError: settings that do not fit data or device.
    """
    precision = agreed_precision(config.precision, resolve_device(config.device))
    config = config.model_copy(update={"precision": precision})
    run = run or fingerprint({path: setting.value for path, setting in settings_of(config).items()}, seed)
    peers = Peers(config.timeout)
    with ExitStack() as stack:
        stack.enter_context(deterministic_algorithms(config.deterministic))

        def look() -> _Standing:
            stack.enter_context(state.run_lock(run_dir))
            return _Standing.of(run_dir, run, peers.world > 1)

        standing = peers.decided_by_first(look)
        history = state.read_history(run_dir) if peers.rank == 0 else []
        folder = None if standing.folder is None else run_dir / standing.folder
        if folder is not None and peers.rank > 0:
            state.await_same(folder, standing.sha256, config.timeout)
        if peers.rank == 0:
            replay(history, on_row)
        if standing.end is not None:
            logger.info("%s is finished (%d steps): not trained again", run_dir, standing.end[0])
            state.load_final(run_dir, task.model)
            return TrainResult(history, *standing.end)
        trainer = Trainer(task, config, peers, seed=seed, run_dir=run_dir, run=run, checkpoint=folder)
        return trainer.fit(history, on_row)


@dataclass(frozen=True)
class _Standing:
    """Where a run stands, as the first process sees its folder.

    Attributes:
        end: steps and seconds of a finished run.
        folder: what all processes load, within the run's folder; None: the run begins.
        sha256: of that folder; empty for a process by itself.
    """

    end: tuple[int, float] | None
    folder: str | None
    sha256: str

    @classmethod
    def of(cls, run_dir: Path, run: str, hashed: bool) -> _Standing:
        """Look, and bring the folder of an unfinished run into the state of its newest checkpoint."""
        result = state.finished(run_dir, run)
        if result is None:
            state.prepare(run_dir, run)
        folder = state.newest_checkpoint(run_dir) if result is None else state.final_weights(run_dir).parent
        sha256 = sha256_folder(folder) if hashed and folder is not None else ""
        end = None if result is None else (result.steps, result.seconds)
        return cls(end, None if folder is None else folder.relative_to(run_dir).as_posix(), sha256)


def replay(history: list[Row], on_row: OnRow | None) -> None:
    """Call ``on_row`` with rows from before."""
    if on_row is not None:
        for row in history:
            on_row(row)


class Trainer:
    """One run on one rank: built in the state of a checkpoint.

    Args:
        task: what to train.
        config: settings, with the precision that the ranks have agreed on.
        peers: all ranks.
        seed: of the run.
        run_dir: prepared folder.
        run: its fingerprint.
        checkpoint: to go on from; None: the run begins.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        peers: Peers,
        *,
        seed: int,
        run_dir: Path,
        run: str,
        checkpoint: Path | None,
    ) -> None:
        self.task, self.config, self.seed = task, config, seed
        self.run_dir, self.run = run_dir, run
        self.peers, self.rank, self.world = peers, peers.rank, peers.world
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.dataset = task.dataset()
        cut = config.batch_size, config.accumulate, self.world, config.device_batch
        shape = (config.batch_size, seed, self.rank, self.world, needed_pieces(*cut, task.equal_shares))
        self.sampler = Sampler(self.dataset.corpora(), *shape, equal_shares=task.equal_shares)
        self.shares = [len(micro.indices_B) for micro in self.sampler.micro_batches(0)]  # the same at every step
        self.schedule = make_schedule(config, self.sampler.steps_per_epoch, self.sampler.batch_size)
        self.generator = torch.Generator(self.device)

        task.model.to(self.device)
        task.setup(self.device)
        if config.compile:
            task.compile()
        self._recompute(config.recompute_blocks)
        self.optimizer = make_optimizer(task, config)
        self.average = None if config.ema is None else AverageWeights(task.model, config.ema)
        self.start, self.seconds_before = 0, 0.0
        if checkpoint is not None:
            info = state.load_checkpoint(checkpoint, task.model, self.optimizer, self.average, len(self.dataset))
            self.start, self.seconds_before = info.step, info.seconds
        self.model = self._wrapped(task.model)
        self.meter = Meter(self.device, self.world)
        self._announce()

    def _recompute(self, blocks: int) -> None:
        encoder = self.task.encoder()
        if encoder is not None and blocks <= encoder.config.depth:
            encoder.recompute_blocks = blocks
        elif blocks:
            found = "no video encoder" if encoder is None else f"one of {encoder.config.depth} blocks"
            raise ConfigError(f"`recompute_blocks` is {blocks}, but {type(self.task).__name__} trains {found}; lower it")

    def _measure_peak(self) -> float:
        return matmul_peak(self.device, dtype_of(self.precision))

    def _wrapped(self, model: nn.Module) -> nn.Module:
        wrapped = model
        if self.config.compile:
            wrapped = cast(nn.Module, torch.compile(model))
        if self.world > 1:
            # Buffers are tables of positions and the like: constant, and the same on all ranks from the start.
            wrapped = DistributedDataParallel(
                wrapped,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                **_CONSTANT_BUFFERS,
            )
        return wrapped

    def _announce(self) -> None:
        trainable = sum(param.numel() for param in self.task.model.parameters() if param.requires_grad)
        logger.info(
            "training %s: %.2f M parameters, %d samples, %d steps of %d clips (%.2f epochs), %d process(es), %s, %s%s",
            type(self.task).__name__,
            trainable / 1e6,
            len(self.dataset),
            self.schedule.total_steps,
            self.sampler.batch_size,
            self.schedule.total_steps / self.sampler.steps_per_epoch,
            self.world,
            self.device,
            self.precision,
            f", resumed from step {self.start}" if self.start else "",
        )

    def fit(self, history: list[Row], on_row: OnRow | None) -> TrainResult:
        """Run the remaining steps, write ``final/``.

        Args:
            history: rows up to the checkpoint; new ones are added to it.
            on_row: called with each new row, on rank 0.
        """
        total, config = self.schedule.total_steps, self.config
        reader = BatchReader(self.dataset)
        loader = Loader(reader, self.sampler.walk(self.start, total), config.workers, pin=self.device.type == "cuda")
        self.model.train()
        self.began = time.perf_counter()
        with closing(DeviceBatches(iter(loader), self.device)) as batches, self._progress() as progress:
            for step in range(self.start, total):
                self._step(step, batches)
                done = step + 1
                stop = self.peers.agree_to_stop(stopping.asked()) and done < total
                keep = stop or (done % config.checkpoint_every == 0 and done < total)
                scored = self._is_scored(done)
                if not (keep or scored or done % config.log_every == 0 or done == total):
                    continue
                if (bad := self.meter.first_bad()) is not None:
                    batches.close()  # the data set may be read by one thread only, and the dump reads it
                    self._stop_nonfinite(reader, *bad)
                row = self._row(done)
                if self.rank == 0:
                    row |= self._scores() if scored else {}
                    history.append(row)
                    state.append_row(self.run_dir, row)
                    if on_row:
                        on_row(row)
                    progress.show(row)
                    if keep:
                        self._save(done)
                if stop:
                    self._stop_as_asked(done)
        self.model.eval()
        return self._finish(history)

    def _progress(self) -> Progress:
        return Progress(type(self.task).__name__, self.schedule.total_steps, quiet=self.rank > 0)

    def _step(self, step: int, batches: DeviceBatches) -> None:
        self._seed(step)
        lr = self.schedule.lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        values_M: Tensor | None = None
        for number, size in enumerate(self.shares, start=1):
            with self.meter.waiting():
                batch = next(batches)
            if (flops := self.task.flops_per_clip(batch)) is not None:
                self.meter.count(flops * size, self._measure_peak)
            # Gradients are averaged over ranks once per step, in the backward pass of the last micro-batch.
            synced = self.world == 1 or number == len(self.shares)
            with nullcontext() if synced else self.model.no_sync():  # type: ignore[operator]
                with autocast(self.precision, self.device):
                    loss = self.task.loss(self.model, batch, self.generator)
                # DDP averages over ranks; weighted so, unequal shares give the mean over the global batch too.
                (loss.total * (size * self.world / self.sampler.batch_size)).backward()
            with self.meter.waiting():
                batches.copy_ahead()
            part_M = self.meter.values(loss) * (size / sum(self.shares))
            values_M = part_M if values_M is None else values_M + part_M
        grad_norm = clip_gradients(self.optimizer, self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)
        assert values_M is not None
        self.meter.add(step, values_M, grad_norm, sum(self.shares))

    def _seed(self, step: int) -> None:
        """Seed both generators from (seed, step, rank)."""
        for_torch, for_task = np.random.SeedSequence((self.seed, step, self.rank)).generate_state(2, np.uint64) >> 1
        torch.manual_seed(int(for_torch))
        self.generator.manual_seed(int(for_task))

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.began

    def _row(self, done: int) -> Row:
        values = self.meter.row()
        left = (time.perf_counter() - self.began) / (done - self.start) * (self.schedule.total_steps - done)
        position = {"step": done, "epoch": done / self.sampler.steps_per_epoch}
        pace = {"lr": self.schedule.lr(done - 1), "seconds": self._seconds(), "eta_s": left}
        return {**position, **values, **pace}

    def _is_scored(self, done: int) -> bool:
        if self.task.score_every is None:
            return False
        steps = self.task.score_every * self.sampler.steps_per_epoch
        return done == self.schedule.total_steps or int(done / steps) > int((done - 1) / steps)

    def _scores(self) -> Row:
        """Look at held-out data; the time for it is no time of training."""
        began = time.perf_counter()
        self.task.model.eval()
        with torch.no_grad(), autocast(self.precision, self.device):
            found = self.task.scores()
        self.task.model.train()
        took = time.perf_counter() - began
        self.began += took
        self.meter.pause(took)
        return found

    def _save(self, done: int) -> None:
        info = state.CheckpointInfo(done, self.run, len(self.dataset), self._seconds())
        state.save_checkpoint(self.run_dir, self.task.model, self.optimizer, self.average, info, self._keep())

    def _keep(self) -> state.Keep:
        return state.Keep(self.config.keep, self.config.keep_every)

    def _stop_as_asked(self, done: int) -> None:
        self.peers.meet()  # nobody leaves before the checkpoint is on disk
        raise TrainingInterrupted(
            f"{self.run_dir}: stopped after step {done} of {self.schedule.total_steps}, as this process or another one was "
            "asked to; a checkpoint is saved, run again to go on from it"
        )

    def _finish(self, history: list[Row]) -> TrainResult:
        seconds = self._seconds()
        if self.rank == 0:
            end = self.schedule.total_steps, seconds
            state.save_final(self.run_dir, self.task.model, self.average, self.run, end, self._keep())
        if self.average is not None:
            self.task.model.load_state_dict(self.average.weights)
        self.peers.meet()
        return TrainResult(history, self.schedule.total_steps, seconds)

    def _stop_nonfinite(self, reader: BatchReader, step: int, values: dict[str, float]) -> None:
        """Read the batches of ``step`` again, write them to ``nonfinite/`` and raise."""
        addresses = self.sampler.micro_batches(step)
        batches = [reader[address] for address in addresses]
        ids = [str(name) for batch in batches for name in self.task.sample_ids(batch)]
        path = self.run_dir / "nonfinite" / f"step-{step:08d}-rank{self.rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "step": step,
                "epoch": addresses[0].epoch,
                "seed": self.seed,
                "rank": self.rank,
                "lr": self.schedule.lr(step),
                "values": values,
                "ids": ids,
                "indices": [torch.from_numpy(address.indices_B.copy()) for address in addresses],
                "batches": batches,
            },
            path,
        )
        self.peers.meet()  # every rank's dump is written before the launcher ends the ranks
        found = ", ".join(f"{name} {value:g}" for name, value in values.items()) or "see the other ranks' dumps"
        named = ", ".join(ids[:8]) + (f", … ({len(ids)} in all)" if len(ids) > 8 else "")
        raise TrainingError(
            f"loss or gradient is not finite at step {step} (epoch {addresses[0].epoch}, 0-based): {found}; "
            f"learning rate {self.schedule.lr(step):g}; clips on rank {self.rank}: {named}. "
            f"The batch is saved in {path}. Checkpoints are from before this step: look at the clips, or lower `lr`, "
            "lengthen `warmup`, set `clip_grad` or use `precision: fp32`"
        )
