"""Measure the ingestion: files checked per second and core, and its memory and time as the table grows.

    .venv/bin/python benchmarks/ingestion_rate.py --out docs/benchmarks_ingestion.md

The first table is of a folder of hard links to a few drawn clips of Kinetics' usual shape. Nothing knows that they are the
same: each is decoded. For the second one every result is in the cache before, under a content of its own, and what is measured
is all the rest: the pipeline's nodes and the datasets of conf/base, one after another, without MLflow.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from decode_rate import draw_file

from umt_pipeline.core.identity import fingerprint
from umt_pipeline.tables.blocks import BLOCK_ROWS
from umt_pipeline.video.media import VideoInfo, VideoRules
from umt_pipeline.video.probe_cache import FileState, ProbeCache
from umt_pipeline.video.probing import CACHE_FILE, probe_all, rules_key, try_probe

CLIPS = 20
LINKS_OF_ONE_FILE = 50_000  # ext4 has at most 65,000
AN_HOUR_AGO = time.time() - 3600


@dataclass(frozen=True)
class Rate:
    """Files per second and core."""

    what: str
    files: int
    seconds: float
    workers: int

    @property
    def per_core(self) -> float:
        return self.files / self.seconds / self.workers


@dataclass(frozen=True)
class Node:
    """What one node took, its inputs loaded and its outputs saved."""

    name: str
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Growth:
    """The ingestion of a table of so many rows."""

    rows: int
    start_mib: float
    nodes: list[Node]

    @property
    def peak_mib(self) -> float:
        return max(node.peak_mib for node in self.nodes)

    @property
    def seconds(self) -> float:
        return sum(node.seconds for node in self.nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000, help="hard links that are checked")
    parser.add_argument("--clips", type=int, default=CLIPS, help="drawn clips that they link to")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="of the table")
    parser.add_argument("--workers", type=int, help="processes; one per core")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    from common import cores, write_page  # not at the top: the processes that are measured do without what it imports

    workers = max(2, arguments.workers or cores())
    with tempfile.TemporaryDirectory(prefix="umt-benchmark-") as name:
        folder = Path(name)
        clips = in_new_process(draw_clips, folder / "clips", arguments.clips)
        rates = in_new_process(measure_rates, folder / "media", clips, arguments.files, workers)
        growths = [in_new_process(measure_growth, folder / str(rows), clips, rows) for rows in arguments.rows]
    write_page(page(arguments, clips[0], workers, rates, growths), arguments.out)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def draw_clips(folder: Path, count: int) -> list[tuple[Path, VideoInfo]]:
    """Draw clips and describe them."""
    folder.mkdir()
    drawn = []
    for seed in range(count):
        draw_file(folder / f"{seed}.mp4", seed)
        info = try_probe(folder / f"{seed}.mp4", VideoRules())
        if not isinstance(info, VideoInfo):
            raise SystemExit(f"a drawn clip cannot be read: {info.detail}")
        drawn.append((folder / f"{seed}.mp4", info))
    return drawn


def link(folder: Path, clips: list[tuple[Path, VideoInfo]], count: int) -> list[str]:
    """Fill a folder with hard links to the clips in turn, and return their names."""
    folder.mkdir(parents=True)
    sources = [path for path, _ in clips]
    while count > LINKS_OF_ONE_FILE * len(sources):  # copies, for file systems have a limit of links
        sources.append(folder.parent / f"copy{len(sources)}.mp4")
        sources[-1].write_bytes(sources[len(sources) % len(clips)].read_bytes())
    names = [f"{number:07d}.mp4" for number in range(count)]
    for number, name in enumerate(names):
        os.link(sources[number % len(sources)], folder / name)
    for source in sources:
        os.utime(source, (AN_HOUR_AGO, AN_HOUR_AGO))
    return names


# --- files per second -------------------------------------------------------------------------------------------------
def measure_rates(media: Path, clips: list[tuple[Path, VideoInfo]], count: int, workers: int) -> list[Rate]:
    """Check the same folder in every way."""
    names, cache = link(media, clips, count), media.parent / "cache"
    depths = ["header", "sample", "full"] if "depth" in VideoRules.model_fields else ["full"]
    rates = []
    for depth in depths:
        rules = VideoRules.model_validate({"depth": depth} if len(depths) > 1 else {})
        rates.append(time_probing(f"decoding, depth `{depth}`", media, names, rules, cache, workers))
    rates.append(time_probing("known by path, size and time", media, names, rules, cache, workers))
    for name in names:
        (media / name).rename(media / f"moved {name}")
    moved = [f"moved {name}" for name in names]
    rates.append(time_probing("known by content (moved)", media, moved, rules, cache, workers))
    return rates


def time_probing(what: str, media: Path, names: list[str], rules: VideoRules, cache: Path, workers: int) -> Rate:
    start = time.perf_counter()
    results = list(probe_all(media, names, rules, cache=cache, workers=workers))
    seconds = time.perf_counter() - start
    if not all(isinstance(result, VideoInfo) for result in results):
        raise SystemExit(f"{what}: a file was refused")
    return Rate(what, len(names), seconds, 1 if what.startswith("known by path") else workers)


# --- memory -----------------------------------------------------------------------------------------------------------
def measure_growth(folder: Path, clips: list[tuple[Path, VideoInfo]], rows: int) -> Growth:
    """Ingest so many files, whose results are in the cache."""
    from kedro.io import DataCatalog, MemoryDataset

    from umt_pipeline.executors import OfflineParams
    from umt_pipeline.pipelines.ingestion import create_pipeline
    from umt_pipeline.pipelines.ingestion.params import IngestionParams
    from umt_pipeline.project_config import config_loader, typed_parameters

    project = Path(__file__).resolve().parents[1]
    loader = config_loader(project, None, f"data={folder},results={folder / 'results'}")
    params = typed_parameters(loader, "ingestion", IngestionParams)
    catalog = DataCatalog.from_config(loader["catalog"])
    catalog["params:ingestion"] = MemoryDataset(params)
    catalog["params:offline"] = MemoryDataset(OfflineParams())
    in_new_process(make_project, folder, clips, rows, params.rules)
    gc.collect()
    growth = Growth(rows, memory("VmRSS"), [])
    pipeline = create_pipeline()
    uses = Counter(name for node in pipeline.nodes for name in node.inputs)
    for node in pipeline.nodes:  # as Kedro's runner does it
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        start = time.process_time()  # other programs do not count
        inputs = {name: catalog.load(name) for name in node.inputs}
        outputs = node.run(inputs)
        del inputs
        for name in list(outputs):
            if name not in catalog:
                catalog[name] = MemoryDataset()
            catalog.save(name, outputs.pop(name))
        for name in node.inputs:
            uses[name] -= 1
            if not uses[name] and name not in pipeline.inputs():
                catalog.release(name)
        gc.collect()
        growth.nodes.append(Node(node.name, time.process_time() - start, memory("VmHWM")))
    return growth


def make_project(folder: Path, clips: list[tuple[Path, VideoInfo]], rows: int, rules: VideoRules) -> None:
    """Write raw tables with a caption a video, link the files, and put a result for each into the cache."""
    media = folder / "01_raw" / "demo" / "videos"
    names = link(media, clips, rows)
    videos = pd.DataFrame({"video": names, "split": "train", "corpus": "benchmark"})
    videos.to_csv(media.parent / "videos.csv", index=False)
    captions = [f"a thing number {number} does something to another one" for number in range(rows)]
    pd.DataFrame({"video": names, "caption": captions}).to_csv(media.parent / "captions.csv", index=False)
    labels = pd.DataFrame({"video": names, "task": "topic", "label": [f"topic {number % 100}" for number in range(rows)]})
    labels.to_csv(media.parent / "labels.csv", index=False)
    with closing(ProbeCache(folder / ".checkpoints" / "ingestion" / CACHE_FILE, rules_key(rules), fingerprint({}))) as cache:
        for number, name in enumerate(names):
            state = FileState.of(media / name)
            if state is None:
                raise SystemExit(f"{media / name} is gone")
            info = clips[number % len(clips)][1]
            # Without hashes of pictures: copies of a few clips look alike, and the report would name a million of them.
            cache.put(name, state, replace(info, sha256=sha256(name.encode()).hexdigest(), perceptual_hash=""))


def memory(what: str) -> float:
    """Return a line of this process' status in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"expected a line {what} in /proc/self/status, found none: memory is measured on Linux alone")


