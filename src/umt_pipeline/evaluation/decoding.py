"""Reading clips ahead of whoever encodes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from umt_pipeline.core.errors import VideoError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def decoded(
    keys: Sequence[Key], load: Callable[[Key], Value], batch_size: int, threads: int
) -> Iterator[tuple[dict[Key, Value], dict[Key, str]]]:
    """Decode each of ``keys`` once, in threads, two batches ahead.

    Yields:
        Batches in the order of ``keys``: what was read, and why the others could not be.
    """
    waiting: deque[tuple[Key, Future[Value]]] = deque()
    # Threads, not processes: the decoder and the resize let go of the interpreter's lock, and nothing is copied.
    with ThreadPoolExecutor(threads) as pool:
        ahead = iter(keys)
        while True:
            while len(waiting) < 3 * batch_size and (key := next(ahead, None)) is not None:
                waiting.append((key, pool.submit(load, key)))
            if not waiting:
                return
            read: dict[Key, Value] = {}
            failures: dict[Key, str] = {}
            for key, future in [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]:
                try:
                    read[key] = future.result()
                except VideoError as error:
                    failures[key] = str(error)
            yield read, failures
