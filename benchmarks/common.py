"""What the benchmarks of training and encoding share: settings, corpus, store, training, what a page says of the machine.

Each part of a benchmark runs in a process of its own, so that its peak memory is its own. With ``--synthetic`` nothing is
decoded (see :mod:`synthetic`), and torch, numpy, pydantic, safetensors, pyarrow and timm are all that is imported.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from synthetic import PATCH, SyntheticTargets, make_header, write_store
from timm.models import save_for_hf

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import dtype_of, resolve_precision
from umt_pipeline.core.processes import cores
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.provider import TargetProvider
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.loop import train
from umt_pipeline.training.stage1 import StudentSize
from umt_pipeline.training.state import Row
from umt_pipeline.training.task import Task, TrainConfig
from umt_pipeline.video.views import ViewConfig

ROOT = Path(__file__).resolve().parents[1]
DATASET = "benchmark"
WIDTH = 128
UPSTAIRS = ("kedro", "mlflow", "dvc")
# What a synthetic part must do without.
# pandas neither, but pyarrow loads it by itself where it is installed.
ABSENT = ("av", "decord", "open_clip", "tokenizers", "transformers")

logger = logging.getLogger("benchmark")


class EnoughSeenError(Exception):
    """All rows that are wanted were seen. Training would go on, so the loader is as busy in the last row as before."""


@dataclass(frozen=True)
class Size:
    """How large models and clips are.

    Args:
        title: of the models.
        student: the student.
        teacher: architecture and arguments of timm's model; CLIP's, so that it projects.
        layers: of the teacher that are targets.
        frames: of a clip in stage 1; stage 2 sees half of them.
        pixels: side of a frame.
        text: of the text encoder: width, layers, text layers, heads, hidden width, and its vocabulary.
        embed_dim: width of the common space.
    """

    title: str
    student: StudentSize
    teacher: tuple[str, dict[str, Any]]
    layers: int
    frames: int
    pixels: int
    text: dict[str, int]
    embed_dim: int

    @property
    def teacher_title(self) -> str:
        return f"{self.teacher[0]} of timm"


SIZES = {
    "base": Size(
        title="UMT-B/16",
        student=StudentSize(dim=768, depth=12, heads=12, drop_path=0.1),
        teacher=("vit_base_patch16_clip_224", {"num_classes": 512}),
        layers=6,
        frames=8,
        pixels=224,
        text={"dim": 768, "layers": 12, "fusion_layer": 9, "heads": 12, "mlp_dim": 3072, "vocab_size": 30522},
        embed_dim=512,
    ),
    # For tests, and to see that everything runs: its speed says nothing.
    "tiny": Size(
        title="a tiny student",
        student=StudentSize(dim=64, depth=3, heads=2, drop_path=0.1),
        teacher=(
            "vit_base_patch16_clip_224",
            {"num_classes": 32, "img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 2},
        ),
        layers=2,
        frames=4,
        pixels=64,
        text={"dim": 64, "layers": 3, "fusion_layer": 2, "heads": 2, "mlp_dim": 128, "vocab_size": 600},
        embed_dim=32,
    ),
}


@dataclass(frozen=True)
class Defaults:
    """Batch and timed steps where the command line names none."""

    cpu: tuple[int, int]
    cuda: tuple[int, int]


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
        synthetic: decode nothing.
        size: a name in ``SIZES``.
    """

    batch: int
    steps: int
    window: int
    device: str
    workers: int
    compile: bool = False
    synthetic: bool = False
    size: str = "base"

    @property
    def sizes(self) -> Size:
        return SIZES[self.size]

    @property
    def clips(self) -> int:
        """How many clips there are to train on."""
        return max(32, 2 * self.batch)


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
        """Table of the videos; a synthetic place has none."""
        return self.folder / "videos.parquet"

    @property
    def clips(self) -> Path:
        return self.folder / "clips.arrow"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def source(self, targets: Targets, clips: Path | None = None) -> TargetSource:
        return TargetSource(
            store=self.store, targets=targets, teacher=self.teacher, clips=clips or self.clips, media_root=self.media
        )

    def provider(self, targets: Targets, settings: Settings, clips: Path | None = None) -> TargetProvider:
        """Open what training reads."""
        if targets == "online" and settings.synthetic:
            header = read_manifest(self.store).header()
            return SyntheticTargets(load_teacher(self.teacher, header.teacher_config(), header.grid), header, settings.clips)
        return self.source(targets, clips).open()


@dataclass(frozen=True)
class Corpus:
    """What is trained on, in words and numbers; nothing was decoded where there are no files."""

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


