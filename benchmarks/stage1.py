"""How fast stage 1 trains: UMT-B/16 on 8 frames of 224 x 224 pixels, 80 % masked, online and from the feature store.

    python benchmarks/stage1.py [--batch N] [--steps N] [--videos DIR] [--out FILE.md]

Trains with the library's own loop, loader, store and task; the teacher is an open_clip ViT-B-16 with random weights, which
are as fast as trained ones. Needs torch and the library alone: no Kedro, MLflow or DVC. Each part runs in a process of its
own, so that its peak memory is its own. Without ``--videos`` a few H.264 files are drawn first.

Shapes: H W pixels, 3 colours.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch

from umt_pipeline.errors import VideoError
from umt_pipeline.features.extract import FeatureConfig, extract, plan_extraction, select_clips
from umt_pipeline.features.provider import CachedDataset, OnlineDataset
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.teacher import TeacherConfig, load_teacher, save_clip
from umt_pipeline.training.device import resolve_device, uses_bf16
from umt_pipeline.training.loop import train
from umt_pipeline.training.peak import matmul_peak
from umt_pipeline.training.sampler import BatchReader, Sampler
from umt_pipeline.training.stage1 import StudentSize, Targets, make_task
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import SampleDataset, TrainConfig, stack_samples
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig

ROOT = Path(__file__).resolve().parents[1]
TEACHER = "ViT-B-16"
STUDENT = StudentSize(dim=768, depth=12, heads=12, drop_path=0.1)
VIEW = ViewConfig(frames=8, size=224)
# A file of Kinetics as it is commonly prepared: ten seconds, the short side scaled down.
DRAWN_FILES, DRAWN_FRAMES, DRAWN_FPS, DRAWN_HEIGHT, DRAWN_WIDTH = 8, 250, 25, 256, 340
# The input side is read for so many seconds of CPU time.
INPUT_SECONDS = 5.0
UPSTAIRS = ("kedro", "mlflow", "dvc")
REACH = {"mfu_cpu": 0.55, "mfu_cuda": 0.40, "cached": 2.2, "wait": 0.02, "store": 20.0}

logger = logging.getLogger("stage1")


class EnoughSeenError(Exception):
    """All rows that are wanted were seen. Training would go on, so the loader is as busy in the last row as before."""


@dataclass(frozen=True)
class Settings:
    """What the command line says, with defaults resolved.

    Args:
        batch: clips per step.
        steps: timed steps.
        window: steps per row of the history; the first row is warm-up and not timed.
        device: as :class:`TrainConfig` has it.
        workers: loader processes of online training; cached training reads in one background thread.
        compile: use torch.compile.
    """

    batch: int
    steps: int
    window: int
    device: str
    workers: int
    compile: bool


@dataclass(frozen=True)
class Place:
    """Where the parts of the experiment lie."""

    folder: Path
    media: Path

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def videos(self) -> Path:
        return self.folder / "videos.parquet"

    @property
    def store(self) -> Path:
        return self.folder / "store"


@dataclass(frozen=True)
class Corpus:
    """What is trained on, in words and numbers."""

    files: int
    refused: int
    clips: int
    mean_frames: float
    mean_kib: float
    sizes: str


@dataclass(frozen=True)
class Speed:
    """What one training run gave; shares are between 0 and 1."""

    clips_per_s: float
    seconds_per_step: float
    mfu: float
    tflops_peak: float
    gflops_per_clip: float
    data_wait: float
    peak_memory_mib: float
    precision: str


def main() -> None:
    arguments = parse_arguments()
    settings = resolve(arguments)
    load = os.getloadavg()[0]
    with TemporaryDirectory(prefix="umt-benchmark-") as name:
        folder = Path(name)
        media = arguments.videos.resolve() if arguments.videos else folder / "media"
        place = Place(folder, media)
        if arguments.videos is None:
            in_new_process(draw_files, media)
        corpus = in_new_process(make_corpus, place, settings)
        store_bytes = in_new_process(make_store, place, settings)
        speeds = {targets: in_new_process(measure_training, place, settings, targets) for targets in ("cached", "online")}
        reading = {source: in_new_process(measure_input, place, settings, source) for source in ("files", "store")}
    loads = (load, os.getloadavg()[0])
    page = "\n".join(report(settings, corpus, arguments, store_bytes, against_best_peak(speeds), reading, loads))
    print(page)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(page + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, help="clips per step; 8 on a CPU, 128 on a GPU")
    parser.add_argument("--steps", type=int, help="timed steps; 4 on a CPU, 50 on a GPU")
    parser.add_argument("--videos", type=Path, help="folder of videos; without it a few files are drawn")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--workers", type=int, help="decoding processes of online training; one per core on a GPU, 0 on a CPU")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    return parser.parse_args()


def resolve(arguments: argparse.Namespace) -> Settings:
    """Fill in what depends on the device."""
    cuda = resolve_device(arguments.device).type == "cuda"
    batch, steps, window, workers = (128, 50, 10, cores()) if cuda else (8, 4, 1, 0)
    return Settings(
        batch=arguments.batch or batch,
        steps=arguments.steps or steps,
        window=window,
        device="cuda" if cuda else "cpu",
        workers=workers if arguments.workers is None else arguments.workers,
        compile=arguments.compile,
    )


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process and return what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(alone, function, arguments).result()


def alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function and see to it that it loaded nothing from upstairs."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in (logger.name, "umt_pipeline"):
        logging.getLogger(name).setLevel(logging.INFO)
    logger.info("--- %s", " ".join([function.__name__, *(value for value in arguments if isinstance(value, str))]))
    result = function(*arguments)
    if loaded := sorted(name for name in UPSTAIRS if name in sys.modules):
        raise RuntimeError(f"{function.__name__} loaded {', '.join(loaded)}: this benchmark is for the library alone")
    return result


def draw_files(media: Path) -> None:
    """Write H.264 files of the size of prepared Kinetics clips: textures that pan, with other textures moving over them."""
    import av

    media.mkdir(parents=True)
    for number in range(DRAWN_FILES):
        with av.open(str(media / f"{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=DRAWN_FPS, options={"preset": "faster", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = DRAWN_WIDTH, DRAWN_HEIGHT, "yuv420p"
            for picture_HW3 in moving_textures(number):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HW3, format="rgb24")))
            container.mux(stream.encode(None))


def moving_textures(seed: int) -> Iterator[np.ndarray]:
    """Yield the frames uint8 [H,W,3] of one file."""
    rng = np.random.default_rng(seed)
    margin, disc = 64, 96
    background = texture(rng, DRAWN_HEIGHT + 2 * margin, DRAWN_WIDTH + 2 * margin)
    objects = [texture(rng, disc, disc) for _ in range(3)]
    inside = np.hypot(*(np.mgrid[:disc, :disc] - disc / 2)) < disc / 2
    phases = rng.uniform(0, 2 * np.pi, (4, 2))
    for number in range(DRAWN_FRAMES):
        # Each thing swings along its own ellipse, once or twice in the file.
        swing = np.sin(phases + 2 * np.pi * number / DRAWN_FRAMES * np.array([[1], [2], [1], [2]]))
        top, left = (margin * (1 + swing[0])).astype(int)
        picture = background[top : top + DRAWN_HEIGHT, left : left + DRAWN_WIDTH].copy()
        for place, thing in zip(swing[1:], objects, strict=True):
            y, x = ((1 + place) / 2 * (DRAWN_HEIGHT - disc, DRAWN_WIDTH - disc)).astype(int)
            picture[y : y + disc, x : x + disc][inside] = thing[inside]
        grain = rng.normal(0.0, 2.0, picture.shape[:2])[..., None]
        yield (picture + grain).clip(0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return colours float32 [H,W,3] whose detail falls with its frequency, as in photographs."""
    total = np.zeros((height, width, 3), np.float32)
    for cell in (64, 32, 16, 8, 4, 2):
        coarse = rng.normal(size=(3, 1, -(-height // cell) + 1, -(-width // cell) + 1)).astype(np.float32)
        fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), scale_factor=cell, mode="bilinear")
        total += fine[:, 0, :height, :width].permute(1, 2, 0).numpy() * cell**0.75
    return 128 + 50 * total / total.std()


def make_corpus(place: Place, settings: Settings) -> Corpus:
    """Write the video table and the teacher; files are repeated under other names, each with views of its own."""
    rows, refused = [], 0
    for path in sorted(path for path in place.media.rglob("*") if path.is_file()):
        try:
            info = probe(path, VideoRules())
        except VideoError as error:
            logger.warning("left out: %s: %s", path.name, error)
            refused += 1
        else:
            rows.append({**asdict(info), "path": str(path.relative_to(place.media))})
    if not rows:
        raise SystemExit(f"{place.media} holds no video that can be read")
    clips = max(32, 2 * settings.batch)
    repeated = itertools.islice(itertools.cycle(rows), clips)
    table = pd.DataFrame([{**row, "video_id": f"clip{number:05d}", "split": "train"} for number, row in enumerate(repeated)])
    table.to_parquet(place.videos)
    torch.manual_seed(0)
    place.teacher.mkdir()
    model_config = open_clip.get_model_config(TEACHER)
    save_clip(open_clip.create_model(TEACHER, pretrained=None), model_config, None, place.teacher)
    files = pd.DataFrame(rows)
    sizes = (files["width"].astype(str) + " x " + files["height"].astype(str)).value_counts()
    return Corpus(
        files=len(files),
        refused=refused,
        clips=clips,
        mean_frames=float(files["num_frames"].mean()),
        mean_kib=float(files["size_bytes"].mean()) / 2**10,
        sizes=sizes.index[0] if len(sizes) == 1 else f"{len(sizes)} sizes, mostly {sizes.index[0]}",
    )


def make_store(place: Place, settings: Settings) -> int:
    """Extract one view of each clip, visible patches and targets in int8, and return the store's bytes."""
    config = FeatureConfig(
        dataset_id="benchmark",
        teacher=TeacherConfig(source=f"open_clip:{TEACHER}/random", layers=6),
        view=VIEW,
        views=1,
        codec="int8",
        batch_size=4,
    )
    teacher = load_teacher(place.teacher, config.teacher, config.grid).to(resolve_device(settings.device))
    plan = plan_extraction(config, teacher, pd.read_parquet(place.videos))
    return int(extract(config, teacher, plan, place.media, place.store)["store_bytes"])


def measure_training(place: Place, settings: Settings, targets: Targets) -> Speed:
    """Train for the steps asked for, and look at all but the first window of the history."""
    torch.manual_seed(0)
    header = FeatureStore(place.store).manifest
    task = make_task(
        STUDENT.student_config(header).model_dump(mode="json"),
        store=str(place.store),
        targets=targets,
        teacher=str(place.teacher),
        videos=str(place.videos),
        media=str(place.media),
    )
    windows = -(-settings.steps // settings.window)
    config = TrainConfig(
        steps=10_000,
        batch_size=settings.batch,
        lr=1e-5,
        precision="bf16",
        compile=settings.compile,
        device=settings.device,  # type: ignore[arg-type]
        workers=settings.workers if targets == "online" else 0,
        log_every=settings.window,
        checkpoint_every=10_000,
    )
    rows: list[Row] = []

    def collect(row: Row) -> None:
        rows.append(row)
        if len(rows) > windows:
            raise EnoughSeenError

    with TemporaryDirectory(dir=place.folder) as run_dir, suppress(EnoughSeenError):
        train(task, config, seed=0, run_dir=Path(run_dir), on_row=collect)
    device = resolve_device(settings.device)
    bf16 = uses_bf16("bf16", device)
    peak = matmul_peak(device, torch.bfloat16 if bf16 else torch.float32)  # the loop's own measurement, remembered
    return summarise(rows, settings, peak, task.flops_per_clip(), "bf16" if bf16 else "fp32")


def summarise(rows: list[Row], settings: Settings, peak: float, flops: float, precision: str) -> Speed:
    """Put the timed rows together; the first row is warm-up."""
    ends = np.array([row["seconds"] for row in rows])
    seconds = np.diff(ends)
    steps = rows[-1]["step"] - rows[0]["step"]
    pace = steps * settings.batch / seconds.sum()
    return Speed(
        clips_per_s=float(pace),
        seconds_per_step=float(seconds.sum() / steps),
        mfu=float(pace * flops / peak),
        tflops_peak=peak / 1e12,
        gflops_per_clip=flops / 1e9,
        data_wait=float(np.average([row["data_wait"] for row in rows[1:]], weights=seconds)),
        peak_memory_mib=rows[-1]["peak_memory_mib"],
        precision=precision,
    )


def against_best_peak(speeds: dict[str, Speed]) -> dict[str, Speed]:
    """Restate MFU against the best peak of the run: one that was measured while something else ran would flatter."""
    best = max(speed.tflops_peak for speed in speeds.values())
    return {name: replace(speed, mfu=speed.mfu * speed.tflops_peak / best) for name, speed in speeds.items()}


def measure_input(place: Place, settings: Settings, source: str) -> float:
    """Return the clips per second of CPU time that one process reads into batches, and does nothing else."""
    torch.set_num_threads(1)
    store = FeatureStore(place.store)
    dataset: SampleDataset
    if source == "store":
        dataset = CachedDataset(store, "train")
    else:
        clips = select_clips(pd.read_parquet(place.videos), ("train",))
        dataset = OnlineDataset(store.manifest, clips, place.media)
    reader = BatchReader(dataset, stack_samples)
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
    arguments: argparse.Namespace,
    store_bytes: int,
    speeds: dict[str, Speed],
    reading: dict[str, float],
    loads: tuple[float, float],
) -> Iterator[str]:
    """Yield the lines of the page; ``loads`` are the machine's load averages before the first part and after the last."""
    online, cached = speeds["online"], speeds["cached"]
    drawn, out = arguments.videos is None, arguments.out
    yield "# Speed of stage 1"
    yield ""
    yield (
        f"UMT-B/16, {VIEW.frames} frames of {VIEW.size} x {VIEW.size} pixels, 80 % masked, teacher {TEACHER} with random "
        f"weights and six aligned layers; batches of {settings.batch}, {settings.steps} timed steps after "
        f"{settings.window} of warm-up, {online.precision}{', torch.compile' if settings.compile else ''}. Written by"
    )
    yield ""
    yield f"    {command(settings, drawn, out)}"
    yield ""
    yield (
        f"on {machine(settings.device)}; load average {loads[0]:.1f} before, {loads[1]:.1f} after; torch "
        f"{torch.__version__}; commit {commit(out)}."
    )
    yield ""
    yield "| targets | clips/s | s per step | MFU | matmul peak, TFLOP/s | GFLOP per clip | data wait | peak memory, MiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for targets, speed in (("online", online), ("cached", cached)):
        yield (
            f"| {targets} | {speed.clips_per_s:.2f} | {speed.seconds_per_step:.3f} | {speed.mfu:.3f} "
            f"| {speed.tflops_peak:.3f} | {speed.gflops_per_clip:.0f} | {speed.data_wait:.2%} | {speed.peak_memory_mib:,.0f} |"
        )
    yield ""
    kind = "H.264 files drawn by the script" if drawn else "given files"
    refused = f" ({corpus.refused} more could not be read)" if corpus.refused else ""
    decoding = f"{settings.workers} worker processes" if settings.workers else "one background thread"
    memory = "the allocator's peak on the GPU" if settings.device == "cuda" else "the process' largest resident memory"
    yield (
        "MFU is against the better of the matmul peaks, measured before each training. "
        f"Input: {corpus.files} {kind}{refused}, {corpus.sizes} pixels, on average {corpus.mean_frames:.0f} frames and "
        f"{corpus.mean_kib:.0f} KiB, seen as {corpus.clips} clips. Online training decodes in {decoding}, cached training "
        f"reads in one background thread. Memory is {memory}."
    )
    yield ""
    yield "The input side alone, one process, per second of CPU time; the store's"
    yield f"{store_bytes / 2**20:.0f} MiB are in the page cache:"
    yield ""
    yield "| from | clips/s per core | ms of CPU per clip |"
    yield "| --- | ---: | ---: |"
    sources = {"files": "video files: decode, crop, resize", "store": "feature store: visible patches and targets"}
    for source, text in sources.items():
        yield f"| {text} | {reading[source]:.1f} | {1000 / reading[source]:.3f} |"
    yield ""
    yield from verdicts(settings, online, cached, reading)


def verdicts(settings: Settings, online: Speed, cached: Speed, reading: dict[str, float]) -> Iterator[str]:
    """Yield what was to be reached and what was."""
    least = REACH[f"mfu_{settings.device}"]
    yield "| to reach | found | |"
    yield "| --- | ---: | --- |"
    for title, found, text, reached in (
        (f"MFU online, at least {least}", online.mfu, "{:.2f}", online.mfu >= least),
        (f"MFU cached, at least {least}", cached.mfu, "{:.2f}", cached.mfu >= least),
        (
            f"cached / online clips per second, at least {REACH['cached']}",
            cached.clips_per_s / online.clips_per_s,
            "{:.2f}",
            cached.clips_per_s / online.clips_per_s >= REACH["cached"],
        ),
        (f"data wait cached, below {REACH['wait']:.0%}", cached.data_wait, "{:.2%}", cached.data_wait < REACH["wait"]),
        (
            f"store / files clips per second and core, at least {REACH['store']:.0f}",
            reading["store"] / reading["files"],
            "{:.0f}",
            reading["store"] / reading["files"] >= REACH["store"],
        ),
    ):
        yield f"| {title} | {text.format(found)} | {'reached' if reached else 'missed'} |"


def command(settings: Settings, drawn: bool, out: Path | None) -> str:
    """Return the command that writes the same page, with every default written down and without private paths."""
    parts = ["python", "benchmarks/stage1.py", "--batch", str(settings.batch), "--steps", str(settings.steps)]
    parts += ["--workers", str(settings.workers), "--device", settings.device]
    parts += ["--compile"] if settings.compile else []
    parts += [] if drawn else ["--videos", "DIR"]
    return shlex.join([*parts, *([] if out is None else ["--out", out.name if out.is_absolute() else str(out)])])


def machine(device: str) -> str:
    """Name the processor, and the GPU if it is used."""
    processor = f"{cpu_model()}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return f"{torch.cuda.get_device_name()} ({processor})" if device == "cuda" else processor


def cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit(out: Path | None) -> str:
    """Return the commit, and whether files other than the page differ from it."""
    try:
        head, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    own = None if out is None else out.name
    changed = [line for line in changes.splitlines() if Path(line[3:]).name != own]
    return head.strip() + (" with local changes" if changed else "")


if __name__ == "__main__":
    main()
