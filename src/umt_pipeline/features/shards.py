"""Making one shard of a planned store: decode, run the teacher, draw the masks, encode, write.

A shard's bytes depend on the plan in the store's folder and on the files alone: not on who makes it, with how many decoding
workers, or after what. So any number of processes and machines that share the folders may make shards; making one that is
there changes nothing. From another process, or another machine on the same folders::

    maker = ShardMaker(job, device)      # job: an ExtractionJob, picklable, and JSON by model_dump_json
    report = maker.make(shard)           # for each of job.plan().missing; or maker.make_all(shards), without gaps between them
    maker.close()

:func:`umt_pipeline.features.runner.begin` gives the job, :func:`umt_pipeline.features.runner.finish` makes a store of the
shards.

Within a process decoding workers, the device and writing overlap: a thread brings decoded batches into (on CUDA, pinned) memory
ahead of the device, another one hashes and writes behind it, and on CUDA a batch is computed while the one before is awaited.

Legend: B clip views of a batch, T frames, S side of the view in pixels, V visible patches per view, P values per patch, K
aligned layers, C target width.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import StoreError, VideoError
from umt_pipeline.features.codecs import Coder, cosine_error
from umt_pipeline.features.extract import FeatureConfig, batches_of, run_teacher_on
from umt_pipeline.features.rejects import Reject
from umt_pipeline.features.stages import Ahead, Behind
from umt_pipeline.features.targets import TargetBatch
from umt_pipeline.features.writer import ShardWriter, UnfinishedStore
from umt_pipeline.models.teacher import Teacher, load_teacher
from umt_pipeline.video.decode import Decoder
from umt_pipeline.video.views import View

logger = logging.getLogger(__name__)

_ERROR = "codec error"


class ExtractionJob(Config):
    """All that a process must be told to make shards of a store that was begun.

    Attributes:
        config: what is extracted.
        teacher: the teacher's folder.
        media_root: folder that the plan's paths are relative to.
        store: folder of the store.
    """

    config: FeatureConfig
    teacher: Path
    media_root: Path
    store: Path

    def plan(self) -> UnfinishedStore:
        """Read the plan from the store's folder.

        Raises:
            StoreError: it cannot be read.
        """
        return UnfinishedStore(self.store)


@dataclass(frozen=True)
class CodecError:
    """What a codec loses: 1 - cosine over some tokens."""

    total: float = 0.0
    largest: float = 0.0
    tokens: int = 0

    def __add__(self, other: CodecError) -> CodecError:
        return CodecError(self.total + other.total, max(self.largest, other.largest), self.tokens + other.tokens)


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        shard: its number.
        rows: of it.
        made: False: it was there already, or another maker was quicker.
        rejects: its rows whose file cannot be read.
        error: of the codec, on its first batch.
    """

    shard: int
    rows: int
    made: bool
    rejects: tuple[Reject, ...] = ()
    error: CodecError = CodecError()


@dataclass(frozen=True)
class Spent:
    """Where a process' time went, in seconds.

    Attributes:
        decode: waiting for decoded frames.
        device: computing, or waiting for the device that does.
        write: waiting for what is written.
    """

    decode: float = 0.0
    device: float = 0.0
    write: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.decode + other.decode, self.device + other.device, self.write + other.write)


