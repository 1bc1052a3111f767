"""A thread that sends: callers hand over and go on, and the first failure ends all sending."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from umt_pipeline.tracking.rows import Row

Job = Callable[[], None]

# Rows that wait are sent together, so that a request is worth it; people who watch see them after this time.
GATHER_S = 1.0
ROWS_PER_BATCH = 200
# Of rows that wait for a slow server. What does not fit is not lost: the history tables have it.
MOST_WAITING = 20_000
# A call that takes longer than this is not expected to end.
STUCK_S = 60.0


class Sender:
    """Sends, one after the other, in a thread of its own.

    No method but :meth:`drain` waits. The thread ends with the process: it is nobody's reason to stay.

    Args:
        send_rows: called in the thread, with rows that were given one after the other.
        failed: called once, with the first error, in the thread or in a caller's. What waits then is thrown away.
    """

    def __init__(self, send_rows: Callable[[Sequence[Row]], None], failed: Callable[[BaseException], None]) -> None:
        self._send_rows, self._report = send_rows, failed
        self._waiting: deque[Row | Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy_since: float | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether something could not be sent."""
        return self._failure is not None

    @property
    def is_stuck(self) -> bool:
        """Whether a call has not come back, though the sender is closed."""
        return self._closing and self._thread.is_alive()

    def put(self, item: Row | Job) -> None:
        """Hand over a row or a job; after a failure, or a row where too many wait, nothing happens."""
        with self._changed:
            full = isinstance(item, Row) and len(self._waiting) >= MOST_WAITING
            if self._failure is None and not full:
                self._waiting.append(item)
                self._changed.notify()
            stuck = self._busy_since is not None and time.monotonic() - self._busy_since > STUCK_S
        if stuck:
            self._fail(TimeoutError(f"no answer for {STUCK_S:.0f} s"))

    def drain(self, wait_s: float) -> bool:
        """Take nothing more, and wait until all is sent.

        Args:
            wait_s: for so long at most; what has not come back by then has failed.

        Returns:
            Whether everything was sent.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(wait_s, 0.0))
        if self._thread.is_alive():
            self._fail(TimeoutError(f"no answer for {wait_s:.0f} s"))
        return not self.has_failed

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            first, self._failure = self._failure is None, self._failure or error
            self._waiting.clear()
            self._changed.notify()
        if first:
            self._report(error)

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                if isinstance(batch, list):
                    self._send_rows(batch)
                else:
                    batch()
            except Exception as error:  # whatever it is, work goes on
                self._fail(error)
                return
            with self._changed:
                self._busy_since = None

    def _next(self) -> list[Row] | Job | None:
        """Wait for something to send; None: there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing or self._failure)
            if self._failure is not None or not self._waiting:
                return None
            if isinstance(self._waiting[0], Row):
                self._changed.wait_for(self._is_worth_it, timeout=GATHER_S)
            rows: list[Row] = []
            while self._waiting and len(rows) < ROWS_PER_BATCH and isinstance(self._waiting[0], Row):
                rows.append(self._waiting.popleft())  # type: ignore[arg-type]
            if not rows and not self._waiting:
                return None  # thrown away after a failure
            self._busy_since = time.monotonic()
            return rows or self._waiting.popleft()  # type: ignore[return-value]

    def _is_worth_it(self) -> bool:
        if self._closing or not self._waiting:
            return True
        return len(self._waiting) >= ROWS_PER_BATCH or not isinstance(self._waiting[-1], Row)
