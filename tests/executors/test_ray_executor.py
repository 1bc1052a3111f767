"""A local Ray of two workers does what the processes of this machine do, to the byte, also when a worker is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.executors import work
from tests.features.tiny import make_config, make_corpus, make_teacher
from tests.video.dying import behave
from tests.video_files import write_video
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.executor import Needs
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.executors import OfflineParams
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.features.shards import ExtractionJob, Step
from umt_pipeline.features.spread import make_by
from umt_pipeline.pipelines.prepare.nodes import prepare_media
from umt_pipeline.pipelines.prepare.params import PrepareParams
from umt_pipeline.video.guarded import ReadLimits, check_files
from umt_pipeline.video.media import Refusal, VideoRules
from umt_pipeline.video.probing import CACHE_FILE, probe_all

pytest.importorskip("ray", reason="Ray is not installed: pip install 'umt_pipeline[ray]'")

from umt_pipeline.executors import ray_executor
from umt_pipeline.executors.ray_executor import RayExecutor, WorkersDiedError, shares

RAY = OfflineParams(executor="ray")
WITHIN_S = 240.0


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    with RayExecutor(None, cpus=2) as executor:
        executor.connect()
        yield executor


@pytest.fixture
def needs(tmp_path: Path) -> Needs:
    return Needs(shared=(tmp_path,), code=("masking",), packages=("numpy",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for number in range(6):
        write_video(folder / f"{number}.mp4", first_number=number)
    write_broken_files(folder, folder / "1.mp4", seed=3)
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_probing_finds_what_this_machine_finds(folder: Path, tmp_path: Path, executor: RayExecutor) -> None:
    names = [*sorted(path.name for path in folder.iterdir()), "absent.mp4"]
    expected = list(probe_all(folder, names, VideoRules(), workers=1))
    cache = tmp_path / "cache"
    assert list(probe_all(folder, names, VideoRules(), cache=cache, executor=executor)) == expected
    assert (cache / CACHE_FILE).is_file()
    for path in folder.iterdir():  # all is found again: no file would decode now
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert list(probe_all(folder, names, VideoRules(), cache=cache, executor=executor)) == expected


@pytest.mark.slow
def test_limits_hold_for_each_file(tmp_path: Path, executor: RayExecutor, needs: Needs) -> None:
    names = ["good-0", "hang", "crash", "good-1", "hog", "good-2"]
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.touch()
    limits = ReadLimits(seconds=2.0, memory_mib=512)
    found = dict(check_files(behave, paths, limits, None, needs, executor))
    told = [result.reason if isinstance(result, Refusal) else result for _, result in sorted(found.items())]
    assert told == ["good-0", "decoder_timeout", "decoder_crash", "good-1", "out_of_memory", "good-2"]


@pytest.mark.slow
@pytest.mark.usefixtures("executor")
def test_preparing_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    params = PrepareParams.model_validate({"form": {"short_side": 48, "gop": 6}, "workers": 2})
    made: list[tuple[dict[str, bytes], dict[str, Any]]] = []
    for name, offline in {"local": OfflineParams(), "ray": RAY}.items():
        media, report, took = prepare_media(folder, params, offline, tmp_path / name)
        report |= took
        made.append((files(media), {key: value for key, value in report.items() if not key.endswith("seconds")}))
        assert not list((tmp_path / name).rglob("*.part"))
    assert made[0] == made[1]
    assert made[1][1]["transcoded"] >= 6


@pytest.mark.slow
def test_extraction_makes_the_same_bytes_also_if_a_worker_is_killed(tmp_path: Path, executor: RayExecutor) -> None:
    teacher = make_teacher(tmp_path / "teacher")
    videos = make_corpus(tmp_path / "media", ["train"] * 6)
    config = make_config(shard_rows=2, workers=0)
    plan = plan_extraction(config, teacher, videos)
    extract(config, teacher, plan, tmp_path / "media", tmp_path / "here" / "store")
    config = make_config(shard_rows=2, workers=0, nproc=2)
    killed: list[int] = []

    def make_shards(job: ExtractionJob) -> Generator[Step, None, None]:
        for step in make_by(executor, job):
            if not killed:  # as it is at another shard
                killed.append(_kill_one("MapWorker"))
            yield step

    report = extract(config, teacher, plan, tmp_path / "media", tmp_path / "there" / "store", make_shards=make_shards)
    assert killed
    assert files(tmp_path / "there" / "store") == files(tmp_path / "here" / "store")
    assert report["rows"] == len(plan.index) > 6 * 2


@pytest.mark.slow
def test_a_killed_worker_s_items_are_done_again(tmp_path: Path, executor: RayExecutor, needs: Needs) -> None:
    items = list(range(12))
    results = list(executor.map(partial(work.double, tmp_path), items, needs))
    assert (tmp_path / "died").exists()
    assert sorted((place, result[0]) for place, result in results) == [(item, 2 * item) for item in items]
    assert len({result[1] for _, result in results}) >= 2, "more processes than one"


@pytest.mark.slow
def test_an_item_that_kills_each_worker_ends_the_run_and_others_are_kept(
    executor: RayExecutor, needs: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "TRIES_AGAIN", 1)
    results: list[tuple[int, int]] = []
    with pytest.raises(WorkersDiedError, match=r"gave up after \d of 3 items: .*died 2 times"):
        results.extend(executor.map(work.poison, [0, 1, 2], needs))
    assert set(results) <= {(0, 0), (2, 2)}


@pytest.mark.slow
def test_what_the_work_raises_comes_back_with_the_host(executor: RayExecutor, needs: Needs) -> None:
    with pytest.raises(ValueError, match="expected 0, found 1") as caught:
        list(executor.map(work.refusing, [0, 1, 0], needs))
    assert socket.gethostname() in caught.value.__notes__[0]


@pytest.mark.slow
def test_a_worker_with_other_code_does_nothing(executor: RayExecutor, needs: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "code_key", lambda *_: "other")
    with pytest.raises(ConfigError, match=rf"host {socket.gethostname()}: expected the code of masking"):
        list(executor.map(work.refusing, [0], needs))


@pytest.mark.slow
def test_a_cluster_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "ANSWERS_WITHIN_S", 8.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"expected a Ray cluster of version .* at '{address}'"):
            ray_executor.reach(address)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_driver_leaves_no_worker(tmp_path: Path) -> None:
    short = Path(tempfile.mkdtemp(prefix="u", dir="/tmp"))
    code = (
        "import sys; from functools import partial; from pathlib import Path; from tests.executors import work\n"
        "from umt_pipeline.core.executor import Needs; from umt_pipeline.executors.ray_executor import RayExecutor\n"
        "folder = Path(sys.argv[1])\n"
        "with RayExecutor(None, cpus=1) as executor:\n"
        "    list(executor.map(partial(work.busy, folder), [1], Needs((folder,), ('masking',), ())))\n"
    )
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(short)},
        stderr=subprocess.DEVNULL,
    )
    started: set[int] = set()
    try:
        _wait_until("the worker is busy", lambda: any(tmp_path.iterdir()))
        started = _descendants(driver.pid)
        worker = int(next(tmp_path.iterdir()).name)
        assert worker in started
        driver.send_signal(signal.SIGKILL)
        driver.wait(WITHIN_S)
        _wait_until("the worker has ended", lambda: worker not in _parents())
    finally:
        # Ray's agents take a minute to see that they are alone.
        started |= {driver.pid, *_descendants(driver.pid)}
        for pid in started & set(_parents()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(short, ignore_errors=True)


def test_a_gpu_takes_its_machine_s_share_of_the_cores() -> None:
    needs = Needs((), (), (), gpu=True, per_machine=2)
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 10.0, "GPU": 4.0}}]
    without = [{"Alive": True, "Resources": {"CPU": 5.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    assert shares(needs, nodes + without) == (2, 1, 6)
    assert shares(needs, without) == (2, 0, 2)
    assert shares(Needs((), (), (), gpu=True, per_machine=10), without) == (0.5, 0, 10)
    assert shares(Needs((), (), ()), nodes + without) == (1.0, 0, 31)
    with pytest.raises(ConfigError, match="expected a machine with cores for workers, found none"):
        shares(needs, without[1:])


def _wait_until(what: str, is_true: Any) -> None:
    end = time.monotonic() + WITHIN_S
    while not is_true():
        assert time.monotonic() < end, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.1)


def _kill_one(name: str) -> int:
    """Kill one of the processes below this one that are called so."""
    for pid in _descendants(os.getpid()):
        with suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
                return pid
    raise AssertionError(f"no process {name}")


def _parents() -> dict[int, int]:
    """Return each running process's parent."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(file.parent.name)] = int(parent)
    return found


def _descendants(pid: int) -> set[int]:
    parents = _parents()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}
