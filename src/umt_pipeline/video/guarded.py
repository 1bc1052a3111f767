"""Run a check over files in worker processes: a file that crashes, hangs or eats memory costs itself and nothing else.

A worker has one file at a time, so it is known whose fault its end is. The parent holds the clock: a worker that is over its
deadline is killed and replaced. Workers are fresh interpreters: a fork copies the locks of threads that torch or a decoder
started, and can hang on them.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, TypeVar

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.executor import Executor, Needs
from umt_pipeline.core.processes import cores, follow_parent
from umt_pipeline.video.media import Reason, Refusal

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Extend = Callable[[float], None]
"""Called by a check with the seconds of video that a file states, to move the deadline by ``seconds_per_second`` for each."""
Check = Callable[[Path, Extend], Result]

# Imports over a slow network take their time, but they do end.
STARTS_WITHIN_S = 300.0
# What is stated is believed as far as the file has bytes for it: a video of less than 8 kbit/s is a lie or a still picture.
# Without this, a damaged header that claims 10^9 frames would keep a hanging decoder for a year.
BYTES_PER_STATED_SECOND = 1000
# A process in the middle of a read from a dead network drive cannot be killed before that returns.
DIES_WITHIN_S = 5.0
# Of drives that are worth waiting for: a check reads or hashes the whole of a file, whatever its header states.
SLOWEST_BYTES_PER_S = 1e6
TOLD_CHARACTERS = 2000
# Of files that are handed to a worker on another machine together: so many are done again if it dies.
FILES_AT_ONCE = 64

_READY = None
_MAIN = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from multiprocessing.connection import Connection
from umt_pipeline.video.guarded import serve
serve(Connection(int(sys.argv[2])))
"""


class ReadLimits(Config):
    """What the check of one file may take, when worker processes check.

    Attributes:
        seconds: of the clock, for any file; one more for each megabyte, since some drives are slow.
        seconds_per_second: more for each second of video that the file's header states.
        memory_mib: a worker's memory, its own 100 or so included; kept by the operating system where it can (Linux).
    """

    seconds: float = Field(default=60.0, gt=0.0)
    seconds_per_second: float = Field(default=5.0, ge=0.0)
    memory_mib: int = Field(default=8192, ge=256)


class WorkersDoNotStartError(UmtError):
    """A worker process ended, or said nothing, before it had any file: no file is at fault."""


def check_files(
    check: Check[Result],
    paths: Sequence[Path],
    limits: ReadLimits,
    workers: int | None,
    needs: Needs,
    executor: Executor | None,
) -> Iterator[tuple[int, Result | Refusal]]:
    """Check files, each once, wherever that is done.

    Args:
        check: what is done with a file; pickled, so a function of a module or a ``partial`` of one. Its result too.
        paths: the files.
        limits: for each file.
        workers: processes; None: one per core. 1, without an executor: this process, where a debugger works, but where no limit
            holds, and a file that crashes or hangs its decoder crashes or hangs the run.
        needs: of an executor's workers, which keep the limits as the processes of this machine do.
        executor: where it is done; None: on this machine.

    Yields:
        The place of a file in ``paths`` and its result, as they come; a :class:`Refusal` where the worker gave none.

    Raises:
        WorkersDoNotStartError: a worker process could not be started.
        ConfigError: a worker of the executor lacks what it needs.
    """
    if executor is not None:
        needs = replace(needs, workers=workers, at_once=FILES_AT_ONCE)
        return executor.map(partial(_one_by_one, check, limits), [path.absolute() for path in paths], needs)
    if workers == 1:
        return ((number, check(path, lambda _: None)) for number, path in enumerate(paths))
    return run_guarded(check, paths, limits, workers or cores())