# --- page -------------------------------------------------------------------------------------------------------------
def page(
    arguments: argparse.Namespace, clip: tuple[Path, VideoInfo], workers: int, rates: list[Rate], growths: list[Growth]
) -> Iterator[str]:
    from common import commit, cpu_model

    command = ["python", "benchmarks/ingestion_rate.py", "--files", str(arguments.files), "--clips", str(arguments.clips)]
    command += ["--rows", *map(str, arguments.rows), "--workers", str(workers)]
    out = arguments.out
    command += [] if out is None else ["--out", out.name if out.is_absolute() else str(out)]
    info = clip[1]
    yield "# Speed and memory of the ingestion"
    yield ""
    yield "Written by"
    yield ""
    yield f"    {shlex.join(command)}"
    yield ""
    yield f"on {cpu_model()}; load average {os.getloadavg()[0]:.1f} at the end; commit {commit(out)}."
    yield ""
    yield (
        f"## Files\n\nHard links to {arguments.clips} drawn clips, the first of {info.width} x {info.height} pixels, "
        f"{info.codec}, {info.num_frames} frames, {info.size_bytes / 1e6:.2f} MB. Worker processes are started anew for "
        "each row, and that counts."
    )
    yield ""
    yield "| files are | files | processes | files/s | files/s and core |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for rate in rates:
        pace = rate.files / rate.seconds
        yield f"| {rate.what} | {rate.files:,} | {rate.workers} | {pace:,.1f} | {rate.per_core:,.1f} |"
    yield ""
    yield (
        "## Rows\n\nA table of videos with a caption and a label each. The results of the files are in the cache. "
        "Peaks are of resident memory, above what the process has before the first node; seconds are the processor's.\n"
    )
    yield "| rows | seconds | peak MiB | bytes a row |"
    yield "| ---: | ---: | ---: | ---: |"
    for growth in growths:
        added = growth.peak_mib - growth.start_mib
        yield f"| {growth.rows:,} | {growth.seconds:,.1f} | {added:,.0f} | {added * 2**20 / growth.rows:,.0f} |"
    yield ""
    yield "| node: peak MiB, seconds | " + " | ".join(f"{growth.rows:,} rows" for growth in growths) + " |"
    yield "| --- |" + " ---: |" * len(growths)
    for nodes in zip(*(growth.nodes for growth in growths), strict=True):
        cells = [
            f"{node.peak_mib - growth.start_mib:,.0f}, {node.seconds:,.1f}" for node, growth in zip(nodes, growths, strict=True)
        ]
        yield f"| {nodes[0].name} | {' | '.join(cells)} |"
    for fewer, more in zip(growths[-2:-1], growths[-1:], strict=True):
        slope = (more.peak_mib - more.start_mib - fewer.peak_mib + fewer.start_mib) * 2**20 / (more.rows - fewer.rows)
        yield ""
        yield (
            f"From {fewer.rows:,} to {more.rows:,} rows the peak grows by {slope:,.0f} bytes a row. Tables lie on disk between "
            f"the nodes, and {BLOCK_ROWS:,} rows of one are in memory at a time; what grows are hashes and numbers of rows. "
            "Files that look alike, or have the same bytes, cost more: the report names each of them. There are none here."
        )


if __name__ == "__main__":
    main()
