"""What failed is tried again, more and more seldom, and something else at once."""

from __future__ import annotations

import pytest

from umt_pipeline.core.errors import IndexingError
from umt_pipeline.server.retrying import FIRST_WAIT_S, LONGEST_WAIT_S, Retrying


class Failing:
    """Work that fails, and notes when it was done."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done_at: list[float] = []
        self.fails = True

    def work(self) -> str:
        self.done_at.append(self.now)
        if self.fails:
            raise IndexingError("the disk is full")
        return "done"


def test_it_is_done_after_twice_as_long_each_time_up_to_an_hour() -> None:
    failing = Failing()
    retrying = Retrying(lambda: failing.now)
    for second in range(0, 20_000, 10):
        failing.now = float(second)
        with pytest.raises(IndexingError, match="the disk is full"):
            retrying.attempt("version 2", failing.work)
    waits = [after - before for before, after in zip(failing.done_at, failing.done_at[1:], strict=False)]
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-2:] == [LONGEST_WAIT_S, LONGEST_WAIT_S]


def test_another_thing_is_tried_at_once_and_success_is_forgotten() -> None:
    failing = Failing()
    retrying = Retrying(lambda: failing.now)
    for thing in ("version 2", "version 3", "version 3"):
        with pytest.raises(IndexingError):
            retrying.attempt(thing, failing.work)
    assert failing.done_at == [0.0, 0.0], "once each"
    failing.fails, failing.now = False, FIRST_WAIT_S
    assert retrying.attempt("version 3", failing.work) == "done"
    failing.fails = True
    with pytest.raises(IndexingError):
        retrying.attempt("version 3", failing.work)
    assert len(failing.done_at) == 4
