"""Reading records: the same bytes whoever reads them, by few calls, through few descriptors and no mapping."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_store import fill, make_arrays, make_header, make_plan
from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import linked_copy, write_json
from umt_pipeline.features.index import index_table, rows_in_order, write_index
from umt_pipeline.features.manifest import FileEntry, ShardColumns, StoreManifest, shard_name
from umt_pipeline.features.reading import ArrayFile, RecordReader
from umt_pipeline.features.store import FeatureStore

HEADER = make_header(shard_rows=4)
ROWS = 40
EVERYTHING = make_arrays(HEADER, 0, ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        return fill(tmp_path_factory.mktemp("reading") / "store", HEADER, ROWS)


def reader_of(folder: Path, most_open: int, threads: int = 4) -> RecordReader:
    def describe(shard: int, name: str) -> ArrayFile:
        path = folder / f"shards/{shard:05d}/{name}.npy"
        return ArrayFile(path, path.stat().st_size, 4, HEADER.arrays()[name])

    return RecordReader(describe, most_open, threads)


def read(reader: RecordReader, rows: np.ndarray) -> dict[str, np.ndarray]:
    found = reader.read(HEADER.arrays(), (rows // 4).tolist(), rows % 4)
    return {name: tensor.numpy() for name, tensor in found.items()}


def is_right(found: dict[str, np.ndarray], rows: np.ndarray) -> bool:
    return all((found[name] == EVERYTHING[name][rows]).all() for name in EVERYTHING)


def open_files(folder: Path) -> list[Path]:
    there = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return [path for path in there if path.is_relative_to(folder)]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("most_open", [1, 3, 100])
def test_any_rows_in_any_order_through_few_files(folder: Path, most_open: int, threads: int) -> None:
    reader, rng = reader_of(folder, most_open, threads), np.random.default_rng(0)
    for size in (0, 1, 7, 40, 90):
        rows = rng.integers(0, ROWS, size)
        assert is_right(read(reader, rows), rows)
        # More are open only while more threads read.
        assert len(open_files(folder)) <= max(most_open, threads)
    reader.close()
    assert open_files(folder) == []
    rows = np.arange(ROWS)
    assert is_right(read(reader, rows), rows), "closed files are opened again"
    del reader
    assert open_files(folder) == [], "a reader that is gone leaves nothing open"


def test_records_side_by_side_are_read_with_one_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr("os.preadv", lambda fd, buffers, offset: calls.append(len(buffers)) or preadv(fd, buffers, offset))
    names = len(EVERYTHING)
    for rows, buffers in (
        ([4, 5, 6, 7], [1]),  # a whole shard, in order: into one stretch of the batch
        ([7, 30, 6, 5], [3, 1]),  # in any order: each record to its own place
        ([5, 6, 5], [1]),  # what is wanted twice is read once
        ([3, 4], [1, 1]),  # of two shards
        ([4, 6], [1, 1]),  # not side by side
    ):
        calls.clear()
        assert is_right(read(reader_of(folder, 100), np.array(rows)), np.array(rows))
        assert sorted(calls) == sorted(buffers * names)


def test_a_call_that_gives_less_than_was_asked_for_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hesitant(fd: int, buffers: list[memoryview], offset: int) -> int:
        part = buffers[0][: max(1, len(buffers[0]) // 3)]
        return os.preadv(fd, [part], offset)

    class Hesitant:
        def __getattr__(self, name: str) -> object:
            return hesitant if name == "preadv" else getattr(os, name)

    monkeypatch.setattr("umt_pipeline.features.reading.os", Hesitant())
    rows = np.array([7, 30, 5, 6, 4, 31])
    assert is_right(read(reader_of(folder, 100), rows), rows)


def test_threads_that_read_at_once_get_the_same(folder: Path) -> None:
    reader = reader_of(folder, 2)

    def work(seed: int) -> bool:
        draws = (np.random.default_rng([seed, turn]).integers(0, ROWS, 16) for turn in range(30))
        return all(is_right(read(reader, rows), rows) for rows in draws)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert len(open_files(folder)) <= 6 * 4


def _read_there(reader: RecordReader, answers: multiprocessing.Queue[bool]) -> None:
    rows = np.arange(ROWS)[::-1].copy()
    answers.put(is_right(read(reader, rows), rows))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_on_although_a_thread_held_the_lock(folder: Path) -> None:
    reader = reader_of(folder, 3)
    read(reader, np.arange(ROWS))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with reader._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = context.Process(target=_read_there, args=(reader, answers))
    child.start()
    assert answers.get(timeout=60)
    child.join()
    release.set()
    thread.join()
    rows = np.arange(ROWS)
    assert is_right(read(reader, rows), rows), "the parent's files are still open"


def test_a_pickled_store_opens_its_files_anew_and_is_small(folder: Path) -> None:
    store = FeatureStore(folder)
    before = store.read_raw(np.arange(ROWS))
    kept = pickle.dumps(store)
    assert len(kept) < 20_000
    again = pickle.loads(kept)
    assert again.view(5) == store.view(5)
    assert all((tensor == before[name]).all() for name, tensor in again.read_raw(np.arange(ROWS)).items())


def test_a_file_that_changes_under_way_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "store", HEADER, 8)
    store = FeatureStore(folder)
    store.read(np.array([0]))
    path = folder / "shards/00000/targets.npy"
    content = path.read_bytes()
    with path.open("r+b") as handle:  # the file that is open, not another one of its name
        handle.truncate(len(content) - 1)
    with pytest.raises(StoreError, match=r"00000/targets.npy: cannot be read: it ends at byte \d+, where a record should be"):
        store.read(np.array([3]))
    path.write_bytes(content)
    assert (store.read(np.array([3]))["targets"] == FeatureStore(folder).read(np.array([3]))["targets"]).all()
    path.chmod(0)
    if os.geteuid():  # nothing is forbidden to root
        with pytest.raises(StoreError, match=r"00000/targets.npy: cannot be opened: .*Permission denied"):
            FeatureStore(folder).read(np.array([0]))


def _read_with_256_descriptors(folder: Path, answers: multiprocessing.Queue[tuple[int, int, int]]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    store = FeatureStore(folder)
    parts = np.array_split(np.random.default_rng(0).permutation(len(store)), 9)
    total = sum(int(store.read_raw(part)["visible"].numpy().sum()) for part in parts)
    mapped = sum(".npy" in line for line in Path("/proc/self/maps").read_text().splitlines())
    answers.put((total, len(open_files(folder)), mapped))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_more_shards_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    header, shards = make_header(shard_rows=1), 400
    one = FeatureStore(fill(tmp_path / "one", header, 1))
    folder = tmp_path / "store"
    for shard in range(shards):
        (folder / "shards" / shard_name(shard)).mkdir(parents=True)
        linked_copy(one.folder / "shards" / shard_name(0), folder / "shards" / shard_name(shard))
    write_index(folder, index_table(make_plan(shards, split="train"), rows_in_order(shards, 1)))
    columns = ShardColumns.of([1] * shards, [one.manifest.shards.entries(0)] * shards)
    index = FileEntry.of(folder / "index.arrow")
    write_json(folder / "manifest.json", StoreManifest(**dict(header), rows=shards, index=index, shards=columns).as_json())
    total = shards * int(make_arrays(header, 0, 1)["visible"].sum())
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_with_256_descriptors, args=(folder, answers))
    child.start()
    found, files, mapped = answers.get(timeout=60)
    child.join()
    assert found == total
    assert 0 < files <= 32
    assert mapped == 0
