"""Measure the feature store: opening a large one, what it takes in memory, and reading it from the page cache and from disk.

    python benchmarks/store.py --out docs/benchmarks_store.md

The large store has the index of a real one, and hard links to one shard of tiny records in the place of its shards: opening is
as much work as it would be. The one that is read has records of UMT-B/16's size, of random bytes. Needs no video and no
teacher. Cold means that the system was told to drop the store's pages before (``posix_fadvise(DONTNEED)`` after writing them
back); a virtual machine's host may hold them still.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shlex
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from umt_pipeline.core.files import linked_copy, write_json
from umt_pipeline.features.extract import FeatureConfig, make_header
from umt_pipeline.features.index import INDEX_FILE, PLACE, column_of, index_schema, index_table, rows_in_order, write_index
from umt_pipeline.features.manifest import FileEntry, ShardColumns, StoreHeader, StoreManifest, shard_name
from umt_pipeline.features.provider import CachedDataset
from umt_pipeline.features.reading import THREADS, RecordReader
from umt_pipeline.features.store import FeatureStore, StoreFiles
from umt_pipeline.features.writer import ShardWriter, UnfinishedStore
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.video.views import ViewConfig

SHARD_ROWS = 1024
VIEWS = 20
DESCRIPTORS = 256
READ_THREADS = (1, 2, 4, 8, 16, 32)
MAPPED = "a mapping per file"
WIDTH = 120
# As much of the store of the second part is written and read at once.
PIECE = 64


@dataclass(frozen=True)
class Opening:
    """A store that was opened, and the first batch of it."""

    shards: int
    rows: int
    manifest_mib: float
    index_mib: float
    seconds: float
    cpu_seconds: float
    batch_ms: float
    held_per_row: float
    anonymous_per_row: float
    files: int


@dataclass(frozen=True)
class Reading:
    """Medians over the rounds."""

    how: str
    cold_per_s: float
    warm_per_s: float
    warm_cpu_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=13_000, help="of the store that is opened")
    parser.add_argument("--records", type=int, default=2048, help="of the store that is read")
    parser.add_argument("--batch", type=int, default=64, help="records read at once")
    parser.add_argument("--batches", type=int, default=8, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the stores are written, on the disk to be measured")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="umt-store-", dir=arguments.folder) as name:
        folder = Path(name)
        in_new_process(make_large_store, folder / "large", arguments.shards)
        opening = in_new_process(measure_opening, folder / "large")
        record_bytes = in_new_process(make_read_store, folder / "read", arguments.records)
        reading = in_new_process(measure_reading, folder / "read", arguments.batch, arguments.batches, arguments.rounds)
    from common import write_page  # not at the top: the processes that are measured do without what it imports

    write_page(report(arguments, opening, record_bytes, reading), arguments.out)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process and return what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def header_of(view: ViewConfig, **settings: Any) -> StoreHeader:
    config = FeatureConfig(dataset_id="benchmark", view=view, codec="int8", **settings)
    return make_header(config, target_dim=settings.get("patch_size", 16) ** 2 * 2, weights_sha256="")


def synthetic_plan(clips: int, views: int, frames: int) -> pa.Table:
    """A plan with names and hashes as long as real ones; the views are numbers of no meaning."""
    rows = clips * views
    codes_R = np.repeat(np.arange(clips, dtype=np.int32), views)
    columns = {
        "video_id": pa.DictionaryArray.from_arrays(
            codes_R, pa.array([f"train/a class/clip_{clip:010d}" for clip in range(clips)])
        ),
        "split": pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int8), pa.array(["train"])),
        "view_number": np.tile(np.arange(views, dtype=np.int32), clips),
        "frame_indices": pa.FixedSizeListArray.from_arrays(np.arange(rows * frames, dtype=np.int32), frames),
        "crop": pa.FixedSizeListArray.from_arrays(np.arange(rows * 4, dtype=np.int32), 4),
        "flip": np.arange(rows) % 2 == 0,
        "video_sha256": pa.DictionaryArray.from_arrays(codes_R, pa.array([f"{clip:064x}" for clip in range(clips)])),
    }
    schema = index_schema(frames)
    return pa.table(columns).select([name for name in schema.names if name not in PLACE])


def random_records(header: StoreHeader, count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(0, 100, (count, *spec.shape), dtype=np.uint8).astype(spec.dtype)
        for name, spec in header.arrays().items()
    }


def write_store(folder: Path, header: StoreHeader, plan: pa.Table) -> StoreManifest:
    """Write random records, a shard at a time, as extraction does."""
    store = UnfinishedStore.begin(folder, header, plan, pa.array([""] * len(plan)))
    for shard, rows in enumerate(store.rows_of):
        writer = ShardWriter(store.shard_folder(shard), len(rows), header.arrays())
        writer.open()
        writer.append(random_records(header, len(rows), seed=shard))
        writer.close()
    return store.finish()


def make_large_store(folder: Path, shards: int) -> None:
    """Write the index of a store of so many shards, and link one shard into all their places."""
    # Tiny records: two patches per side.
    view, frames = ViewConfig(frames=8, size=8), 8
    header = header_of(view, patch_size=4, views=VIEWS, shard_rows=SHARD_ROWS)
    one = folder.with_name("one")
    files = write_store(one, header, synthetic_plan(SHARD_ROWS, 1, frames)).shards.entries(0)
    (folder / "shards").mkdir(parents=True)
    for shard in range(shards):
        place = folder / "shards" / shard_name(shard)
        place.mkdir()
        linked_copy(one / "shards" / shard_name(0), place)
    rows = shards * SHARD_ROWS // VIEWS * VIEWS
    write_index(folder, index_table(synthetic_plan(rows // VIEWS, VIEWS, frames), rows_in_order(rows, SHARD_ROWS)))
    columns = ShardColumns.of([SHARD_ROWS] * shards, [files] * shards)
    facts = {"rows": rows, "rows_dead": shards * SHARD_ROWS - rows, "index": FileEntry.of(folder / INDEX_FILE)}
    write_json(folder / "manifest.json", StoreManifest(**dict(header), **facts, shards=columns).as_json())


def measure_opening(folder: Path) -> Opening:
    """Open a store with few descriptors, read batches of it, and look at what the process holds then."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    began, cpu = time.perf_counter(), time.process_time()
    store = FeatureStore(folder)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    rows, sizes = len(store), [(folder / name).stat().st_size / 2**20 for name in ("manifest.json", INDEX_FILE)]
    shards = len(store.manifest.shards)
    del store

    anonymous = anonymous_bytes()
    tracemalloc.start()
    dataset = CachedDataset(FeatureStore(folder), "train")
    sampler = Sampler(len(dataset), 128, seed=0)
    sampler.global_batch(0)
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()
    tracemalloc.stop()
    anonymous = anonymous_bytes() - anonymous

    times = []
    for step in range(1, 21):
        indices, passes, _ = sampler.global_batch(step)
        began = time.perf_counter()
        dataset.batch(indices, passes)
        times.append(time.perf_counter() - began)
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    files = sum(path.suffix == ".npy" for path in links)
    batch_ms = 1000 * float(np.median(times))
    return Opening(shards, rows, *sizes, seconds, cpu, batch_ms, held / rows, anonymous / rows, files)


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no line RssAnon")


