"""Decoding many views in worker processes, in order and with bounded memory; a file once for its views in a batch.

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
from itertools import groupby
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from umt_pipeline.core.errors import UmtError, VideoError
from umt_pipeline.core.processes import cores, follow_parent
from umt_pipeline.video.media import Reason
from umt_pipeline.video.views import View, load_views

logger = logging.getLogger(__name__)

# Batches that wait for the consumer, at least: enough to ride out a slow file.
BATCHES_AHEAD = 2
# Jobs (views of one file) that wait for each worker, at least: a batch may be of one file only, and more batches wait then.
JOBS_AHEAD = 2
# Pixels of a file that are decoded at once: a worker holds whole frames, which are at most about four times their crop.
_PIXELS_AT_ONCE = 2**25


class DecoderDiedError(UmtError):
    """A decoding process ended before it had a file: no file is at fault."""


Wanted = Sequence[tuple[Path, View]]
"""Views of files."""
Key = TypeVar("Key")
Loaded = np.ndarray | tuple[str, str]
"""Frames, or the parts of a :class:`VideoError`: an error with two arguments does not survive the way back from a process."""
_Begun = tuple[Path, list[View], Future[list[Loaded]]]
"""Views of one file that are being decoded."""


class Decoder:
    """Decodes views in processes of its own, or in the calling one. To be closed, or used in a ``with`` block.

    Views of a file that follow each other in a batch are decoded together: the file is opened once, each frame read once.

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
                yield key, [_answer(loaded) for together in _by_file(wanted) for loaded in _load(*together)]
            return
        waiting: deque[tuple[Key, list[_Begun]]] = deque()
        jobs = 0
        try:
            for key, wanted in batches:
                waiting.append((key, [self._begin(*together) for together in _by_file(wanted)]))
                jobs += len(waiting[-1][1])
                # Those of the first batch are done, or about to be, when it is handed out: they keep no worker busy.
                while len(waiting) > BATCHES_AHEAD and jobs - len(waiting[0][1]) >= JOBS_AHEAD * self._workers:
                    jobs -= len(waiting[0][1])
                    yield _answers(*waiting.popleft())
            while waiting:
                yield _answers(*waiting.popleft())
        finally:
            for _, begun in waiting:
                for _, _, future in begun:
                    future.cancel()

    def _begin(self, path: Path, views: list[View]) -> _Begun:
        """Have views of a file decoded by the processes, by new ones if a file has cost the others."""
        try:
            return path, views, self._running().submit(_load, path, views)
        except BrokenProcessPool:
            self.close()
            return path, views, self._running().submit(_load, path, views)

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
            connection.send((path, [view]))
            answers: list[Loaded] = connection.recv()
        except (EOFError, OSError):
            how = _end_of(process)
            self.close()
            return Reason.DECODER_CRASH.value, f"{path}: the process that decoded it ended with {how}"
        return answers[0]

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


def _by_file(wanted: Wanted) -> Iterator[tuple[Path, list[View]]]:
    """Put views together that follow each other, are of one file and have one shape, unless their frames are too many."""
    for (path, _, _), views in groupby(wanted, lambda one: (one[0], one[1].size, len(one[1].frame_indices))):
        together: list[View] = []
        frames: set[int] = set()
        for _, view in views:
            _, _, height, width = view.crop
            if together and len(frames | set(view.frame_indices)) * height * width > _PIXELS_AT_ONCE:
                yield path, together
                together, frames = [], set()
            together.append(view)
            frames |= set(view.frame_indices)
        yield path, together


def _load(path: Path, views: Sequence[View]) -> list[Loaded]:
    """Decode views of a file, together if all can be decoded: each says for itself why it cannot."""
    try:
        return list(load_views(path, views))
    except (VideoError, MemoryError) as error:
        if len(views) > 1:
            return [loaded for view in views for loaded in _load(path, [view])]
        if isinstance(error, MemoryError):
            raise
        return [(error.reason, error.detail if str(path) in error.detail else f"{path}: {error.detail}")]


def _serve(connection: Connection, load: Callable[[Path, list[View]], list[Loaded]]) -> None:
    """The main function of a process that decodes alone."""
    follow_parent()
    connection.send(None)
    with suppress(EOFError):
        while True:
            connection.send(load(*connection.recv()))


def _answers(key: Key, begun: Sequence[_Begun]) -> tuple[Key, list[np.ndarray | VideoError]]:
    """Return the answers, those of a pool that broke from a process that decodes view after view."""
    answers: list[np.ndarray | VideoError] = []
    lost = 0
    with _Alone() as alone:
        for path, views, future in begun:
            try:
                loaded = future.result()
            except BrokenProcessPool:
                loaded = [alone.load(path, view) for view in views]
                lost += len(views)
            answers += [_answer(one) for _, one in zip(views, loaded, strict=True)]
    if lost:
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
