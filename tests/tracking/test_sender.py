"""Callers never wait; the first failure ends all sending, and is told once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from umt_pipeline.tracking import sender
from umt_pipeline.tracking.rows import Row
from umt_pipeline.tracking.sender import Sender


def row(step: int) -> Row:
    return Row("train", step, {"train/loss": 1.0}, 0)


class Place:
    """Where rows arrive."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.errors: list[BaseException] = []
        self.open = threading.Event()
        self.open.set()
        self.broken = False

    def take(self, rows: Sequence[Row]) -> None:
        self.open.wait()
        if self.broken:
            raise ConnectionError("gone")
        self.batches.append([row.step for row in rows])


def test_rows_arrive_together_and_in_order_with_jobs() -> None:
    place = Place()
    sending = Sender(place.take, place.errors.append)
    for step in range(500):
        sending.put(row(step))
    sending.put(lambda: place.batches.append([-1]))
    sending.put(row(500))
    assert sending.drain(5.0)
    assert [step for batch in place.batches for step in batch] == [*range(500), -1, 500]
    assert len(place.batches) < 10
    assert not place.errors


def test_rows_are_seen_while_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "GATHER_S", 0.05)
    place = Place()
    sending = Sender(place.take, place.errors.append)
    sending.put(row(1))
    ended = time.monotonic() + 5.0
    while not place.batches and time.monotonic() < ended:
        time.sleep(0.01)
    assert place.batches == [[1]]
    assert sending.drain(5.0)


def test_after_a_failure_nothing_is_tried_again() -> None:
    place = Place()
    place.broken = True
    sending = Sender(place.take, place.errors.append)
    sending.put(row(1))
    assert not sending.drain(5.0)
    place.broken = False
    sending.put(row(2))
    assert not sending.drain(0.1)
    assert [type(error) for error in place.errors] == [ConnectionError]
    assert place.batches == []
    assert not sending.is_stuck


def test_nobody_waits_for_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MOST_WAITING", 10)
    place = Place()
    place.open.clear()
    sending = Sender(place.take, place.errors.append)
    began = time.monotonic()
    for step in range(1000):
        sending.put(row(step))
    assert not sending.drain(0.3)
    assert time.monotonic() - began < 2.0
    assert sending.is_stuck
    assert [type(error) for error in place.errors] == [TimeoutError]
    place.open.set()


def test_a_call_that_takes_too_long_is_told_while_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "STUCK_S", 0.05)
    place = Place()
    place.open.clear()
    sending = Sender(place.take, place.errors.append)
    sending.put(lambda: place.take([]))
    time.sleep(0.3)
    sending.put(row(1))
    assert [type(error) for error in place.errors] == [TimeoutError]
    place.open.set()
