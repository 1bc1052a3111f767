"""The one thread in which models work, with a queue of bounded length before it.

One, because each product of matrices uses all cores: two at a time are slower than one after the other. Texts that come within
a few milliseconds go through the model together. Searches are done here too, and indexes exchanged: so nobody reads one that is
being closed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from umt_pipeline.server.limits import Limits, busy
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.serving.embedder import Embedder

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The share of the newest job in the mean time of a job.
_NEWEST = 0.2
# At the end, nobody is left who waits for it.
_END_WITHIN_S = 2.0


@dataclass
class _Job:
    """A piece of work, and who waits for it. A text has an embedder, and its work is given the vector [E]."""

    work: Callable[..., Any]
    embedder: Embedder | None = None
    text: str = ""
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class ModelThread:
    """Does model work, one piece after the other.

    Args:
        limits: of queue and batches.
        metrics: gets the length of the queue, the sizes of batches and what was refused.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._mean_s = 0.05
        metrics.queue.set_function(lambda: len(self._waiting))
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise what it raises.

        Raises:
            RefusedError: 503: too many wait already, or it was not done in time.
        """
        return await self._answer(_Job(work))

    async def do_with_text(self, embedder: Embedder, text: str, work: Callable[[Tensor], T]) -> T:
        """Embed a text, together with others of the same moment, and return what ``work`` makes of its unit vector [E].

        Raises:
            RefusedError: 503: too many wait already, or it was not done in time.
        """
        return await self._answer(_Job(work, embedder, text))

    async def do_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` before all that waits, however much that is: for a check whether the rest gets done."""
        job = _Job(work)
        with self._changed:
            self._waiting.appendleft(job)
            self._changed.notify_all()
        return await self._result(job)

    def hand(self, work: Callable[[], T]) -> Future[T]:
        """Let ``work`` be done from another thread, whatever the length of the queue."""
        job = _Job(work)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """End the thread after what it does now, which is not waited for long; what waits is cancelled."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(_END_WITHIN_S)

    async def _answer(self, job: _Job) -> Any:
        with self._changed:
            if len(self._waiting) >= self._limits.queue:
                self._metrics.refused.labels("queue").inc()
                raise busy(f"{len(self._waiting)} requests wait for the model already", len(self._waiting) * self._mean_s)
            self._waiting.append(job)
            self._changed.notify_all()
        return await self._result(job)

    async def _result(self, job: _Job) -> Any:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), self._limits.wait_s)
        except TimeoutError as error:
            if job.future.done() and not job.future.cancelled():
                return job.future.result()  # its own failure, or done at the last moment
            self._metrics.refused.labels("wait").inc()
            raise busy(f"the model did not get to it within {self._limits.wait_s:g} s", self._limits.wait_s) from error

    def _run(self) -> None:
        while jobs := self._next():
            began = time.monotonic()
            if jobs[0].embedder is None:
                _finish(jobs[0])
            else:
                self._do_texts(jobs[0].embedder, jobs)
            spent = (time.monotonic() - began) / len(jobs)
            self._mean_s += _NEWEST * (spent - self._mean_s)

    def _next(self) -> list[_Job]:
        """Return the next job, or texts that go together; nothing when the thread is to end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return []
                first = self._waiting.popleft()
                if first.future.set_running_or_notify_cancel():
                    break
            jobs = [first]
            if first.embedder is not None:
                until = first.since + self._limits.gather_s
                while len(jobs) < self._limits.batch:
                    if not self._take_like(jobs) and ((left := until - time.monotonic()) <= 0 or not self._changed.wait(left)):
                        break
            return jobs

    def _take_like(self, jobs: list[_Job]) -> bool:
        """Take a waiting text for the model of the first; tell whether there was one."""
        for job in self._waiting:
            if job.embedder is jobs[0].embedder:
                self._waiting.remove(job)
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                return True
        return False

    def _do_texts(self, embedder: Embedder, jobs: list[_Job]) -> None:
        self._metrics.batch.observe(len(jobs))
        try:
            vectors_UE = embedder.encode_texts([job.text for job in jobs])
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, vector_E in zip(jobs, vectors_UE, strict=True):
            _finish(job, vector_E)


def _finish(job: _Job, *given: Any) -> None:
    try:
        result = job.work(*given)
    except BaseException as error:  # whatever it is, it is for who waits, and the thread goes on
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
