"""Reading records out of array files: few files open, one call for what lies side by side, several reads under way at once.

A store has tens of thousands of files. None of them is mapped, for a process may have no more than some ten thousand
mappings, and few are open, for it may have no more than some hundred descriptors. A record is read with ``preadv`` straight
into its place in the batch; records that follow each other in a file are read with one call, wherever they go. A descriptor's
position is never used, so threads, and processes that were forked, may read through the same one.

Legend: B records read at once.
"""

from __future__ import annotations

import io
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.core.errors import StoreError
from umt_pipeline.features.codecs import ArraySpec

# Reads under way at once. A thread waits most of the time where the disk is asked, and copies where the page cache answers.
THREADS = 8
# Of the descriptors that the process may have, one reader keeps at most this share open, and never more than _MOST_OPEN.
_SHARE_OPEN = 1 / 8
_MOST_OPEN = 512
# What one call reads at most: many records that follow each other are shared among the threads.
_CALL_BYTES = 8 << 20
# preadv takes no more buffers (IOV_MAX).
_CALL_BUFFERS = 1024
_LONGEST_HEADER = 1024
_AGAIN = "Make the feature store again"


class ArrayFile(NamedTuple):
    """An array file (NumPy's format, version 1.0) as it should be: ``bytes`` long, ``rows`` records as ``spec`` says."""

    path: Path
    bytes: int
    rows: int
    spec: ArraySpec


class _Open:
    """A file that is open: where its records begin, and how many threads read it now."""

    __slots__ = ("fd", "file", "start", "users")

    def __init__(self, file: ArrayFile, fd: int, start: int) -> None:
        self.file, self.fd, self.start, self.users = file, fd, start, 1


@dataclass(frozen=True)
class _Run:
    """Records that follow each other in a shard, and where in the batch each of them goes."""

    shard: Hashable
    first: int
    places: list[int]


class RecordReader:
    """Reads records of the shards that ``describe`` knows, into batches.

    May be used by several threads at once, and in a forked process; a pickled one opens its files anew.

    Args:
        describe: gives the array file of (shard, name of the array).
        most_open: files that stay open; None: a share of what the process may have.
        threads: reads under way at once.
    """

    def __init__(self, describe: Callable[[Any, str], ArrayFile], most_open: int | None = None, threads: int = THREADS) -> None:
        self._describe, self._most_open, self._threads = describe, most_open or _most_open(), threads
        self._begin()

    def _begin(self) -> None:
        self._open: OrderedDict[tuple[Hashable, str], _Open] = OrderedDict()
        self._lock = threading.Lock()
        _READERS.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __del__(self) -> None:
        if "_lock" in self.__dict__:  # not where __init__ failed
            self.close()

    def close(self) -> None:
        """Close the files that are open; they are opened again when they are needed."""
        with self._lock:
            idle = [key for key, found in self._open.items() if found.users == 0]
            for key in idle:
                os.close(self._open.pop(key).fd)

    def read(
        self, specs: Mapping[str, ArraySpec], shards: Sequence[Hashable], shard_rows_B: np.ndarray, pin: bool = False
    ) -> dict[str, Tensor]:
        """Copy records into new tensors, one per array of ``specs``, each with first axis B.

        Args:
            specs: the arrays that are read.
            shards: of each record.
            shard_rows_B: where in its shard each lies.
            pin: into page-locked memory, from which a CUDA device copies while it computes.

        Raises:
            StoreError: a file is missing, or is not what it should be; it is named.
        """
        runs, copies = _runs(shards, shard_rows_B.tolist())
        result: dict[str, Tensor] = {}
        tasks: list[tuple[str, _Run, memoryview, int]] = []
        for name, spec in specs.items():
            result[name] = _empty((len(shards), *spec.shape), spec.dtype, pin)
            record = spec.dtype.itemsize * int(np.prod(spec.shape))
            if record and len(shards):
                buffer = result[name].view(-1).view(torch.uint8).numpy().data
                tasks += [(name, run, buffer, record) for whole in runs for run in _cut(whole, record)]
        self._share(tasks)
        for tensor in result.values():
            for target, source in copies:
                tensor[target] = tensor[source]
        return result

    def _share(self, tasks: list[tuple[str, _Run, memoryview, int]]) -> None:
        """Read in this thread and in those of the pool, until all is read or something failed."""

        def work(part: Sequence[tuple[str, _Run, memoryview, int]]) -> None:
            for name, run, buffer, record in part:
                self._read_run(name, run, buffer, record)

        shares = min(self._threads, len(tasks))
        pool = _pool(THREADS) if shares > 1 else None
        futures = [pool.submit(work, tasks[number::shares]) for number in range(1, shares)] if pool else []
        try:
            work(tasks[:: shares or 1])
        finally:
            wait(futures)  # nobody may still write into the batch when it is given up
        for future in futures:
            future.result()

    def _read_run(self, name: str, run: _Run, buffer: memoryview, record: int) -> None:
        opened = self._take((run.shard, name))
        try:
            file = opened.file
            if not 0 <= run.first <= file.rows - len(run.places):
                last = run.first + len(run.places) - 1
                raise StoreError(f"{file.path}: expected rows in [0, {file.rows}), found {run.first} to {last}. {_AGAIN}")
            buffers = [buffer[start * record : stop * record] for start, stop in _stretches(run.places)]
            _fill(opened.fd, buffers, opened.start + run.first * record)
        except (OSError, EOFError) as error:
            raise StoreError(f"{opened.file.path}: cannot be read: {error}") from error
        finally:
            with self._lock:
                opened.users -= 1

    def _take(self, key: tuple[Hashable, str]) -> _Open:
        """Return an open file, which stays open until its ``users`` is lowered again."""
        with self._lock:
            if (found := self._open.get(key)) is not None:
                self._open.move_to_end(key)
                found.users += 1
                return found
        # Opened outside the lock: a disk may take its time.
        fresh = _open(self._describe(*key))
        with self._lock:
            if (found := self._open.get(key)) is not None:  # another thread was faster
                os.close(fresh.fd)
                found.users += 1
                return found
            self._open[key] = fresh
            idle = (other for other, held in self._open.items() if held.users == 0)
            for other in [next(idle, None) for _ in range(len(self._open) - self._most_open)]:
                if other is not None:
                    os.close(self._open.pop(other).fd)
        return fresh


