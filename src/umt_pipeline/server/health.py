"""Whether the server is well: not whether it answers, but whether it answers what it did at its start."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from umt_pipeline.server.documents import HealthDocument
from umt_pipeline.server.limits import Limits, RefusedError
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.server.shelf import Served, Shelf
from umt_pipeline.server.work import ModelThread


class Health:
    """Asks each model for what it said at the start. Many who ask at the same time share one check.

    Args:
        shelf: the models.
        thread: where they work.
        limits: how long a check is good for.
        metrics: are told of it.
    """

    def __init__(self, shelf: Shelf, thread: ModelThread, limits: Limits, metrics: Metrics) -> None:
        self._shelf, self._thread, self._limits, self._metrics = shelf, thread, limits, metrics
        self._lock = asyncio.Lock()
        self._last: tuple[float, HealthDocument] | None = None

    async def check(self) -> HealthDocument:
        """Return what was found, now or a moment ago."""
        async with self._lock:
            if self._last is None or time.monotonic() > self._last[0]:
                problems, spent_s = await self._found()
                self._metrics.healthy.set(not problems)
                # Anybody may ask, without a token, and is served before all others: that must not be all that models do.
                good_until = time.monotonic() + self._limits.health_rest * spent_s
                self._last = good_until, HealthDocument(status="problem" if problems else "ok", problems=problems)
            return self._last[1]

    async def _found(self) -> tuple[list[str], float]:
        """Return what is different, and the seconds that models worked to find out."""
        problems: list[str] = []
        spent_s = 0.0
        for name in [served.name for served in self._shelf.all]:

            def work(name: str = name) -> tuple[list[str], float]:
                began = time.monotonic()
                # Looked up here: what is served may have been exchanged, and its index closed, while this waited.
                return _problems(self._shelf.now(name)), time.monotonic() - began

            try:
                found, took_s = await self._thread.do_first(work)
                problems, spent_s = problems + found, spent_s + took_s
            except RefusedError as error:
                problems.append(f"{name}: {error.detail}")
        return problems, spent_s


def _problems(served: Served) -> list[str]:
    found = served.known.problems(served.model)
    if served.index is not None and len(served.index.windows):
        try:
            vector_1E = served.index.vectors(np.array([0]))
            score = float(served.index.nearest(vector_1E, 1)[0][0, 0])
            if not score > 0.5:  # an approximate index may find a neighbour of it instead
                found.append(f"the index: expected its first window to be found by its own vector, found a cosine of {score:g}")
        except Exception as error:  # whatever it is, the index cannot be searched any more
            found.append(f"the index: {type(error).__name__}: {error}")
    return [f"{served.name}: {problem}" for problem in found]