def make_read_store(folder: Path, records: int) -> int:
    """Write a store of records of the published size, and return the bytes of one."""
    header = header_of(ViewConfig(frames=8, size=224), views=1, shard_rows=PIECE)
    write_store(folder, header, synthetic_plan(records, 1, 8))
    return sum(size for name, size in header.row_bytes().items() if name != "attention")


def measure_reading(folder: Path, batch: int, batches: int, rounds: int) -> list[Reading]:
    """Read random batches, cold and then warm, in turns of all ways."""
    torch.set_num_threads(1)
    store = FeatureStore(folder)
    files = StoreFiles(folder, store.manifest)
    specs = {name: spec for name, spec in files.specs.items() if name != "attention"}
    shards_R, shard_rows_R = (column_of(store.index, name).to_numpy() for name in PLACE)
    rng = np.random.default_rng(0)

    def by_reader(threads: int) -> Callable[[np.ndarray], Any]:
        reader = RecordReader(files, threads=threads)
        return lambda rows: reader.read(specs, shards_R[rows].tolist(), shard_rows_R[rows])

    def by_mappings() -> Callable[[np.ndarray], Any]:
        maps: dict[tuple[int, str], np.ndarray] = {}

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            result = {}
            for name, spec in specs.items():
                array = result[name] = np.empty((len(rows), *spec.shape), spec.dtype)
                for place, row in enumerate(rows.tolist()):
                    key = (int(shards_R[row]), name)
                    if key not in maps:
                        maps[key] = np.load(files(*key).path, mmap_mode="r")
                    array[place] = maps[key][shard_rows_R[row]]
            return result

        return read

    ways: dict[str, Callable[[], Callable[[np.ndarray], Any]]] = {MAPPED: by_mappings}
    for threads in READ_THREADS:
        ways[f"{threads} thread{'s' if threads > 1 else ''}"] = lambda threads=threads: by_reader(threads)
    found: dict[str, list[tuple[float, float, float]]] = {how: [] for how in ways}
    for _ in range(rounds):
        rows = rng.permutation(len(store))[: batch * batches]
        for how, make in ways.items():
            drop_pages(folder)
            read = make()  # a file that is mapped keeps its pages, so each round maps anew
            cold, _ = timed(read, rows, batch)
            warm, cpu = timed(read, rows, batch)
            found[how].append((len(rows) / cold, len(rows) / warm, 1000 * cpu / len(rows)))
            del read
    return [Reading(how, *np.median(np.array(values), axis=0).tolist()) for how, values in found.items()]


