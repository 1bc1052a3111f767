"""How fast features are extracted by one process and by several, and what is waited for.

    python benchmarks/extract.py [--nproc 1 2] [--clips N] [--teacher ViT-B-16] [--videos DIR] [--batch N] [--out FILE.md]

Runs the library's own extraction (decode, teacher, masks, int8, write) with an open_clip teacher of random weights, which are
as fast as trained ones: views of 8 frames of 224 x 224 pixels, 80 % masked. All numbers of processes are run in turn, the best
run of each counts; starting the processes is part of it, and so is the time in which the first clips are decoded. Prints a
Markdown page.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import open_clip
import pandas as pd
import torch
from common import commit, machine, paragraph
from drawn_files import draw_files

from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.features.extract import FeatureConfig, plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.models.teacher import Teacher, TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nproc", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clips", type=int, default=2048 if torch.cuda.is_available() else 32)
    parser.add_argument("--teacher", default="ViT-B-16")
    parser.add_argument("--videos", type=Path, help="folder of videos; without it a few files are drawn")
    parser.add_argument("--batch", type=int, default=32 if torch.cuda.is_available() else 4)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with TemporaryDirectory(prefix="umt-benchmark-") as name:
        folder = Path(name)
        media = arguments.videos or folder / "media"
        if arguments.videos is None:
            draw_files(media)
        text = "\n".join(page(arguments, folder, make_videos(media, arguments.clips), media)) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


def make_videos(media: Path, clips: int) -> pd.DataFrame:
    """Return a video table; files are repeated under other names, each with views of its own."""
    files = sorted(path for path in media.rglob("*") if path.is_file())
    rows = [{**asdict(probe(path, VideoRules())), "path": str(path.relative_to(media))} for path in files]
    repeated = itertools.islice(itertools.cycle(rows), clips)
    return pd.DataFrame([{**row, "video_id": f"clip{number:06d}"} for number, row in enumerate(repeated)]).assign(split="train")


def make_teacher(arguments: argparse.Namespace, folder: Path) -> Teacher:
    """Write and load a teacher of random weights."""
    torch.manual_seed(0)
    folder.mkdir()
    model = open_clip.create_model(arguments.teacher, pretrained=None)
    save_open_clip(model, open_clip.get_model_config(arguments.teacher), None, folder)
    return load_teacher(folder, TeacherConfig(source=f"open_clip:{arguments.teacher}/random", layers=6), 14)


def page(arguments: argparse.Namespace, folder: Path, videos: pd.DataFrame, media: Path) -> Iterator[str]:
    """Run, and yield the lines of the page."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = make_teacher(arguments, folder / "teacher").to(device)
    peak = matmul_peak(device, torch.float32)
    load = os.getloadavg()[0]
    best: dict[int, dict[str, Any]] = {}
    for _, nproc in itertools.product(range(arguments.runs), arguments.nproc):
        config = FeatureConfig(
            dataset_id="benchmark",
            teacher=teacher.config,
            view=ViewConfig(frames=8, size=224),
            views=1,
            codec="int8",
            batch_size=arguments.batch,
            # Several shards for each process.
            shard_rows=max(arguments.batch, arguments.clips // (4 * nproc)),
            nproc=nproc,
        )
        plan = plan_extraction(config, teacher, videos)
        report = extract(config, teacher, plan, media, folder / "store")
        report["macs"] = teacher.macs(plan.header.frames, plan.header.visible_per_frame)
        shutil.rmtree(folder / "store")
        if nproc not in best or report["clip_views_per_second"] > best[nproc]["clip_views_per_second"]:
            best[nproc] = report
    command = ["python", "benchmarks/extract.py", "--nproc", *map(str, arguments.nproc)]
    command += ["--clips", str(arguments.clips), "--batch", str(arguments.batch), "--runs", str(arguments.runs)]
    command += ["--videos", "DIR"] if arguments.videos else []
    yield "# Speed of extraction"
    yield ""
    yield paragraph(
        f"{arguments.clips} views of 8 frames of 224 x 224 pixels, teacher {arguments.teacher} of open_clip with random "
        f"weights and 6 layers, fp32, batches of {arguments.batch}: decoding, teacher, masks, int8 and writing. Written by"
    )
    yield ""
    yield f"    {shlex.join([*command, '--out', f'docs/{arguments.out.name}'] if arguments.out else command)}"
    yield ""
    yield paragraph(
        f"on {machine(device.type)}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after; "
        f"torch {torch.__version__}; commit {commit(arguments.out)}."
    )
    yield ""
    yield "| processes | views/s | MFU | waiting for decode | device | waiting for the disk |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    for nproc, report in best.items():
        speed, shares = report["clip_views_per_second"], report["time_shares"]
        devices = nproc if device.type == "cuda" else 1
        mfu = 2 * report["macs"] * speed / (peak * devices)
        parts = " | ".join(f"{shares[part]:.1%}" for part in ("decode", "device", "write"))
        yield f"| {nproc} | {speed:.2f} | {mfu:.2f} | {parts} |"
    yield ""
    yield paragraph(
        "MFU is against a matmul peak measured before. Starting the processes and decoding the first clips is in these "
        "numbers: the more views, the less it counts."
    )


if __name__ == "__main__":
    main()