_READERS: weakref.WeakSet[RecordReader] = weakref.WeakSet()
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOL_LOCK = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return this process' threads; all readers share them."""
    with _POOL_LOCK:
        if threads not in _POOLS:
            _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="umt-store")
        return _POOLS[threads]


def _after_fork() -> None:
    # The parent's threads are not here, and what they held locked would stay so. Its descriptors are, and are used on.
    global _POOL_LOCK
    _POOL_LOCK = threading.Lock()
    _POOLS.clear()
    for reader in list(_READERS):
        reader._lock = threading.Lock()
        for opened in reader._open.values():
            opened.users = 0


os.register_at_fork(after_in_child=_after_fork)


def _empty(shape: tuple[int, ...], dtype: np.dtype, pin: bool) -> Tensor:
    if pin:
        return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=True)
    # NumPy asks the system for large pages, torch does not: a page that is touched first costs as much as filling it.
    return torch.from_numpy(np.empty(shape, dtype))


def _most_open() -> int:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_OPEN if allowed == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, int(_SHARE_OPEN * allowed)))


def _runs(shards: Sequence[Hashable], shard_rows: Sequence[int]) -> tuple[list[_Run], list[tuple[int, int]]]:
    """Put records that follow each other in a shard together, whatever their order in the batch.

    Returns:
        Runs, in the order in which their first records are wanted; and for each record that is wanted again: where it goes,
        and where it is read to.
    """
    by_shard: dict[Hashable, dict[int, int]] = {}
    copies: list[tuple[int, int]] = []
    for place, (shard, row) in enumerate(zip(shards, shard_rows, strict=True)):
        found = by_shard.setdefault(shard, {})
        if row in found:
            copies.append((place, found[row]))
        else:
            found[row] = place
    runs: list[_Run] = []
    for shard, found in by_shard.items():
        before = None
        for row in sorted(found):
            if before is not None and row == before + 1:
                runs[-1].places.append(found[row])
            else:
                runs.append(_Run(shard, row, [found[row]]))
            before = row
    return runs, copies


def _cut(run: _Run, record: int) -> Iterator[_Run]:
    """Cut a long run into what one call reads."""
    length = min(_CALL_BUFFERS, max(1, _CALL_BYTES // record))
    for start in range(0, len(run.places), length):
        yield _Run(run.shard, run.first + start, run.places[start : start + length])


def _stretches(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Put places that follow each other together: (first, last + 1) of each stretch."""
    start = 0
    for number in range(1, len(places) + 1):
        if number == len(places) or places[number] != places[number - 1] + 1:
            yield places[start], places[number - 1] + 1
            start = number


def _fill(fd: int, buffers: list[memoryview], offset: int) -> None:
    """Read on from ``offset`` until all buffers are full.

    Raises:
        EOFError: the file ends before.
    """
    while buffers:
        count = os.preadv(fd, buffers, offset)
        if count == 0:
            raise EOFError(f"it ends at byte {offset}, where a record should be. {_AGAIN}")
        offset += count
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if count:
            buffers[0] = buffers[0][count:]


def _open(file: ArrayFile) -> _Open:
    """Open a file and see whether it is what it should be, by its size and its header.

    Raises:
        StoreError: it is not, or it cannot be opened.
    """
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StoreError(f"{file.path}: expected {file.bytes} bytes, found no file. {_AGAIN}") from error
    except OSError as error:
        raise StoreError(f"{file.path}: cannot be opened: {error}") from error
    try:
        return _Open(file, fd, _checked_start(file, fd))
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError | ValueError):
            raise StoreError(f"{file.path}: cannot be read: {error}. {_AGAIN}") from error
        raise


def _checked_start(file: ArrayFile, fd: int) -> int:
    """Return where the records of an open file begin."""
    found_bytes = os.fstat(fd).st_size
    if found_bytes != file.bytes:
        raise StoreError(f"{file.path}: expected {file.bytes} bytes, found {found_bytes} bytes. {_AGAIN}")
    expected = (file.spec.dtype, (file.rows, *file.spec.shape))
    header = os.pread(fd, _LONGEST_HEADER, 0)
    # Parsing a header takes as long as reading a record, and nearly all of them are as this version of NumPy writes them.
    usual = _usual_header(*expected)
    if header.startswith(usual):
        found, start = expected, len(usual)
    else:
        stream = io.BytesIO(header)
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        found, start = (dtype, shape), stream.tell()
        if fortran_order:
            raise ValueError("expected the last axis to lie side by side")
    if found != expected:
        raise StoreError(f"{file.path}: expected {expected[0]} {expected[1]}, found {found[0]} {found[1]}. {_AGAIN}")
    return start


@lru_cache(maxsize=256)
def _usual_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return stream.getvalue()
