"""What people see of a run."""

import io
import logging
import sys

import pytest

from umt_pipeline.training.metrics import Progress
from umt_pipeline.training.state import Row

ROW: Row = {
    "step": 30,
    "loss": 0.5,
    "lr": 1e-3,
    "clips_per_s": 123.4,
    "mfu": 0.412,
    "data_wait": 0.03,
    "eta_s": 3725.0,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_with_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with caplog.at_level(logging.INFO), Progress("stage1", 100) as progress:
        progress.show(ROW)
    assert "30/100" in screen.getvalue()
    assert "mfu 41.2%" in screen.getvalue()
    assert "left 1:02:05" in screen.getvalue()
    assert caplog.text == ""


def test_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level(logging.INFO), Progress("stage1", 100) as progress:
        progress.show(ROW)
        progress.show({name: value for name, value in ROW.items() if name != "mfu"})
    one, other = (record.getMessage() for record in caplog.records)
    assert one == "stage1: step 30/100  loss 0.5000  lr 1.00e-03  123.4 clips/s  mfu 41.2%  data wait 3%  left 1:02:05"
    assert "mfu" not in other
