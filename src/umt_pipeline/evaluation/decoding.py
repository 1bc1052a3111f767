"""Reading clips ahead of whoever looks at them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from umt_pipeline.errors import VideoError
from umt_pipeline.evaluation.workers import cores

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def decoded(
    keys: Sequence[Key], load: Callable[[Key], Value], batch_size: int, threads: int | None = None
) -> Iterator[dict[Key, Value | str]]:
    """Decode in threads, two batches ahead.

    Args:
        keys: what to read, each once.
        load: reads one of them.
        batch_size: so many at once, fewer in the last batch.
        threads: None means one per core.

    Yields:
        Batches of key -> what was read, or why nothing could be, in the order of ``keys``.
    """

    def decode(key: Key) -> Value | str:
        try:
            return load(key)
        except VideoError as error:
            return str(error)

    waiting: deque[tuple[Key, Future[Value | str]]] = deque()
    # Threads, not processes: the decoder and the resize let go of the interpreter's lock, and nothing is copied.
    with ThreadPoolExecutor(threads or cores()) as pool:
        ahead = iter(keys)
        while True:
            while len(waiting) < 3 * batch_size and (key := next(ahead, None)) is not None:
                waiting.append((key, pool.submit(decode, key)))
            if not waiting:
                return
            taken = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            yield {key: future.result() for key, future in taken}
