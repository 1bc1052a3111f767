"""The thread in which models work: what goes together, what is refused, what a failure costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.server.limits import Limits, RefusedError
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.server.work import ModelThread
from umt_pipeline.serving.embedder import Embedder

pytestmark = pytest.mark.anyio


class Counting:
    """Embeds a text as its length, and keeps what came together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.batches.append(list(texts))
        self.threads.add(threading.current_thread().name)
        if "bad" in texts:
            raise ConfigError("no such text")
        return torch.tensor([[float(len(text))] for text in texts])


@pytest.fixture
def thread() -> Iterator[ModelThread]:
    made = ModelThread(Limits(queue=3, batch=4, gather_s=0.05, wait_s=5), Metrics())
    yield made
    made.close()


def embedder() -> tuple[Counting, Embedder]:
    counting = Counting()
    return counting, cast(Embedder, counting)


class Held:
    """A piece of work that lasts until it is let go."""

    def __init__(self, thread: ModelThread) -> None:
        self.began, self._end = threading.Event(), threading.Event()
        self.future: Future[Any] = thread.hand(self._wait)
        assert self.began.wait(5)

    def _wait(self) -> None:
        self.began.set()
        assert self._end.wait(5)

    def let_go(self) -> None:
        self._end.set()


async def test_texts_of_a_moment_go_through_the_model_together(thread: ModelThread) -> None:
    counting, model = embedder()
    other_counting, other = embedder()
    asked = [thread.do_with_text(model, "x" * length, float) for length in (1, 2)]
    found = await asyncio.gather(*asked, thread.do_with_text(other, "xyz", float))
    assert found == [1.0, 2.0, 3.0], "each gets what is made of its own vector"
    assert sorted(map(sorted, counting.batches)) == [["x", "xx"]]
    assert other_counting.batches == [["xyz"]], "texts for another model go by themselves"
    assert counting.threads == {"models"}


async def test_a_batch_has_a_limit() -> None:
    thread = ModelThread(Limits(queue=20, batch=4, gather_s=0.05), Metrics())
    counting, model = embedder()
    await asyncio.gather(*(thread.do_with_text(model, "x", float) for _ in range(10)))
    assert max(map(len, counting.batches)) == 4
    assert sum(map(len, counting.batches)) == 10
    thread.close()


async def test_a_full_queue_refuses_and_says_when_to_come_again(thread: ModelThread) -> None:
    held = Held(thread)
    waiting = [asyncio.create_task(thread.do(lambda: 7)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(RefusedError) as refused:
        await thread.do(lambda: 8)
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) >= 1
    first = asyncio.create_task(thread.do_first(lambda: 9))
    await asyncio.sleep(0)
    held.let_go()
    assert await first == 9, "a check of health is never refused"
    assert await asyncio.gather(*waiting) == [7, 7, 7]


async def test_who_waits_too_long_is_told(thread: ModelThread) -> None:
    short = ModelThread(Limits(wait_s=0.05), Metrics())
    held = Held(short)
    done: list[int] = []
    with pytest.raises(RefusedError, match="did not get to it"):
        await short.do(lambda: done.append(1))
    held.let_go()
    await short.do(lambda: None)
    assert not done, "nobody waits for it any more"
    short.close()


async def test_a_failure_is_told_to_who_asked_and_the_thread_goes_on(thread: ModelThread) -> None:
    _, model = embedder()
    with pytest.raises(ZeroDivisionError):
        await thread.do(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="of the work"):
        await thread.do(_late)
    found = await asyncio.gather(thread.do_with_text(model, "bad", float), return_exceptions=True)
    assert isinstance(found[0], ConfigError)

    def fail(_: Tensor) -> None:
        raise ConfigError("this one")

    found = await asyncio.gather(
        thread.do_with_text(model, "x", fail), thread.do_with_text(model, "xx", float), return_exceptions=True
    )
    assert isinstance(found[0], ConfigError)
    assert found[1] == 2.0, "who came in the same batch has its answer"


def _late() -> None:
    raise TimeoutError("of the work")
