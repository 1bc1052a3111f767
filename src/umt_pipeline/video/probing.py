"""Check many video and image files in worker processes; a file that crashes a decoder costs that file, not the run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.progress import progress
from umt_pipeline.video.images import probe_image
from umt_pipeline.video.media import Reason, VideoInfo, VideoRules, is_image
from umt_pipeline.video.reader import probe

# Files handed to a worker at a time: few, so that the bar moves and the cores finish together.
FILES_PER_CALL = 8


@dataclass(frozen=True)
class Refusal:
    """Why a file was not accepted: the parts of a :class:`~umt_pipeline.core.errors.VideoError`, which is no value.

    Attributes:
        reason: one of :class:`~umt_pipeline.video.media.Reason`.
        detail: what was expected and what was found.
    """

    reason: str
    detail: str


Check = Callable[[Path], VideoInfo | Refusal]


def try_probe(path: Path, rules: VideoRules) -> VideoInfo | Refusal:
    """Probe one file, video or image; whatever goes wrong with it becomes a :class:`Refusal`."""
    try:
        return probe_image(path, rules) if is_image(path) else probe(path, rules)
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    except Exception as error:
        # Decoders raise what they like on damaged files. One file must not end the run, and none is dropped unseen.
        return Refusal(Reason.UNREADABLE_FILE.value, f"{type(error).__name__}: {error}")


def probe_all(paths: Sequence[Path], rules: VideoRules, workers: int | None = None) -> list[VideoInfo | Refusal]:
    """Probe files.

    Args:
        paths: the files.
        rules: what is asked of each.
        workers: processes; None: one per core; 1: this process, where a debugger works but a crash ends the run.

    Returns:
        One result per path, in the order of ``paths``, the same for any number of workers.
    """
    check = partial(try_probe, rules=rules)
    count = min(workers or os.cpu_count() or 1, -(-len(paths) // FILES_PER_CALL))
    results = map(check, paths) if count <= 1 else _in_processes(check, paths, count)
    found: list[VideoInfo | Refusal] = []
    with progress("checking files", len(paths), "file") as show:
        for result in results:
            found.append(result)
            show(len(found))
    return found


def _in_processes(check: Check, paths: Sequence[Path], count: int) -> Iterator[VideoInfo | Refusal]:
    done = 0
    while done < len(paths):
        try:
            with _pool(count) as pool:
                for result in pool.map(check, paths[done:], chunksize=FILES_PER_CALL):
                    yield result
                    done += 1
        except BrokenProcessPool:
            # One of the files now in work killed its process. Take them one at a time to find out which.
            suspects = paths[done : done + 2 * count * FILES_PER_CALL]
            for result in _one_at_a_time(check, suspects):
                yield result
                done += 1


def _one_at_a_time(check: Check, paths: Sequence[Path]) -> Iterator[VideoInfo | Refusal]:
    pool = _pool(1)
    try:
        for path in paths:
            try:
                yield pool.submit(check, path).result()
            except BrokenProcessPool:
                yield Refusal(Reason.DECODER_CRASH.value, f"the process that decoded {path.name} died")
                pool = _pool(1)
    finally:
        pool.shutdown()


def _pool(count: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork copies the locks of threads that torch or a decoder started, and can hang on them.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
