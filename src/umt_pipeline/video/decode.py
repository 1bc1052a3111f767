"""Decoding many views in worker processes, in order and with bounded memory.

Legend: B views of a batch, T frames, S side of the view in pixels.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from umt_pipeline.core.errors import UmtError, VideoError
from umt_pipeline.core.processes import cores, follow_parent
from umt_pipeline.video.media import Reason
from umt_pipeline.video.views import View, load_view

logger = logging.getLogger(__name__)

# Batches that may wait for the consumer: enough to ride out a slow file, little memory.
_BATCHES_AHEAD = 2


class DecoderDiedError(UmtError):
    """A decoding process ended before it had a file: no file is at fault."""


Wanted = Sequence[tuple[Path, View]]
"""Views of files."""
Key = TypeVar("Key")
Loaded = np.ndarray | tuple[str, str]
"""Frames, or the parts of a :class:`VideoError`: an error with two arguments does not survive the way back from a process."""


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
            key, and for each view uint8 [T,S,S,3], or why its file cannot be read; the same whatever the number of workers. A
            file that crashes its decoder is one that cannot be read; where the calling process decodes, it ends that.

        Raises:
            DecoderDiedError: a process cannot be started.
        """
        if self._workers == 0:
            for key, wanted in batches:
                yield key, [_answer(_load(*view)) for view in wanted]
            return
        waiting: deque[tuple[Key, Wanted, list[Future[Loaded]]]] = deque()
        try:
            for key, wanted in batches:
                waiting.append((key, wanted, [self._begin(*view) for view in wanted]))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _answers(*waiting.popleft())
            while waiting:
                yield _answers(*waiting.popleft())
        finally:
            for _, _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _begin(self, path: Path, view: View) -> Future[Loaded]:
        """Have a view decoded by the processes, by new ones if a file has cost the others."""
        try:
            return self._running().submit(_load, path, view)
        except BrokenProcessPool:
            self.close()
            return self._running().submit(_load, path, view)

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Started afresh, not forked: the caller has run torch's threads, and a fork would copy their locks.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=follow_parent)
        return self._pool


class _Alone:
    """A process that has one view at a time, so that it is known which one cost it; a new one is then started.

    To be closed, or used in a ``with`` block.
    """

    def __init__(self) -> None:
        self._started: tuple[SpawnProcess, Connection] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._started is not None:
            process, connection = self._started
            self._started = None
            connection.close()
            process.kill()
            process.join()

    def load(self, path: Path, view: View) -> Loaded:
        """Decode a view.

        Raises:
            DecoderDiedError: the process cannot be started.
        """
        process, connection = self._started or self._start()
        try:
            connection.send((path, view))
            answer: Loaded = connection.recv()
        except (EOFError, OSError):
            how = _end_of(process)
            self.close()
            return Reason.DECODER_CRASH.value, f"{path}: the process that decoded it ended with {how}"
        return answer

    def _start(self) -> tuple[SpawnProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        connection, its_own = context.Pipe()
        process = context.Process(target=_serve, args=(its_own, _load))
        process.start()
        its_own.close()
        self._started = process, connection
        try:
            connection.recv()
        except (EOFError, OSError) as error:
            how = _end_of(process)
            self.close()
            raise DecoderDiedError(
                f"a decoding process ended with {how} before it had a file. Its error, if it had one, stands above; else there "
                "was no memory: run again with fewer `workers`. With `workers: 0` decoding happens in the main process, where "
                "a debugger can see it"
            ) from error
        return self._started


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
        VideoError: a file cannot be read, or crashes its decoder; it is named.
        DecoderDiedError: see :meth:`Decoder.decode`.
    """
    wanted = ((positions, [(paths[position], views[position]) for position in positions]) for positions in batches)
    with Decoder(workers) as decoder:
        for positions, loaded in decoder.decode(wanted):
            yield positions, np.stack([_frames(result) for result in loaded])


def _load(path: Path, view: View) -> Loaded:
    try:
        return load_view(path, view)
    except VideoError as error:
        return error.reason, error.detail if str(path) in error.detail else f"{path}: {error.detail}"


def _serve(connection: Connection, load: Callable[[Path, View], Loaded]) -> None:
    """The main function of a process that decodes alone."""
    follow_parent()
    connection.send(None)
    with suppress(EOFError):
        while True:
            connection.send(load(*connection.recv()))


def _answers(key: Key, wanted: Wanted, futures: list[Future[Loaded]]) -> tuple[Key, list[np.ndarray | VideoError]]:
    """Return the answers, those of a pool that broke from a process that decodes view after view."""
    answers: list[np.ndarray | VideoError] = []
    with _Alone() as alone:
        for view, future in zip(wanted, futures, strict=True):
            try:
                answers.append(_answer(future.result()))
            except BrokenProcessPool:
                answers.append(_answer(alone.load(*view)))
    if lost := sum(future.exception() is not None for future in futures):
        logger.warning("a decoding process died: %d views were decoded again, one by one, to find the file", lost)
    return key, answers


def _end_of(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode
    if code is None or code >= 0:
        return f"exit code {code}"
    hint = ", as Linux does when memory runs out" if -code == signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{hint}"


def _answer(loaded: Loaded) -> np.ndarray | VideoError:
    return VideoError(*loaded) if isinstance(loaded, tuple) else loaded


def _frames(answer: np.ndarray | VideoError) -> np.ndarray:
    if isinstance(answer, VideoError):
        raise answer
    return answer