def run_guarded(
    check: Check[Result], paths: Sequence[Path], limits: ReadLimits, workers: int
) -> Iterator[tuple[int, Result | Refusal]]:
    """Check files, each once.

    Args:
        check: what is done with a file; pickled, so a function of a module or a ``partial`` of one. Its result too.
        paths: the files.
        limits: for each file.
        workers: processes.

    Yields:
        The place of a file in ``paths`` and its result, as they come; a :class:`Refusal` where the worker gave none.

    Raises:
        WorkersDoNotStartError: a worker could not be started.
    """
    waiting = deque(enumerate(paths))
    pool: list[_Worker[Result]] = []
    try:
        while waiting or any(worker.job is not None for worker in pool):
            busy = sum(worker.job is not None for worker in pool)
            pool += [_Worker(check, limits) for _ in range(min(workers, busy + len(waiting)) - len(pool))]
            for worker in pool:
                if waiting and worker.hand(waiting[0]):
                    waiting.popleft()
            yield from _heard(pool)
    finally:
        for worker in pool:
            worker.end()


class OneByOne(Generic[Result]):
    """Checks files one after the other, in a process of its own that is replaced when a file has cost it.

    For workers that are themselves one of many; the process ends with the one that made it.

    Args:
        check: what is done with a file.
        limits: for each.
    """

    def __init__(self, check: Check[Result], limits: ReadLimits) -> None:
        self._start = partial(_Worker, check, limits)
        self._pool: list[_Worker[Result]] = []

    def __call__(self, path: Path) -> Result | Refusal:
        """Check a file.

        Raises:
            WorkersDoNotStartError: the process could not be started.
        """
        handed = False
        while True:
            if not self._pool:
                self._pool.append(self._start())
            handed = handed or self._pool[0].hand((0, path))
            for _, result in _heard(self._pool):
                return result

    def close(self) -> None:
        """End the process."""
        while self._pool:
            self._pool.pop().end()


def _one_by_one(check: Check[Result], limits: ReadLimits, cores: int) -> OneByOne[Result]:
    return OneByOne(check, limits)  # with a core, as each of this machine's processes


def _heard(pool: list[_Worker[Result]]) -> Iterator[tuple[int, Result | Refusal]]:
    """Wait until a worker says something or is overdue; yield what came out, and drop those that ended."""
    patience = min(worker.deadline for worker in pool) - time.monotonic()
    told = wait([worker.connection for worker in pool], None if patience == math.inf else max(0.0, patience))
    for worker in list(pool):
        outcome = None
        # Asked again: whoever takes the results may have taken long over one, and an answer in the pipe is in time.
        if worker.connection in told or worker.connection.poll():
            outcome = worker.listen()
        elif worker.deadline <= time.monotonic():
            outcome = worker.overdue()
        if worker.ended:
            pool.remove(worker)
        if outcome is not None:
            yield outcome