def parse_arguments(doc: str, defaults: Defaults) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    (cpu_batch, cpu_steps), (cuda_batch, cuda_steps) = defaults.cpu, defaults.cuda
    parser.add_argument("--batch", type=int, help=f"clips per step; {cpu_batch} on a CPU, {cuda_batch} on a GPU")
    parser.add_argument("--steps", type=int, help=f"timed steps; {cpu_steps} on a CPU, {cuda_steps} on a GPU")
    parser.add_argument("--videos", type=Path, help="folder of videos; without it a few files are drawn")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--workers", type=int, help="decoding processes of online training; one per core on a GPU, 0 on a CPU")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--synthetic", action="store_true", help="random frames and records: nothing is decoded")
    parser.add_argument("--size", choices=tuple(SIZES), default="base", help="of models and clips; tiny: does it run?")
    arguments = parser.parse_args()
    if arguments.synthetic and arguments.videos:
        parser.error("--synthetic decodes no --videos: give one of them")
    return arguments


def resolve(arguments: argparse.Namespace, defaults: Defaults) -> Settings:
    """Fill in what depends on the device."""
    cuda = resolve_device(arguments.device).type == "cuda"
    (batch, steps), window, workers = (defaults.cuda, 10, cores()) if cuda else (defaults.cpu, 1, 0)
    if arguments.size == "tiny":
        batch, steps = 4, 3
    return Settings(
        batch=arguments.batch or batch,
        steps=arguments.steps or steps,
        window=window,
        device="cuda" if cuda else "cpu",
        workers=workers if arguments.workers is None else arguments.workers,
        compile=arguments.compile,
        synthetic=arguments.synthetic,
        size=arguments.size,
    )


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process and return what it returns."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(alone, function, arguments).result()


def alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a function and see to it that it loaded nothing from upstairs, nor what a synthetic part must do without."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in (logger.name, "umt_pipeline"):
        logging.getLogger(name).setLevel(logging.INFO)
    logger.info("--- %s", " ".join([function.__name__, *(value for value in arguments if isinstance(value, str))]))
    result = function(*arguments)
    synthetic = any(isinstance(value, Settings) and value.synthetic for value in arguments)
    if loaded := sorted(name for name in UPSTAIRS + (ABSENT if synthetic else ()) if name in sys.modules):
        raise RuntimeError(f"{function.__name__} loaded {', '.join(loaded)}: this benchmark is for the library alone")
    return result


@contextmanager
def make_place(settings: Settings, videos: Path | None = None) -> Iterator[Place]:
    """Give a folder that is removed in the end, and the media: those of ``videos``, drawn ones, or synthetic: none."""
    with TemporaryDirectory(prefix="umt-benchmark-") as name:
        folder = Path(name)
        place = Place(folder, videos.resolve() if videos else folder / "media")
        if videos is None and not settings.synthetic:
            from drawn_files import draw_files

            in_new_process(draw_files, place.media)
        yield place


def make_corpus(place: Place, settings: Settings) -> Corpus:
    """Write the teacher and the video table; files are repeated under other names, each with views of its own."""
    torch.manual_seed(0)
    name, arguments = settings.sizes.teacher
    save_for_hf(timm.create_model(name, **arguments), place.teacher, safe_serialization=True, model_args=arguments)
    if settings.synthetic:
        return Corpus(files=0, refused=0, clips=settings.clips, mean_frames=0.0, mean_kib=0.0, sizes="")
    from video_files import list_files

    return list_files(place, settings)