def timed(read: Callable[[np.ndarray], Any], rows: np.ndarray, batch: int) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(rows), batch):
        read(rows[start : start + batch])
    return time.perf_counter() - began, time.process_time() - cpu


def drop_pages(folder: Path) -> None:
    """Tell the system to forget what it holds of a store's files."""
    os.sync()
    for path in folder.rglob("*.npy"):
        with path.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(arguments: argparse.Namespace, opening: Opening, record_bytes: int, reading: list[Reading]) -> Iterator[str]:
    from common import commit, machine

    command = ["python", "benchmarks/store.py"]
    for name in ("shards", "records", "batch", "batches", "rounds"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += (
        [] if arguments.out is None else ["--out", arguments.out.name if arguments.out.is_absolute() else str(arguments.out)]
    )
    yield "# Speed and memory of the feature store"
    yield ""
    yield "Written by"
    yield ""
    yield f"    {shlex.join(command)}"
    yield ""
    yield (
        f"on {machine('cpu')}; load average {os.getloadavg()[0]:.1f} at the end; torch {torch.__version__}; commit "
        f"{commit(arguments.out)}."
    )
    yield ""
    yield "## Opening"
    yield ""
    yield from wrap(
        f"{opening.shards:,} shards of {SHARD_ROWS} rows, {VIEWS} views of each clip, with at most {DESCRIPTORS} descriptors; "
        f"the manifest has {opening.manifest_mib:.1f} MiB, the index {opening.index_mib:,.0f} MiB, which are in the page "
        "cache. Opening reads the manifest, lists the shards and hashes the index. Memory is what store, data set and sampler "
        "hold of their own after the first step was drawn; the index is mapped, and every process of the machine shares its "
        "pages. The batch is of 128 random rows of tiny records, whose files must nearly all be opened.",
        WIDTH,
    )
    yield ""
    yield "| rows | seconds to open | of them CPU | ms per batch | files open | bytes held per row | anonymous bytes per row |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield (
        f"| {opening.rows:,} | {opening.seconds:.2f} | {opening.cpu_seconds:.2f} | {opening.batch_ms:.1f} "
        f"| {opening.files} | {opening.held_per_row:.2f} | {opening.anonymous_per_row:.2f} |"
    )
    yield ""
    yield "## Reading"
    yield ""
    total = arguments.records * record_bytes / 2**30
    yield from wrap(
        f"{arguments.records:,} records of {record_bytes / 2**20:.2f} MiB (visible patches, mask, targets in int8), "
        f"{total:.1f} GiB, "
        f"read in random batches of {arguments.batch} into new memory; medians of {arguments.rounds} rounds, the ways in "
        f"turns. The store reads in {THREADS} threads. Cold: the system was told to drop the files' pages (`posix_fadvise`), "
        "after they were written back; the host of a virtual machine may hold them still. The first row is what the store did "
        "up to version 3, and what ends at some 65,000 mappings.",
        WIDTH,
    )
    yield ""
    yield "| read by | cold records/s | cold MiB/s | warm records/s | warm MiB/s | ms of CPU per record, warm |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for way in reading:
        cold, warm = (value * record_bytes / 2**20 for value in (way.cold_per_s, way.warm_per_s))
        yield f"| {way.how} | {way.cold_per_s:.0f} | {cold:.0f} | {way.warm_per_s:.0f} | {warm:.0f} | {way.warm_cpu_ms:.3f} |"


if __name__ == "__main__":
    main()
