"""Extraction by several processes: the same bytes, whoever dies; and clips whose files can no longer be read."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.features.conftest import MakeStore, World
from tests.features.test_store import bytes_of
from tests.features.tiny import make_config
from tests.processes import descendants, is_running, wait_until
from tests.video import crashing
from umt_pipeline.core.claims import Claims
from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.processes import ProcessName
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.index import noise_keys
from umt_pipeline.features.provider import CachedDataset
from umt_pipeline.features.rejects import read_rejects
from umt_pipeline.features.reuse import begin_store
from umt_pipeline.features.runner import begin, claims_folder, extract, finish, make_here
from umt_pipeline.features.shards import ExtractionJob, ShardMaker, Step
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.writer import ShardWriter
from umt_pipeline.video import decode

CPU = torch.device("cpu")


def begin_job(world: World, folder: Path, **changes: Any) -> ExtractionJob:
    config = make_config(**changes)
    return begin(config, world.teacher, plan_extraction(config, world.teacher, world.videos), world.media, folder)


def run(world: World, folder: Path, on_progress: Any = lambda news: None, **changes: Any) -> dict[str, Any]:
    config = make_config(**changes)
    plan = plan_extraction(config, world.teacher, world.videos)
    return extract(config, world.teacher, plan, world.media, folder, on_progress)


def test_a_shard_is_made_once_and_its_bytes_depend_on_nothing_else(world: World, tmp_path: Path, make_store: MakeStore) -> None:
    job = begin_job(world, tmp_path / "alone")
    # As another machine gets it.
    job = ExtractionJob.model_validate_json(job.model_dump_json())
    assert job.plan().missing == (0, 1, 2)
    with ShardMaker(job, CPU) as maker:
        reports = [maker.make(shard) for shard in (2, 0, 1)]
        assert [(report.shard, report.rows, report.made) for report in reports] == [(2, 2, True), (0, 5, True), (1, 5, True)]
        again = maker.make(1)
        assert (again.rows, again.made) == (5, False)
    finish(job)
    assert bytes_of(tmp_path / "alone") == bytes_of(make_store("together")[0])


def test_a_report_counts_what_was_made_now(world: World, tmp_path: Path) -> None:
    config = make_config()
    plan = plan_extraction(config, world.teacher, world.videos)

    def make_twice(job: ExtractionJob) -> Generator[Step, None, None]:
        with ShardMaker(job, CPU) as maker:
            yield from maker.make_all([0, 1])
            yield from maker.make_all([0, 1, 2])

    report = extract(config, world.teacher, plan, world.media, tmp_path / "store", make_shards=make_twice)
    assert report["clip_views_per_second"] * report["seconds"] == pytest.approx(12, rel=0.01)


def test_what_another_one_made_quicker_is_not_counted(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: MakeStore
) -> None:
    job = begin_job(world, tmp_path / "store")
    close = ShardWriter.close
    with ShardMaker(job, CPU) as first, ShardMaker(job, CPU) as second, monkeypatch.context() as patch:

        def late(shard: ShardWriter) -> bool:
            patch.undo()
            assert second.make(0).made
            return close(shard)

        patch.setattr(ShardWriter, "close", late)
        steps = list(first.make_all([0, 1, 2]))
    assert [step.report.made for step in steps if step.report is not None] == [False, True, True]
    assert sum(step.rows for step in steps) == 7
    finish(job)
    assert bytes_of(tmp_path / "store") == bytes_of(make_store("expected")[0])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_do_not_depend_on_threads(world: World, tmp_path: Path, make_store: MakeStore, threads: int) -> None:
    before = torch.get_num_threads()
    expected = bytes_of(make_store("default")[0])
    try:
        torch.set_num_threads(threads)
        assert bytes_of(make_store(f"{threads}")[0]) == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_three_processes_give_the_bytes_of_one(world: World, make_store: MakeStore) -> None:
    expected = bytes_of(make_store("one", shard_rows=2)[0])
    folder, report = make_store("three", shard_rows=2, nproc=3)
    assert bytes_of(folder) == expected
    assert (report["rows"], report["rows_rejected"]) == (12, 0)
    assert sum(report["time_shares"].values()) == pytest.approx(1, abs=0.01)
    assert list(claims_folder(folder).iterdir()) == []


@pytest.mark.slow
def test_a_killed_process_costs_its_shard(
    world: World, tmp_path: Path, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    expected = bytes_of(make_store("one", shard_rows=1)[0])

    def kill_the_first_that_claims() -> None:
        holder = 0
        while not holder:
            wait_until("a shard is claimed", lambda: any(claims_folder(tmp_path / "killed").glob("0*")))
            with suppress(OSError, ValueError, StopIteration):  # given back just now, or half written: then the next one
                holder = json.loads(next(claims_folder(tmp_path / "killed").glob("0*")).read_text())["pid"]
        os.kill(holder, signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_the_first_that_claims)
        run(world, tmp_path / "killed", shard_rows=1, nproc=2)
        killing.result()
    assert "ended with exit code -9; 1 others go on" in caplog.text
    assert bytes_of(tmp_path / "killed") == expected


@pytest.mark.slow
def test_all_killed_is_an_error_and_the_next_run_goes_on(world: World, tmp_path: Path, make_store: MakeStore) -> None:
    def kill_all() -> None:
        wait_until("both are started", lambda: len(multiprocessing.active_children()) == 2)
        for process in multiprocessing.active_children():
            process.kill()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(kill_all)
        with pytest.raises(StoreError, match="all 2 extracting processes were killed"):
            run(world, tmp_path / "killed", shard_rows=2, nproc=2)
    run(world, tmp_path / "killed", shard_rows=2)
    assert bytes_of(tmp_path / "killed") == bytes_of(make_store("one", shard_rows=2)[0])


@pytest.mark.slow
def test_an_error_in_a_process_ends_all(world: World, tmp_path: Path) -> None:
    job = begin_job(world, tmp_path / "store", shard_rows=2, nproc=2)
    shutil.rmtree(tmp_path / "store/shards")
    (tmp_path / "store/shards").mkdir(mode=0o500)
    if os.access(tmp_path / "store/shards", os.W_OK):
        # As root: no folder can be made in a file.
        shutil.rmtree(tmp_path / "store/shards")
        (tmp_path / "store/shards").symlink_to("/proc/self")
    with pytest.raises((StoreError, RuntimeError)):
        list(make_here(job))
    assert multiprocessing.active_children() == []


def test_a_shard_of_a_dead_machine_is_taken_over(
    world: World, tmp_path: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_job(world, tmp_path / "store")
    folder = claims_folder(tmp_path / "store")
    holder = ProcessName("another machine", 1, "1")
    claim = {"place": holder.place, "pid": holder.pid, "started": holder.started, "token": "x"}
    (folder / "00001").write_text(json.dumps(claim))
    (folder / ".clock.dead").touch()
    (tmp_path / "store/shards/.00001.dead.part").mkdir()
    # It waits for the lease, which here is soon over.
    monkeypatch.setattr(Claims.__init__, "__defaults__", (1.0,))
    report = run(world, tmp_path / "store")
    assert report["rows"] == 12
    assert bytes_of(tmp_path / "store") == bytes_of(make_store("one")[0])
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_two_runs_share_the_work(world: World, tmp_path: Path, make_store: MakeStore) -> None:
    job = begin_job(world, tmp_path / "store", shard_rows=2)
    helper = subprocess.Popen(
        [sys.executable, "-m", "umt_pipeline.features.runner", str(tmp_path / "job.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until("the helper has made a shard", lambda: (job.store / "shards/00000").is_dir() or helper.poll() is not None)
    report = run(world, tmp_path / "store", shard_rows=2)
    assert helper.wait(120) == 0
    assert report["rows"] == 12
    assert bytes_of(tmp_path / "store") == bytes_of(make_store("one", shard_rows=2)[0])


def _extract(world: tuple[Any, ...], folder: Path) -> None:
    run(World(*world), folder, lambda news: time.sleep(60), shard_rows=2, nproc=2, workers=1)


@pytest.mark.slow
def test_processes_end_with_their_parent(world: World, tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=_extract, args=(tuple(world), tmp_path / "store"))
    parent.start()
    assert parent.pid is not None
    wait_until("a shard is made", lambda: any((tmp_path / "store").glob("shards/0*")))
    found = descendants(parent.pid)
    assert len(found) >= 3, "two that run the teacher, and a decoder of the one that made the shard"
    parent.kill()
    parent.join()
    wait_until("no process is left", lambda: not any(map(is_running, found)))


# --- files that cannot be read ----------------------------------------------------------------------------------------
def without_clip(world: World, tmp_path: Path, name: str = "clip3.mp4") -> World:
    media = tmp_path / "media"
    shutil.copytree(world.media, media, dirs_exist_ok=True)
    (media / name).write_bytes(b"no video any more")
    return world._replace(media=media)


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_clip_that_cannot_be_read_is_left_out_and_named(
    world: World, tmp_path: Path, make_store: MakeStore, caplog: pytest.LogCaptureFixture, nproc: int
) -> None:
    damaged = without_clip(world, tmp_path)
    report = run(damaged, tmp_path / "store", max_rejected_share=0.5, nproc=nproc)
    assert [report[name] for name in ("rows", "rows_rejected", "rows_dead", "clips", "clips_rejected")] == [9, 3, 3, 4, 1]
    assert "1 of 4 clips are left out" in caplog.text
    assert "clip3.mp4: " in caplog.text
    assert "Restore the files" in caplog.text
    rejects = read_rejects(tmp_path / "store").to_pylist()
    assert [(reject["row"], reject["video_id"], reject["path"], reject["view_number"]) for reject in rejects] == [
        (row, "clip3", "clip3.mp4", row - 6) for row in (6, 7, 8)
    ]
    assert {reject["reason"] for reject in rejects} == {"not_a_video"}
    store, whole = FeatureStore(tmp_path / "store"), FeatureStore(make_store("whole")[0])
    store.verify()
    kept = [row for row, (clip, _) in enumerate(noise_keys(whole.index)) if clip != "clip3"]
    ours, theirs = store.read_raw(range(9)), whole.read_raw(kept)  # type: ignore[arg-type]
    assert all((ours[name] == theirs[name]).all() for name in theirs), "the other records are what they always were"
    assert CachedDataset(store, "train").clip_ids.to_pylist() == ["clip0", "clip1", "clip4"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_crashes_its_decoder_is_left_out_like_any_other(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    damaged = without_clip(world, tmp_path)
    run(damaged, tmp_path / "expected", max_rejected_share=0.5)
    (damaged.media / "clip3.mp4").write_bytes(b"crash")
    monkeypatch.setattr(decode, "_load", crashing.load)
    report = run(damaged, tmp_path / "store", max_rejected_share=0.5, workers=workers)
    assert [report[name] for name in ("rows", "rows_rejected", "clips_rejected")] == [9, 3, 1]
    rejects = read_rejects(tmp_path / "store").to_pylist()
    assert {(reject["video_id"], reject["reason"]) for reject in rejects} == {("clip3", "decoder_crash")}
    ours, expected = bytes_of(tmp_path / "store"), bytes_of(tmp_path / "expected")
    assert {name for name in expected if ours[name] != expected[name]} <= {"rejects.parquet", "manifest.json"} | {
        name for name in expected if name.endswith("rejects.json")
    }, "the others go on, and batches keep their shape"


def test_one_unreadable_view_takes_the_others_of_its_clip_along(world: World, tmp_path: Path) -> None:
    """Its first shard was made before the file broke."""
    job = begin_job(world, tmp_path / "store", max_rejected_share=0.5)
    with ShardMaker(job, CPU) as maker:
        maker.make(0)
    damaged = without_clip(world, tmp_path, "clip1.mp4")  # rows 3, 4 are in the first shard, row 5 is in the second
    assert run(damaged, tmp_path / "store", max_rejected_share=0.5)["rows"] == 9
    rejects = read_rejects(tmp_path / "store").to_pylist()
    found = [(reject["row"], reject["reason"]) for reject in rejects]
    assert found == [(3, "other_view"), (4, "other_view"), (5, "not_a_video")]


def test_too_many_are_tried_again_once_they_are_back(world: World, tmp_path: Path, make_store: MakeStore) -> None:
    damaged = without_clip(world, tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"1 of 4 clips so far, more than .*max_rejected_share \(10.0%\): clip3.mp4"):
            run(damaged, tmp_path / "store", max_rejected_share=0.1)
    assert run(world, tmp_path / "store", max_rejected_share=0.1)["rows_resumed"] in (5, 7)
    assert bytes_of(tmp_path / "store") == bytes_of(make_store("whole")[0])


@pytest.mark.parametrize("moment", ["write_rejects", "write_index", "StoreManifest"])
def test_a_store_with_rejects_is_finished_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    damaged = without_clip(world, tmp_path)
    run(damaged, tmp_path / "expected", max_rejected_share=0.25)

    class KilledError(Exception):
        pass

    def killed(*args: object, **kwargs: object) -> None:
        raise KilledError

    begin_job(damaged, tmp_path / "store", max_rejected_share=0.25)
    with monkeypatch.context() as patch:
        patch.setattr(f"umt_pipeline.features.writer.{moment}", killed)
        with pytest.raises(KilledError):
            run(damaged, tmp_path / "store", max_rejected_share=0.25)
    run(damaged, tmp_path / "store", max_rejected_share=0.25)
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "expected")
    # And once more, on what is finished: what is left out is still no more than a fourth of what was planned.
    report = run(damaged, tmp_path / "store", max_rejected_share=0.25)
    assert [report[name] for name in ("rows", "clips", "clips_rejected")] == [9, 4, 1]


@pytest.mark.parametrize("finished", [True, False])
def test_the_next_store_extracts_what_an_earlier_one_could_not(
    world: World, tmp_path: Path, make_store: MakeStore, finished: bool
) -> None:
    damaged = without_clip(world, tmp_path)
    if finished:
        run(damaged, tmp_path / "first", max_rejected_share=0.5)
    else:
        list(make_here(begin_job(damaged, tmp_path / "first", max_rejected_share=0.5)))
    plan = plan_extraction(make_config(), world.teacher, world.videos)
    assert begin_store(tmp_path / "second", plan.header, plan.index, [tmp_path / "first"]) == 9
    report = run(world, tmp_path / "second")
    assert [report[name] for name in ("rows", "rows_found", "rows_rejected")] == [12, 9, 0]
    ours, theirs = (FeatureStore(folder).read_raw(range(12)) for folder in (tmp_path / "second", make_store("whole")[0]))  # type: ignore[arg-type]
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_code_books_are_learnt_from_what_can_be_read(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    codec, mask = {"kind": "pq", "bytes_per_token": 4}, {"kind": "none"}
    changes: dict[str, Any] = {"codec": codec, "mask": mask, "max_rejected_share": 0.5}
    with caplog.at_level(logging.INFO):
        assert run(without_clip(world, tmp_path), tmp_path / "store", **changes)["rows"] == 9
    assert "learnt from 12 rows" in caplog.text
    empty = world._replace(media=tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"none of 12 files that ingestion accepted can be read now\. Is the folder of media"):
        run(empty, tmp_path / "other", **changes)
