"""Measure what preparing videos costs and brings: clip views per second and core, before and after.

    .venv/bin/python benchmarks/prepare.py --out docs/benchmarks_prepare.md    # drawn 1080p files
    .venv/bin/python benchmarks/prepare.py --videos FOLDER                     # the videos of a folder

A view is what one training step of the online mode reads: 8 frames spread over the whole file, cropped and resized to
224 x 224, as in benchmarks/decode_rate.py. Counted is the time of the processor, so that neither disk nor other programs count.
Fidelity is that of the view which evaluation sees, against the same view of the source.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import VideoInfo, VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.transcode import PreparedForm, transcode
from umt_pipeline.video.views import ViewConfig, eval_view, load_view, make_view

ROOT = Path(__file__).resolve().parents[1]
VIEW = ViewConfig(frames=8, size=224)
DEFAULT = PreparedForm()
FORMS = {
    "default": DEFAULT,
    "a key frame every 30": PreparedForm(gop=30),
    "key frames only": PreparedForm(gop=1),
    "short side 256": PreparedForm(short_side=256),
    "crf 23": PreparedForm(crf=23),
}


@dataclass
class Row:
    """What was measured of one form, or of the sources."""

    name: str
    views: float
    megabytes: float
    realtime: float | None = None
    psnr: float | None = None


def draw_clip(path: Path, seed: int, seconds: int, height: int, width: int, fps: int = 30) -> None:
    """Write H.264 by x264's defaults (a key frame every 250): structure of all sizes that pans, a moving object, grain."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height + fps * seconds, width + 2 * fps * seconds, 3), 128.0, dtype=np.float32)
    for size in (4, 16, 64, 256):  # structure has less contrast the finer it is, as in photographs
        coarse = rng.integers(0, 256, (canvas.shape[0] // size + 2, canvas.shape[1] // size + 2, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize(canvas.shape[1::-1], Image.Resampling.BICUBIC)
        canvas += (np.asarray(fine, dtype=np.float32) - 128.0) * size**0.5 / 24
    background = canvas.clip(0, 255).astype(np.uint8)
    side = height // 4
    grain = rng.integers(-2, 3, (8, height, width, 1), dtype=np.int8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * fps):
            picture = background[number : number + height, 2 * number : 2 * number + width].copy()
            top, left = (3 * number) % (height - side), (5 * number) % (width - side)
            picture[top : top + side, left : left + side] = (220, 60, 40)
            grainy = (picture.astype(np.int16) + grain[number % 8]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grainy, format="rgb24")))
        container.mux(stream.encode(None))


def views_per_second(paths: list[Path], infos: list[VideoInfo], views: int) -> float:
    start = time.process_time()
    for number in range(views):
        path, info = paths[number % len(paths)], infos[number % len(paths)]
        load_view(path, make_view(VIEW, "rate", path.stem, number, info.num_frames, info.height, info.width))
    return views / (time.process_time() - start)


def psnr(source: Path, before: VideoInfo, prepared: Path, after: VideoInfo) -> float:
    """Return decibels of the evaluation's view of the prepared file against that of the source."""
    expected = load_view(source, eval_view(VIEW, before.num_frames, before.height, before.width))
    found = load_view(prepared, eval_view(VIEW, after.num_frames, after.height, after.width))
    return float(10 * np.log10(255**2 / np.mean((expected.astype(np.float64) - found) ** 2)))


def look(path: Path) -> VideoInfo:
    return probe(path, VideoRules(min_frames=1, min_side=1))