class _Worker(Generic[Result]):
    """A process, and what the parent knows of it.

    Attributes:
        connection: to the process.
        job: the number of the file that it has, and the file.
        deadline: by :func:`time.monotonic`; infinite while it has nothing to do.
        ended: whether it is gone.
    """

    def __init__(self, check: Check[Result], limits: ReadLimits) -> None:
        self._limits = limits
        self._said = TemporaryFile()  # noqa: SIM115  # its last words are read after its end
        self.connection, other = Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, json.dumps(sys.path), str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                # Cores are shared out by files. Threads of linear algebra would only take memory for their stacks.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self.job: tuple[int, Path] | None = None
        self.ended = False
        self._ready = False
        self._since, self._stated_s = time.monotonic(), 0.0
        self.deadline = self._since + STARTS_WITHIN_S
        with suppress(OSError):  # it is gone already, which the first look at the connection will tell
            self.connection.send((os.getpid(), limits.memory_mib, pickle.dumps(check)))

    def hand(self, job: tuple[int, Path]) -> bool:
        """Give it a file if it is there and has none; tell whether it was given."""
        if not self._ready or self.job is not None:
            return False
        try:
            self.connection.send(job[1])
        except OSError:  # it died with nothing to do, so this file is not at fault
            return False
        self.job, self._since, self._stated_s = job, time.monotonic(), 0.0
        self.deadline = self._since + self._limits.seconds + _size(job[1]) / SLOWEST_BYTES_PER_S
        return True

    def listen(self) -> tuple[int, Result | Refusal] | None:
        """Take its next message; return a result if it is one, or if it ended instead of giving one."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return self._lost()
        if message is _READY:
            self._ready, self.deadline = True, math.inf
        elif isinstance(message, float):
            stated_s, self._stated_s = self._stated_s, max(self._stated_s, message)
            self.deadline += (self._stated_s - stated_s) * self._limits.seconds_per_second
        else:
            return self._answer(message[0])
        return None

    def overdue(self) -> tuple[int, Result | Refusal] | None:
        """Kill it; return what this means for its file."""
        allowed = self.deadline - self._since
        self.end()
        if self.job is None:
            raise WorkersDoNotStartError(self._complaint(f"said nothing for {STARTS_WITHIN_S:.0f} s"))
        detail = (
            f"the decoder was not done after {allowed:.0f} s and was stopped; if the file is sound and the machine slow, raise "
            "limits.seconds or limits.seconds_per_second"
        )
        return self._answer(Refusal(Reason.DECODER_TIMEOUT.value, detail))

    def end(self) -> None:
        """Kill it, at once."""
        self.ended = True
        self._process.kill()
        try:
            self._process.wait(DIES_WITHIN_S)
        except subprocess.TimeoutExpired:
            logger.warning("Process %d cannot be killed: it waits for a drive that does not answer.", self._process.pid)
        self.connection.close()

    def _lost(self) -> tuple[int, Result | Refusal] | None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(DIES_WITHIN_S)
        code = self._process.returncode
        self.end()
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        if not self._ready:
            raise WorkersDoNotStartError(self._complaint(f"ended with {how}"))
        if self.job is None:
            return None
        said = self._last_words()
        if "bad_alloc" in said or "MemoryError" in said:
            return self._answer(out_of_memory(f"the decoder ended with {how}"))
        hint = ", as Linux does when memory runs out" if code == -signal.SIGKILL else ""
        last = f", its last words: {said.splitlines()[-1]}" if said else ""
        detail = f"the process that decoded {self.job[1].name} ended with {how}{hint}{last}"
        return self._answer(Refusal(Reason.DECODER_CRASH.value, detail))

    def _answer(self, result: Result | Refusal) -> tuple[int, Result | Refusal]:
        assert self.job is not None
        number, self.job, self.deadline = self.job[0], None, math.inf
        return number, result

    def _complaint(self, what: str) -> str:
        return (
            f"Expected a process that checks files, found that it {what} before it had one. It said:\n"
            f"{self._last_words() or 'nothing'}\nSet `workers: 1` to check in this process, where a debugger works."
        )

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read()[-TOLD_CHARACTERS:].decode("utf-8", "replace").strip()


def out_of_memory(found: str) -> Refusal:
    """Return why a file is refused whose check needs more memory than there is."""
    return Refusal(Reason.OUT_OF_MEMORY.value, f"expected to decode it within limits.memory_mib, found: {found}")


# --- in the worker ----------------------------------------------------------------------------------------------------
def serve(connection: Connection) -> None:
    """Check the files that come in, until there are no more; the main function of a worker."""
    parent, memory_mib, pickled = connection.recv()
    follow_parent(parent)
    _limit(resource.RLIMIT_DATA, memory_mib * 2**20)
    _limit(resource.RLIMIT_CORE, 0)  # a crash is expected, and a file of gigabytes for each is not
    check: Check[Any] = pickle.loads(pickled)
    connection.send(_READY)
    while True:
        try:
            path: Path = connection.recv()
        except EOFError:
            return
        # Drop what was said about earlier files.
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
        most_s = _size(path) / BYTES_PER_STATED_SECOND

        def extend(stated_s: float, most_s: float = most_s) -> None:
            connection.send(min(max(float(stated_s), 0.0), most_s))

        connection.send((check(path, extend),))


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):  # not every system knows each limit
        resource.setrlimit(what, (soft, hard))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0
