"""Decoding many views in worker processes, in order and with bounded memory.

Legend: B views of a batch, T frames, S side of the view in pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from umt_pipeline.core.errors import UmtError, VideoError
from umt_pipeline.core.processes import cores
from umt_pipeline.video.views import View, load_view

# Batches that may wait for the consumer: enough to ride out a slow file, little memory.
_BATCHES_AHEAD = 2


class DecoderDiedError(UmtError):
    """A decoding process ended without an answer."""


Wanted = Sequence[tuple[Path, View]]
"""Views of files."""
Key = TypeVar("Key")


class Decoder:
    """Decodes views in processes of its own, or in the calling one. To be closed, or used in a ``with`` block.

    Args:
        workers: processes; None: one per core, 0: the calling process. They are started when they are first needed.
    """

    def __init__(self, workers: int | None) -> None:
        self._workers = cores() if workers is None else workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def decode(self, batches: Iterable[tuple[Key, Wanted]]) -> Generator[tuple[Key, list[np.ndarray | VideoError]], None, None]:
        """Yield each batch's key and its decoded views, while the next batches are being decoded.

        Args:
            batches: in the order wanted; drawn from as far ahead as is decoded ahead.

        Yields:
            key, and for each view uint8 [T,S,S,3], or why its file cannot be read; the same whatever the number of workers.

        Raises:
            DecoderDiedError: a process was killed, by the system for want of memory or by a crash in the decoder.
        """
        if self._workers == 0:
            for key, wanted in batches:
                yield key, [_answer(_load(*view)) for view in wanted]
            return
        if self._pool is None:
            # Started afresh, not forked: the caller has run torch's threads, and a fork would copy their locks.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=follow_parent)
        waiting: deque[tuple[Key, list[Future[np.ndarray | tuple[str, str]]]]] = deque()
        try:
            for key, wanted in batches:
                waiting.append((key, [self._pool.submit(_load, *view) for view in wanted]))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _answers(*waiting.popleft())
            while waiting:
                yield _answers(*waiting.popleft())
        except BrokenProcessPool as error:
            raise DecoderDiedError(
                "a decoding process died: out of memory, or a file that crashes the decoder. Run again with fewer "
                "`workers`; with `workers: 0` decoding happens in the main process, where a debugger can see it"
            ) from error
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def decode_batches(
    paths: Sequence[Path], views: Sequence[View], batches: Iterable[range], workers: int | None
) -> Iterator[tuple[range, np.ndarray]]:
    """Yield each batch of positions with its decoded views while the next batches are being decoded.

    Args:
        paths: one video file per position.
        views: one view per position.
        batches: which positions, in the order wanted.
        workers: processes; None: one per core, 0: this process.

    Yields:
        (positions, uint8 [B,T,S,S,3]); the same whatever the number of workers.

    Raises:
        VideoError: a file cannot be read; it is named.
        DecoderDiedError: see :meth:`Decoder.decode`.
    """
    wanted = ((positions, [(paths[position], views[position]) for position in positions]) for positions in batches)
    with Decoder(workers) as decoder:
        for positions, loaded in decoder.decode(wanted):
            yield positions, np.stack([_frames(result) for result in loaded])


def follow_parent() -> None:
    """Let a worker process end with its parent; call it first thing in the worker."""
    # An interrupt is the parent's to answer; and a parent that is killed must not leave idle processes behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load(path: Path, view: View) -> np.ndarray | tuple[str, str]:
    # An error with two arguments does not survive the way back from a process: its parts travel instead.
    try:
        return load_view(path, view)
    except VideoError as error:
        return error.reason, error.detail if str(path) in error.detail else f"{path}: {error.detail}"


def _answers(key: Key, futures: list[Future[np.ndarray | tuple[str, str]]]) -> tuple[Key, list[np.ndarray | VideoError]]:
    return key, [_answer(future.result()) for future in futures]


def _answer(loaded: np.ndarray | tuple[str, str]) -> np.ndarray | VideoError:
    return VideoError(*loaded) if isinstance(loaded, tuple) else loaded


def _frames(answer: np.ndarray | VideoError) -> np.ndarray:
    if isinstance(answer, VideoError):
        raise answer
    return answer