@dataclass(frozen=True)
class Step:
    """News of a process that makes shards.

    Attributes:
        rows: made since the last news; negative where those of earlier news were made in vain, for another maker was quicker.
        spent: since then.
        report: of a shard that is done.
    """

    rows: int
    spent: Spent
    report: ShardReport | None = None


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A batch of a shard on its way to the device; without frames: of a shard that was there already."""

    shard: int
    rows: range
    lines: pa.Table
    frames_BTSS3: Tensor
    rejects: tuple[Reject, ...]


@dataclass(frozen=True, eq=False)
class _Computed:
    """A batch on its way to the disk, in host memory once ``ready``."""

    shard: int
    rows: range
    arrays: dict[str, Tensor]
    rejects: tuple[Reject, ...]
    ready: torch.cuda.Event | None = None

    def wait(self) -> Self:
        if self.ready is not None:
            self.ready.synchronize()
        return self


class ShardMaker:
    """Makes shards, one after the other.

    Args:
        job: what is made.
        device: where the teacher runs.
        teacher: the job's, if it is loaded.

    Raises:
        StoreError: the plan, or what the codec has learnt, cannot be read.
        CheckpointError: the teacher cannot be loaded.
    """

    def __init__(self, job: ExtractionJob, device: torch.device, teacher: Teacher | None = None) -> None:
        self.store = job.plan()
        self._config, self._media_root = job.config, job.media_root
        if device.type == "cuda":
            torch.cuda.set_device(device)
        loaded = load_teacher(job.teacher, job.config.teacher, job.config.grid) if teacher is None else teacher
        if loaded.weights_sha256 != self.store.header.teacher.weights_sha256:
            raise StoreError(f"feature store {job.store}: was begun with another teacher than the one in {job.teacher}")
        self._teacher, self._device = loaded.to(device), device
        self._coder = self.store.coder(_not_learnt).to(device)
        self._decoder = Decoder(job.config.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding processes."""
        self._decoder.close()

    def make(self, shard: int) -> ShardReport:
        """Make a shard, unless it is there.

        Raises:
            StoreError: the disk is full or cannot be written.
            DecoderDiedError: a decoding process cannot be started.
        """
        reports = [step.report for step in self.make_all([shard]) if step.report is not None]
        return reports[0]

    def make_all(self, shards: Iterable[int]) -> Iterator[Step]:
        """Make shards without a gap between them; yields news after each batch.

        Args:
            shards: their numbers, drawn as far ahead as :meth:`Decoder.decode` decodes.

        Raises:
            StoreError: the disk is full or cannot be written.
            DecoderDiedError: a decoding process cannot be started.
        """
        writing = _Writing(self.store)
        began, seen = time.perf_counter(), Spent()

        def spent() -> Spent:
            nonlocal seen
            waited = ahead.waited, behind.waited
            now = Spent(waited[0], time.perf_counter() - began - sum(waited), waited[1])
            since = Spent(now.decode - seen.decode, now.device - seen.device, now.write - seen.write)
            seen = now
            return since

        ahead, behind = Ahead(self._decoded(shards)), Behind(writing.write)
        try:
            before: _Computed | None = None
            for batch in ahead:
                computed = self._compute(batch)
                if before is not None:
                    behind.put(before.wait())
                before = computed
                for rows, report in behind.results():
                    yield Step(rows, spent(), report)
            if before is not None:
                behind.put(before.wait())
            for rows, report in behind.rest():
                yield Step(rows, spent(), report)
        finally:
            ahead.close()
            behind.close()
            writing.abandon()

    def _decoded(self, shards: Iterable[int]) -> Iterator[_Decoded]:
        with closing(self._decoder.decode(self._wanted(shards))) as decoded:
            for (shard, rows, lines), answers in decoded:
                failed = [(row, answer) for row, answer in zip(rows, answers, strict=True) if isinstance(answer, VideoError)]
                rejects = tuple(Reject(row, error.reason, error.detail) for row, error in failed)
                yield _Decoded(shard, rows, lines, self._stack(answers), rejects)

    def _wanted(self, shards: Iterable[int]) -> Iterator[tuple[tuple[int, range, pa.Table], list[tuple[Path, View]]]]:
        for shard in shards:
            rows_of = self.store.rows_of[shard]
            if self.store.shard_folder(shard).is_dir():
                yield (shard, range(0), self.store.lines(rows_of[:0])), []
                continue
            for rows in batches_of(len(rows_of), self._config.batch_size):
                batch = rows_of[rows.start : rows.stop]
                yield (shard, rows, self.store.lines(batch)), self.store.files(batch, self._media_root)

    def _stack(self, answers: list[np.ndarray | VideoError]) -> Tensor:
        """Bring frames together. What cannot be read is black: the batch keeps its shape, and so the others their rounding."""
        view = self._config.view
        size = (len(answers), view.frames, view.size, view.size, 3)
        frames_BTSS3 = torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for frames, answer in zip(frames_BTSS3.numpy(), answers, strict=True):
            frames[...] = 0 if isinstance(answer, VideoError) else answer
        return frames_BTSS3

    def _compute(self, batch: _Decoded) -> _Computed:
        if len(batch.rows) == 0:
            return _Computed(batch.shard, batch.rows, {}, ())
        targets = run_teacher_on(self._config, self.store.header.precision, self._teacher, batch.lines, batch.frames_BTSS3)
        encoded = self._coder.encode(targets.targets_KBVC.transpose(0, 1))
        assert targets.attention_BTN is not None
        arrays = {"attention": targets.attention_BTN, "visible": targets.visible_BV.int(), **encoded}
        if self._config.pixels == "visible":
            arrays["pixels"] = targets.patches_BVP
        if batch.rows.start == 0:
            arrays[_ERROR] = _codec_error(self._coder, targets, encoded)
        ready = None
        if self._device.type == "cuda":
            arrays = {name: _fetch(array) for name, array in arrays.items()}
            ready = torch.cuda.Event()
            ready.record()
        if self._config.pixels == "frames":
            arrays["pixels"] = batch.frames_BTSS3
        return _Computed(batch.shard, batch.rows, arrays, batch.rejects, ready)


