"""Work that is tried again and again until it succeeds: the longer it has failed, the more seldom."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar("T")

# After the first failure, and at most: each try may embed a corpus, or read a whole index.
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0


class Retrying:
    """Does work on a thing, and after a failure not again for a while, each time twice as long; on another thing at once.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thing: Hashable = None
        self._error: Exception | None = None
        self._wait_s = self._until = 0.0

    def attempt(self, thing: Hashable, work: Callable[[], T]) -> T:
        """Return what the work returns.

        Args:
            thing: that it is about, such as a version of a model.
            work: is done, unless it failed a short while ago.

        Raises:
            Exception: what the work raises, or what it raised when it was done last.
        """
        if thing != self._thing:
            self._thing, self._error, self._wait_s = thing, None, 0.0
        if self._error is not None and self._clock() < self._until:
            raise self._error.with_traceback(None)
        try:
            found = work()
        except Exception as error:
            self._error = error
            self._wait_s = min(2 * self._wait_s or FIRST_WAIT_S, LONGEST_WAIT_S)
            self._until = self._clock() + self._wait_s
            raise
        self._error, self._wait_s = None, 0.0
        return found
