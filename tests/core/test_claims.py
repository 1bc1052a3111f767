"""Claims: one holder at a time, the dead hold nothing, and a lease ends what nobody touches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from umt_pipeline.core.claims import Claims
from umt_pipeline.core.processes import ProcessName, this_process

HOLD = """
import sys, time
from pathlib import Path
from umt_pipeline.core.claims import Claims
claims = Claims(Path(sys.argv[1]))
assert claims.take("a")
print("held", flush=True)
time.sleep(60)
"""


def write_claim(folder: Path, name: str, holder: ProcessName, age_s: float = 0.0) -> None:
    (folder / name).write_text(json.dumps({**asdict(holder), "token": "x"}), encoding="utf-8")
    os.utime(folder / name, (time.time() - age_s, time.time() - age_s))


def test_a_piece_has_one_holder(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("a")
        assert not second.take("a")
        assert not first.take("a"), "it is at it already"
        assert second.take("b")
        assert (first.held_by_others(), second.held_by_others()) == ({"b"}, {"a"})
        second.give_back("a")
        assert not second.take("a"), "another one's claim cannot be given back"
        first.give_back("a")
        assert second.take("a")
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_a_claim_of_a_killed_process_falls_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with Claims(tmp_path) as claims:
        assert not claims.take("a")
        holder.kill()
        # Not waited for: it is a zombie now, which has ended too.
        deadline = time.monotonic() + 10
        while not claims.take("a"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    holder.wait()


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    with Claims(tmp_path, lease_s=30) as living, Claims(tmp_path) as claims:
        assert living.take("its")
        for name in (".clock.killed", "half"):
            (tmp_path / name).touch()
        write_claim(tmp_path, "dead", ProcessName(this_process().place, this_process().pid, "1"))
        claims.clear()
        left = {path.name for path in tmp_path.iterdir()}
        assert {name for name in left if not name.startswith(".")} == {"its", "half"}
        assert len(left) == 3, "of the clocks the own one"
        write_claim(tmp_path, "elsewhere", ProcessName("another machine", 1, "1"), age_s=60)
        assert living.take("elsewhere"), "who lives makes its clock anew"
    assert {path.name for path in tmp_path.iterdir()} == {"half"}


def test_a_claim_of_another_machine_falls_after_the_lease(tmp_path: Path) -> None:
    elsewhere = ProcessName("another machine", 1, "1")
    write_claim(tmp_path, "fresh", elsewhere, age_s=1)
    write_claim(tmp_path, "old", elsewhere, age_s=60)
    (tmp_path / "half").write_text("")
    with Claims(tmp_path, lease_s=30) as claims:
        assert [claims.take(name) for name in ("fresh", "old", "half")] == [False, True, False]
        assert claims.held_by_others() == {"fresh", "half"}


def test_a_living_holder_keeps_its_claim_beyond_the_lease(tmp_path: Path) -> None:
    with Claims(tmp_path, lease_s=0.4) as first, Claims(tmp_path, lease_s=0.4) as second:
        assert first.take("a")
        time.sleep(0.8)
        assert not second.take("a")


def test_a_number_that_another_process_has_now_is_not_the_holder(tmp_path: Path) -> None:
    own = this_process()
    assert not own.is_known_dead()
    earlier = ProcessName(own.place, own.pid, "1")
    if not own.started:
        pytest.skip("this system does not say when a process started")
    assert earlier.is_known_dead()
    write_claim(tmp_path, "a", earlier)
    with Claims(tmp_path) as claims:
        assert claims.take("a")


def test_a_process_of_which_nothing_is_said_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc hides the processes of other users."""
    own = this_process()
    monkeypatch.setattr("umt_pipeline.core.processes._started", lambda pid: "")
    assert not own.is_known_dead()


def test_only_one_at_a_time(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        with first.only("a"):
            assert not second.take("a")
        with second.only("a"):
            assert not first.take("a")
