"""What the server allows, and what it answers when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.video.guarded import ReadLimits

P = ParamSpec("P")
T = TypeVar("T")


class Limits(Config):
    """Sizes, numbers and seconds.

    Attributes:
        queue: pieces of model work that wait at most; more are refused with 503.
        wait_s: a request waits so long for its model work at most, then it is refused with 503.
        batch: texts that go through a model at once, at most.
        gather_s: how long the first text of a batch waits for others.
        upload_mib: of an uploaded file.
        upload_s: from the first byte of a request to its last.
        bodies: requests with a body that are taken in at a time, each of which may fill a file; more are refused with 503.
        uploads: files that are uploaded and decoded at a time; twice as many wait, more are refused with 503.
        decoding: of an uploaded file, and of a file that is transcoded for browsers.
        transcodes: files that wait to be transcoded, one after the other; more are refused with 503.
        cache_mib: of thumbnails and transcoded files; what was used longest ago goes first.
        health_rest: a check of health is good for so many times as long as it took; 9: it takes a tenth of the time at most.
    """

    queue: int = Field(default=64, ge=1)
    wait_s: float = Field(default=60.0, gt=0)
    batch: int = Field(default=32, ge=1)
    gather_s: float = Field(default=0.003, ge=0)
    upload_mib: float = Field(default=256.0, gt=0)
    upload_s: float = Field(default=300.0, gt=0)
    bodies: int = Field(default=8, ge=1)
    uploads: int = Field(default=2, ge=1)
    decoding: ReadLimits = ReadLimits(seconds=60.0, seconds_per_second=2.0, memory_mib=4096)
    transcodes: int = Field(default=16, ge=1)
    cache_mib: float = Field(default=4096.0, gt=0)
    health_rest: float = Field(default=9.0, ge=0)

    @property
    def upload_bytes(self) -> int:
        """Of an uploaded file."""
        return int(self.upload_mib * 2**20)


class RefusedError(Exception):
    """A request that gets no answer, for a reason that its sender is told.

    Args:
        status: of HTTP.
        detail: what was expected, what was found, what to do.
        headers: beside the message.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


class Few:
    """Work of which little is done at a time, and little waits.

    Args:
        at_once: pieces.
        waiting: pieces that wait at most.
        what: they are, for messages.
        refused: is told of each piece that is refused.
    """

    def __init__(self, at_once: int, waiting: int, what: str, refused: Callable[[], None]) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._most, self._count, self._what, self._refused = at_once + waiting, 0, what, refused

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block.

        Raises:
            RefusedError: 503: too many wait.
        """
        if self._count >= self._most:
            self._refused()
            raise busy(f"{self._count} {self._what} already", 5)
        self._count += 1
        try:
            async with self._turn:
                yield
        finally:
            self._count -= 1

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work in another thread, when it is its turn."""
        async with self.turn():
            return await asyncio.to_thread(work, *args, **kwargs)


def busy(what: str, retry_after_s: float) -> RefusedError:
    """Return the refusal of a request that may come again, with the seconds after which it should."""
    after = max(1, round(retry_after_s))
    return RefusedError(503, f"{what}; ask again in {after} s", {"Retry-After": str(after)})