class _Writing:
    """Writes batches as they come, in the thread that calls it."""

    def __init__(self, store: UnfinishedStore) -> None:
        self._store = store
        self._shard: ShardWriter | None = None
        self._error = CodecError()

    def write(self, batch: _Computed) -> tuple[int, ShardReport | None]:
        """Write a batch; return how many more rows there are, and a report if its shard is done."""
        store = self._store
        if len(batch.rows) == 0:
            rows = len(store.rows_of[batch.shard])
            return 0, ShardReport(batch.shard, rows, made=False, rejects=store.rejects(batch.shard))
        rows_of = store.rows_of[batch.shard]
        with store.disk_errors(int(rows_of[batch.rows.start])):
            if self._shard is None:
                self._shard = ShardWriter(store.shard_folder(batch.shard), len(rows_of), store.header.arrays())
                self._shard.open()
            arrays = dict(batch.arrays)
            if (error := arrays.pop(_ERROR, None)) is not None:
                self._error = CodecError(float(error.sum()), float(error.max()), len(error))
            self._shard.rejects += batch.rejects
            self._shard.append({name: array.numpy() for name, array in arrays.items()})
            if not self._shard.done:
                return len(batch.rows), None
            made = self._shard.close()
        report = ShardReport(batch.shard, len(rows_of), made, tuple(self._shard.rejects), self._error)
        self._shard = None
        return len(batch.rows) if made else len(batch.rows) - len(rows_of), report

    def abandon(self) -> None:
        """Give the room of an unfinished shard back."""
        if self._shard is not None:
            self._shard.abandon()


def _fetch(array: Tensor) -> Tensor:
    """Start the copy of an array from the device into pinned memory."""
    return torch.empty_like(array, device="cpu", pin_memory=True).copy_(array, non_blocking=True)


def _codec_error(coder: Coder, batch: TargetBatch, encoded: dict[str, Tensor]) -> Tensor:
    return cosine_error(batch.targets_KBVC.transpose(0, 1), coder.decode(encoded)).flatten()


def _not_learnt() -> Tensor:
    raise StoreError("the codec has not learnt yet: call umt_pipeline.features.runner.begin before shards are made")