def measure(paths: list[Path], scratch: Path, views: int) -> tuple[list[Row], list[VideoInfo]]:
    infos = [look(path) for path in paths]
    megabytes = sum(info.size_bytes for info in infos) / 1e6
    rows = [Row("as they are", views_per_second(paths, infos, max(len(paths), views // 8)), megabytes)]
    for name, form in FORMS.items():
        made = [scratch / name / f"{number}.mp4" for number in range(len(paths))]
        start = time.process_time()
        for source, target in zip(paths, made, strict=True):
            transcode(source, target, form)
        cost = time.process_time() - start
        after = [look(path) for path in made]
        quality = [psnr(*pair) for pair in zip(paths, infos, made, after, strict=True)]
        rows.append(
            Row(
                name,
                views_per_second(made, after, views),
                sum(info.size_bytes for info in after) / 1e6,
                sum(info.duration_s for info in infos) / cost,
                float(np.mean(quality)),
            )
        )
        print(rows[-1], file=sys.stderr)
    return rows, infos


def describe(rows: list[Row], infos: list[VideoInfo], drawn: bool, command: str) -> str:
    source, default = rows[0], rows[1]
    seconds = sum(info.duration_s for info in infos)
    assert default.realtime is not None
    saved_per_view = 1 / source.views - 1 / default.views
    epochs = seconds / default.realtime / (len(infos) * saved_per_view) if saved_per_view > 0 else float("inf")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = next((line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    first, kind = infos[0], "drawn videos" if drawn else "videos"
    lines = [
        "# Preparing videos",
        "",
        f"{len(infos)} {kind} of {seconds:.0f} s together, the first of {first.width} x {first.height} pixels, {first.codec}, "
        f"{first.fps:.0f} frames a second. Written by",
        "",
        f"    {command}",
        "",
        f"on {cpu or platform.machine()}, {os.cpu_count()} cores; PyAV {av.__version__}; commit {commit.stdout.strip()}.",
        "",
        "| videos | views per second and core | relative | MB | encoded, times realtime per core | PSNR of the view, dB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cost = "" if row.realtime is None else f"{row.realtime:.1f}"
        quality = "" if row.psnr is None else f"{row.psnr:.1f}"
        lines.append(
            f"| {row.name} | {row.views:.1f} | {row.views / source.views:.1f} | {row.megabytes:.1f} | {cost} | {quality} |"
        )
    lines += [
        "",
        f"The default is a short side of {DEFAULT.short_side}, a key frame every {DEFAULT.gop} frames and crf {DEFAULT.crf}; "
        "each other row differs in what it names. A view is 8 frames spread over the whole file, cropped and resized to "
        "224 x 224. Counted is processor time. PSNR compares the evaluation's view with the same view of the source, which is "
        "resized once and by another filter.",
        "",
        "## When to use it",
        "",
        f"Preparing these videos pays for itself after {epochs:.1f} views of each. So: when large files are read many times, "
        "that is in stage 1 with online targets and in fine-tuning, and when decoding is what training waits for (`umt plan "
        "--rates` takes the numbers above). It does not pay where views are recorded once and training reads the feature "
        "store, nor for files that are small and have key frames close together; those are handed through as they are. Files "
        "that were compressed hard can become larger.",
        "",
        "Every frame keeps its number and its time (with `fps: null`), so tables of frames, seconds and boxes stay right; "
        "recorded views do not, for a view holds pixels of the file.",
        "",
    ]
    return "\n".join(_wrapped(line) for line in lines)


def _wrapped(line: str) -> str:
    """Break a line of text; rows of tables and commands stay whole."""
    keep = line.startswith(("|", " "))
    return line if keep else textwrap.fill(line, 128, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="a folder; without it, clips are drawn")
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--views", type=int, default=96)
    parser.add_argument("--out", type=Path, help="write the page here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        if options.videos is None:
            for seed in range(options.clips):
                paths.append(Path(scratch) / f"drawn{seed}.mp4")
                draw_clip(paths[-1], seed, options.seconds, options.height, options.width)
        else:
            for path in sorted(path for path in options.videos.rglob("*") if path.is_file()):
                try:
                    look(path)
                except VideoError as error:
                    print(f"left out: {path.relative_to(options.videos)}: {error}", file=sys.stderr)
                else:
                    paths.append(path)
        if not paths:
            raise SystemExit(f"{options.videos} holds no video that can be read")
        rows, infos = measure(paths, Path(scratch), options.views)
    page = describe(rows, infos, options.videos is None, shlex.join(["python", "benchmarks/prepare.py", *sys.argv[1:]]))
    if options.out is None:
        print(page)
    else:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
