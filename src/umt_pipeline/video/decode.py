"""Decoding many views in worker processes, in order and with bounded memory.

Legend: B views of a batch, T frames, S side of the view in pixels.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from umt_pipeline.core.errors import UmtError, VideoError
from umt_pipeline.video.views import View, load_view

# Batches that may wait for the consumer: enough to ride out a slow file, little memory.
_BATCHES_AHEAD = 2


class DecoderDiedError(UmtError):
    """A decoding process ended without an answer."""


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
        DecoderDiedError: a process was killed, by the system for want of memory or by a crash in the decoder.
    """
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers == 0:
        for positions in batches:
            yield positions, _stack([_load(paths[position], views[position]) for position in positions])
        return
    # Started afresh, not forked: the caller has run torch's threads, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[range, list[Future[np.ndarray | tuple[str, str]]]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=follow_parent) as pool:
        try:
            for positions in batches:
                futures = [pool.submit(_load, paths[position], views[position]) for position in positions]
                waiting.append((positions, futures))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        except BrokenProcessPool as error:
            raise DecoderDiedError(
                "a decoding process died: out of memory, or a file that crashes the decoder. Run again with fewer "
                "`workers`; with `workers: 0` decoding happens in the main process, where a debugger can see it"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


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


def _result(positions: range, futures: list[Future[np.ndarray | tuple[str, str]]]) -> tuple[range, np.ndarray]:
    return positions, _stack([future.result() for future in futures])


def _stack(loaded: list[np.ndarray | tuple[str, str]]) -> np.ndarray:
    frames = []
    for result in loaded:
        if isinstance(result, tuple):
            raise VideoError(*result)
        frames.append(result)
    return np.stack(frames)
