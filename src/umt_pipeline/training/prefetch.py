"""Batches on the device, the next one copied while a step computes."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

from umt_pipeline.data.samples import Batch
from umt_pipeline.training.device import to_device


class _Copied(NamedTuple):
    batch: Batch
    done: torch.cuda.Event


class DeviceBatches:
    """An iterator over batches on the device.

    On a CUDA device a batch is copied on a stream of its own, so that the copy runs beside the kernels of the step before; the
    stream that computes waits for the copy, the host never does. On a CPU batches pass through.

    Args:
        batches: on the host, in page-locked memory for a CUDA device, or a copy would wait for the device.
        device: where they are wanted.
    """

    def __init__(self, batches: Generator[Batch, None, None], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: _Copied | None = None

    def __iter__(self) -> DeviceBatches:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            return to_device(next(self._batches), self._device)
        copied = self._next or self._copy(next(self._batches), self._stream)
        self._next = None
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied.done)
        for value in copied.batch.values():
            if isinstance(value, Tensor):
                # Its memory belongs to the copying stream, which must not take it back before the step is done with it.
                value.record_stream(computing)
        return copied.batch

    def copy_ahead(self) -> None:
        """Begin to copy the next batch; called when the work of a step is queued. Waits until the batch is read."""
        if self._stream is not None and self._next is None and (batch := next(self._batches, None)) is not None:
            self._next = self._copy(batch, self._stream)

    def _copy(self, batch: Batch, stream: torch.cuda.Stream) -> _Copied:
        with torch.cuda.stream(stream):
            moved = to_device(batch, self._device)
            done = torch.cuda.Event()
            done.record(stream)
        return _Copied(moved, done)

    def close(self) -> None:
        """End reading."""
        self._next = None
        self._batches.close()