def load_benchmark_teacher(place: Place, settings: Settings) -> Teacher:
    """Load the teacher for the store's views."""
    sizes = settings.sizes
    config = TeacherConfig(source=f"timm:{sizes.teacher[0]}", layers=sizes.layers)
    return load_teacher(place.teacher, config, sizes.pixels // PATCH).to(resolve_device(settings.device))


def make_store(place: Place, settings: Settings, view: ViewConfig) -> int:
    """Make a store of one view of each clip, visible patches and targets in int8, and return its bytes."""
    teacher = load_benchmark_teacher(place, settings)
    if settings.synthetic:
        return write_store(place.store, make_header(view, teacher, teacher.config.source, DATASET), settings.clips)
    from video_files import extract_files

    return extract_files(place, teacher, view)


@dataclass(frozen=True)
class Training:
    """Rows of the history; the first one is warm-up."""

    rows: tuple[Row, ...]
    peak: float
    precision: str


def train_for_rows(task: Task, place: Place, settings: Settings, workers: int) -> Training:
    """Train for the warm-up and the timed steps that are asked for."""
    windows = -(-settings.steps // settings.window)
    config = TrainConfig(
        steps=10_000,
        batch_size=settings.batch,
        lr=1e-5,
        precision="auto",
        compile=settings.compile,
        device=settings.device,  # type: ignore[arg-type]
        workers=workers,
        log_every=settings.window,
        checkpoint_every=10_000,
    )
    device = resolve_device(settings.device)
    precision = measured_precision(device)
    peak = matmul_peak(device, dtype_of(precision))
    rows: list[Row] = []

    def collect(row: Row) -> None:
        rows.append(row)
        if len(rows) > windows:
            raise EnoughSeenError

    with TemporaryDirectory(dir=place.folder) as run_dir, suppress(EnoughSeenError):
        train(task, config, seed=0, run_dir=Path(run_dir), on_row=collect)
    return Training(tuple(rows), peak, precision)


def summarise(training: Training, settings: Settings, flops: float) -> Speed:
    """Put the timed rows together."""
    rows = training.rows
    seconds = np.diff([row["seconds"] for row in rows])
    steps = rows[-1]["step"] - rows[0]["step"]
    pace = steps * settings.batch / seconds.sum()
    return Speed(
        clips_per_s=float(pace),
        seconds_per_step=float(seconds.sum() / steps),
        mfu=float(pace * flops / training.peak),
        tflops_peak=training.peak / 1e12,
        gflops_per_clip=flops / 1e9,
        data_wait=float(np.average([row["data_wait"] for row in rows[1:]], weights=seconds)),
        peak_memory_mib=rows[-1]["peak_memory_mib"],
        precision=training.precision,
    )


def against_best_peak(speeds: dict[str, Speed]) -> dict[str, Speed]:
    """Restate MFU against the best peak of the run: one that was measured while something else ran would flatter."""
    best = max(speed.tflops_peak for speed in speeds.values())
    return {name: replace(speed, mfu=speed.mfu * speed.tflops_peak / best) for name, speed in speeds.items()}


def measured_precision(device: torch.device) -> Precision:
    """Return the precision that is measured on a device: what `auto` takes there."""
    return resolve_precision("auto", device)


def write_page(lines: Iterator[str], out: Path | None) -> None:
    """Print a page, and write it where that is asked for."""
    page = "\n".join(lines)
    print(page)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page + "\n", encoding="utf-8")


def paragraph(text: str) -> str:
    """Return a paragraph in lines of readable length."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def written_by(script: str, settings: Settings, drawn: bool, out: Path | None, loads: tuple[float, float]) -> Iterator[str]:
    """Yield the lines that say by what command, where and from which sources a page was made.

    ``loads`` are the machine's load averages before the first part and after the last.
    """
    yield f"    {command(script, settings, drawn, out)}"
    yield ""
    yield paragraph(
        f"on {machine(settings.device)}; load average {loads[0]:.1f} before, {loads[1]:.1f} after; torch "
        f"{torch.__version__}; commit {commit(out)}."
    )


def speed_table(speeds: dict[str, Speed]) -> Iterator[str]:
    yield "| targets | clips/s | s per step | MFU | matmul peak, TFLOP/s | GFLOP per clip | data wait | peak memory, MiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for targets, speed in speeds.items():
        yield (
            f"| {targets} | {speed.clips_per_s:.2f} | {speed.seconds_per_step:.3f} | {speed.mfu:.3f} "
            f"| {speed.tflops_peak:.3f} | {speed.gflops_per_clip:.0f} | {speed.data_wait:.2%} | {speed.peak_memory_mib:,.0f} |"
        )


def about_input(settings: Settings, corpus: Corpus, drawn: bool) -> str:
    kind = "H.264 files drawn by the script" if drawn else "given files"
    refused = f" ({corpus.refused} more could not be read)" if corpus.refused else ""
    reading = f"{settings.workers} worker processes" if settings.workers else "one background thread"
    memory = "the allocator's peak on the GPU" if settings.device == "cuda" else "the process' largest resident memory"
    files = (
        f"{corpus.files} {kind}{refused}, {corpus.sizes} pixels, on average {corpus.mean_frames:.0f} frames and "
        f"{corpus.mean_kib:.0f} KiB, seen as {corpus.clips} clips. Online training decodes in {reading}"
    )
    nothing = f"{corpus.clips} synthetic clips: nothing is decoded. Online training gets random frames from {reading}"
    return paragraph(
        "MFU is against the better of the matmul peaks, measured before each training. Input: "
        f"{nothing if settings.synthetic else files}, cached training reads in one background thread. Memory is {memory}."
    )


def command(script: str, settings: Settings, drawn: bool, out: Path | None) -> str:
    """Return the command that writes the same page, with every default written down and without private paths."""
    parts = ["python", f"benchmarks/{script}.py", "--batch", str(settings.batch), "--steps", str(settings.steps)]
    parts += ["--workers", str(settings.workers), "--device", settings.device]
    parts += ["--compile"] if settings.compile else []
    parts += ["--synthetic"] if settings.synthetic else []
    parts += ["--size", settings.size] if settings.size != "base" else []
    parts += [] if drawn or settings.synthetic else ["--videos", "DIR"]
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
