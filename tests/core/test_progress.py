"""Progress without a terminal: a line now and then, none for what is quick."""

from __future__ import annotations

import logging

import pytest

from umt_pipeline.core import progress as module
from umt_pipeline.core.progress import clock, progress


def lines(caplog: pytest.LogCaptureFixture, done: list[int]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=module.__name__), progress("reading", 100, "file") as show:
        for number in done:
            show(number)
    return [record.getMessage() for record in caplog.records]


def test_without_a_terminal_lines_say_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lines(caplog, [1, 50, 100]) == [], "over before half a minute"
    now = iter([0.0, 10.0, 20.0, 50.0, 60.0, 81.0, 90.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    # 40 were there before: the pace is that of the others.
    assert lines(caplog, [40, 41, 60, 65, 75, 100]) == [
        "reading: 60 of 100 files (60%), 0.5 files/s, left 1:20",
        "reading: 75 of 100 files (75%), 0.5 files/s, left 0:51",
    ]


def test_durations() -> None:
    assert [clock(seconds) for seconds in (0.4, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
