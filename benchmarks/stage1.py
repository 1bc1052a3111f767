"""How fast stage 1 trains: UMT-B/16 on 8 frames of 224 x 224 pixels, 80 % masked, online and from the feature store.

    python benchmarks/stage1.py [--batch N] [--steps N] [--synthetic | --videos DIR] [--out FILE.md]

Trains with the library's own loop, loader, store and task; the teacher is CLIP's ViT-B/16 as timm has it, with random weights,
which are as fast as trained ones. Needs no Kedro, MLflow or DVC, and with ``--synthetic`` nothing but torch, numpy, pydantic,
safetensors, pyarrow and timm: nothing is decoded then. Otherwise, without ``--videos``, a few H.264 files are drawn first.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator

import torch
from common import (
    Corpus,
    Defaults,
    Place,
    Settings,
    Speed,
    about_input,
    against_best_peak,
    in_new_process,
    make_corpus,
    make_place,
    make_store,
    paragraph,
    parse_arguments,
    resolve,
    speed_table,
    summarise,
    train_for_rows,
    write_page,
    written_by,
)

from umt_pipeline.data.samples import SampleDataset
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.provider import CachedDataset
from umt_pipeline.features.source import Targets
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.student import Student
from umt_pipeline.training.sampler import BatchReader, Sampler
from umt_pipeline.training.stage1 import Stage1Task
from umt_pipeline.video.views import ViewConfig

DEFAULTS = Defaults(cpu=(8, 4), cuda=(128, 50))
# The input side is read for so many seconds of CPU time.
INPUT_SECONDS = 5.0
REACH = {"mfu_cpu": 0.55, "mfu_cuda": 0.40, "cached": 2.2, "wait": 0.02, "store": 20.0}


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULTS)
    settings = resolve(arguments, DEFAULTS)
    load = os.getloadavg()[0]
    with make_place(settings, arguments.videos) as place:
        corpus = in_new_process(make_corpus, place, settings)
        store_bytes = in_new_process(make_store, place, settings, view_of(settings))
        measured = {targets: in_new_process(measure_training, place, settings, targets) for targets in ("online", "cached")}
        reading = {source: in_new_process(measure_input, place, settings, source) for source in ("files", "store")}
    drawn = arguments.videos is None
    made = written_by("stage1", settings, drawn, arguments.out, (load, os.getloadavg()[0]))
    page = report(settings, corpus, drawn, made, store_bytes, against_best_peak(measured), reading)
    write_page(page, arguments.out)


def view_of(settings: Settings) -> ViewConfig:
    return ViewConfig(frames=settings.sizes.frames, size=settings.sizes.pixels)


def measure_training(place: Place, settings: Settings, targets: Targets) -> Speed:
    """Train for the steps asked for, and look at all but the first window of the history."""
    torch.manual_seed(0)
    student = Student(settings.sizes.student.student_config(read_manifest(place.store)))
    task = Stage1Task(student, place.provider(targets, settings))
    flops = task.flops_per_clip({})
    assert flops is not None
    workers = settings.workers if targets == "online" else 0
    return summarise(train_for_rows(task, place, settings, workers), settings, flops)


def measure_input(place: Place, settings: Settings, source: str) -> float:
    """Return the clips per second of CPU time that one process reads into batches, and does nothing else."""
    torch.set_num_threads(1)
    dataset: SampleDataset
    if source == "store":
        dataset = CachedDataset(FeatureStore(place.store), "train")
    else:
        dataset = place.provider("online", settings).dataset()
    reader = BatchReader(dataset)
    sampler = Sampler(len(dataset), min(8, settings.batch), seed=0)
    addresses = sampler.walk(0, 10**9)
    reader[next(addresses)]  # opens files and fills the page cache
    clips_read, began = 0, time.process_time()
    # Whole epochs: files differ in length.
    while time.process_time() - began < INPUT_SECONDS:
        for address in itertools.islice(addresses, sampler.steps_per_epoch):
            clips_read += len(reader[address]["clip"])
    return clips_read / (time.process_time() - began)


def report(
    settings: Settings,
    corpus: Corpus,
    drawn: bool,
    made: Iterator[str],
    store_bytes: int,
    speeds: dict[str, Speed],
    reading: dict[str, float],
) -> Iterator[str]:
    """Yield the lines of the page; ``made`` are those that say how and where it was made."""
    online, cached, sizes, view = speeds["online"], speeds["cached"], settings.sizes, view_of(settings)
    yield "# Speed of stage 1"
    yield ""
    yield paragraph(
        f"{sizes.title}, {view.frames} frames of {view.size} x {view.size} pixels, 80 % masked, teacher {sizes.teacher_title} "
        f"with random weights and {sizes.layers} aligned layers; batches of {settings.batch}, {settings.steps} timed steps "
        f"after {settings.window} of warm-up, {online.precision}{', torch.compile' if settings.compile else ''}. Written by"
    )
    yield ""
    yield from made
    yield ""
    yield from speed_table(speeds)
    yield ""
    yield about_input(settings, corpus, drawn)
    yield ""
    yield paragraph(
        f"The input side alone, one process, per second of CPU time; the store's {store_bytes / 2**20:.0f} MiB are in the page "
        "cache:"
    )
    yield ""
    yield "| from | clips/s per core | ms of CPU per clip |"
    yield "| --- | ---: | ---: |"
    files = "random frames, copied" if settings.synthetic else "video files: decode, crop, resize"
    sources = {"files": files, "store": "feature store: visible patches and targets"}
    for source, text in sources.items():
        yield f"| {text} | {reading[source]:.1f} | {1000 / reading[source]:.3f} |"
    if settings.size == "base":
        yield ""
        yield from verdicts(settings, online, cached, reading)


def verdicts(settings: Settings, online: Speed, cached: Speed, reading: dict[str, float]) -> Iterator[str]:
    """Yield what was to be reached and what was."""
    least = REACH[f"mfu_{settings.device}"]
    yield "| to reach | found | |"
    yield "| --- | ---: | --- |"
    ratio, wait = cached.clips_per_s / online.clips_per_s, cached.data_wait
    lines = [
        (f"MFU online, at least {least}", f"{online.mfu:.2f}", online.mfu >= least),
        (f"MFU cached, at least {least}", f"{cached.mfu:.2f}", cached.mfu >= least),
        (f"cached / online clips per second, at least {REACH['cached']}", f"{ratio:.2f}", ratio >= REACH["cached"]),
        (f"data wait cached, below {REACH['wait']:.0%}", f"{wait:.2%}", wait < REACH["wait"]),
    ]
    if not settings.synthetic:  # where nothing is decoded, there is nothing to compare the store with
        faster = reading["store"] / reading["files"]
        title = f"store / files clips per second and core, at least {REACH['store']:.0f}"
        lines.append((title, f"{faster:.0f}", faster >= REACH["store"]))
    for title, found, reached in lines:
        yield f"| {title} | {found} | {'reached' if reached else 'missed'} |"


if __name__ == "__main__":
    main()
