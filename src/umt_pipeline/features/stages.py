"""Threads on both sides of the device: one fetches batches ahead of it, one writes behind it.

The calling thread then does nothing but start work on the device; what it waits for is measured.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long a thread sleeps at most before it looks whether it is to end.
_LOOKS_EVERY_S = 0.1
# Batches ready for the device, and batches behind it that may wait to be written: enough to ride out a slow one.
_AHEAD, _BEHIND = 2, 2


class Ahead(Generic[Item]):
    """Runs an iterator in a thread of its own, a few items ahead of whoever takes them.

    Args:
        items: the iterator; used, and at the end closed, by that thread alone.

    Attributes:
        waited: seconds for which :meth:`__iter__` has waited.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches ahead", daemon=True)
        self.waited = 0.0

    def __iter__(self) -> Iterator[Item]:
        """Yield the items, or raise what the iterator raised."""
        self._thread.start()
        while True:
            began = time.perf_counter()
            got = self._queue.get()
            self.waited += time.perf_counter() - began
            if got is None:
                return
            if isinstance(got, BaseException):
                raise got
            yield got[0]

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                if not self._put((item,)):
                    break
        except BaseException as error:  # raised where the items are taken
            last = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self._put(last)

    def _put(self, item: tuple[Item] | BaseException | None) -> bool:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=_LOOKS_EVERY_S)
            except queue.Full:
                continue
            return True
        return False


class Behind(Generic[Item, Result]):
    """Handles items in a thread of its own, in their order.

    Args:
        handle: called with each item.

    Attributes:
        waited: seconds for which :meth:`put` and :meth:`rest` have waited.
    """

    def __init__(self, handle: Callable[[Item], Result]) -> None:
        self._handle = handle
        self._queue: queue.Queue[tuple[Item] | None] = queue.Queue(_BEHIND)
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writing behind", daemon=True)
        self._thread.start()
        self.waited = 0.0

    def put(self, item: Item) -> None:
        """Hand an item over; waits while too many lie there.

        Raises:
            BaseException: what handling an earlier one raised.
        """
        began = time.perf_counter()
        self._raise()
        self._queue.put((item,))
        self.waited += time.perf_counter() - began
        self._raise()

    def results(self) -> Iterator[Result]:
        """Yield the results that are there."""
        while not self._results.empty():
            yield self._results.get()

    def rest(self) -> Iterator[Result]:
        """Wait until all items are handled, and yield the results that are left.

        Raises:
            BaseException: what handling one of them raised.
        """
        began = time.perf_counter()
        self._queue.put(None)
        self._thread.join()
        self.waited += time.perf_counter() - began
        self._raise()
        yield from self.results()

    def close(self) -> None:
        """End the thread without handling what waits."""
        self._dropped.set()
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # After an error the rest is taken off the queue and dropped, so that nobody waits for room there.
        while (got := self._queue.get()) is not None:
            if self._error is not None or self._dropped.is_set():
                continue
            try:
                self._results.put(self._handle(got[0]))
            except BaseException as error:  # raised where items are handed over
                self._error = error
