"""A file costs itself: whatever its decoder does, all others are checked, each once, and nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.processes import is_running, wait_until
from tests.video.dying import behave
from umt_pipeline.video import guarded
from umt_pipeline.video.guarded import Extend, ReadLimits, WorkersDoNotStartError, run_guarded
from umt_pipeline.video.media import Refusal

QUICK = ReadLimits(seconds=2.0, seconds_per_second=1.0, memory_mib=512)
WITHIN_S = 20.0


def make(folder: Path, names: list[str]) -> list[Path]:
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


@pytest.mark.slow
def test_each_file_costs_itself_and_is_checked_once(tmp_path: Path) -> None:
    bad = {
        "crash-1": "decoder_crash",
        "raise": "decoder_crash",
        "exit": "decoder_crash",
        "abort": "out_of_memory",
        "hog": "out_of_memory",
        "hang": "decoder_timeout",
        "crash-2": "decoder_crash",
    }
    names = [f"good-{number}" for number in range(20)]
    for place, name in enumerate(bad):
        names.insert(3 * place, name)
    results: dict[int, object] = {}
    for number, result in run_guarded(behave, make(tmp_path, names), QUICK, workers=3):
        assert number not in results
        results[number] = result
    refusals = {names[number]: result for number, result in results.items() if isinstance(result, Refusal)}
    assert {name: refusal.reason for name, refusal in refusals.items()} == bad
    assert {names[number]: result for number, result in results.items() if names[number] not in bad} == {
        name: name for name in names if name not in bad
    }
    assert "SIGSEGV" in refusals["crash-1"].detail
    assert "of no kind that is expected" in refusals["raise"].detail
    assert "limits.memory_mib" in refusals["hog"].detail
    assert "limits.seconds" in refusals["hang"].detail
    pids = [[int(pid) for pid in (tmp_path / name).read_text().split()] for name in names]
    assert all(len(each) == 1 for each in pids), "no file is checked twice"
    assert not any(is_running(pid) for [pid] in pids)


@pytest.mark.slow
def test_whoever_takes_the_results_may_be_slow(tmp_path: Path) -> None:
    paths = make(tmp_path, [f"good-{number}" for number in range(4)])
    results = []
    for _, result in run_guarded(behave, paths, ReadLimits(seconds=0.5, memory_mib=512), workers=2):
        time.sleep(0.7)
        results.append(result)
    assert sorted(map(str, results)) == [path.name for path in paths]


@pytest.mark.slow
def test_a_large_file_has_more_time_whatever_its_header_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "SLOWEST_BYTES_PER_S", 10.0)
    for name in ("slow", "slow-small"):
        (tmp_path / name).write_bytes(bytes(200 if name == "slow" else 1))
    limits = ReadLimits(seconds=0.5, seconds_per_second=0.0, memory_mib=512)
    large, small = (
        result for _, result in sorted(run_guarded(behave, [tmp_path / "slow", tmp_path / "slow-small"], limits, 2))
    )
    assert large == "slow"
    assert isinstance(small, Refusal)


@pytest.mark.slow
def test_a_long_video_has_more_time_but_a_header_is_not_believed_blindly(tmp_path: Path) -> None:
    (tmp_path / "slow").write_bytes(bytes(20_000))
    (tmp_path / "liar").write_bytes(bytes(100))
    slow, liar = (result for _, result in sorted(run_guarded(behave, [tmp_path / "slow", tmp_path / "liar"], QUICK, 2)))
    assert slow == "slow"
    assert isinstance(liar, Refusal)
    assert liar.reason == "decoder_timeout"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_even_if_they_hang(tmp_path: Path, how: int) -> None:
    files = make(tmp_path, ["hang-0", "hang-1"])
    # Whatever started the tests may have let its children ignore Ctrl-C.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{heed}; from tests.video.dying import hang; hang(sys.argv[1])", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stderr=subprocess.DEVNULL,
    )
    wait_until("both files are in work", lambda: all(file.stat().st_size for file in files))
    workers = [int(file.read_text()) for file in files]
    assert all(is_running(pid) for pid in workers)
    parent.send_signal(how)
    parent.wait(WITHIN_S)
    wait_until("the workers ended", lambda: not any(map(is_running, workers)), WITHIN_S)


class CannotBeLoaded:
    """A check that needs what is missing in the worker."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__, ("a_module_that_is_not_there",)

    def __call__(self, path: Path, extend: Extend) -> str:
        return path.name


def test_workers_that_do_not_start_are_an_error_and_no_rejects(tmp_path: Path) -> None:
    with pytest.raises(WorkersDoNotStartError, match="a_module_that_is_not_there"):
        list(run_guarded(CannotBeLoaded(), make(tmp_path, ["a", "b"]), QUICK, 2))


def test_whoever_stops_listening_leaves_no_process(tmp_path: Path) -> None:
    files = make(tmp_path, ["hang", "good-0", "good-1"])
    results = run_guarded(behave, files, ReadLimits(), 2)
    assert next(results) == (1, "good-0")
    wait_until("the first file is in work", lambda: files[0].stat().st_size)
    results.close()
    assert not is_running(int(files[0].read_text()))


def test_no_files_start_no_process() -> None:
    assert list(run_guarded(behave, [], QUICK, 4)) == []
