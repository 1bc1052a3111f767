"""Measure how many clip views a core decodes per second: the `decode_rate` of `umt plan --rates`.

    .venv/bin/python benchmarks/decode_rate.py                     # drawn files of Kinetics' usual shape
    .venv/bin/python benchmarks/decode_rate.py FOLDER [FRAMES SIZE] # the video files of a folder, searched to any depth

A view is what one training step of the online mode reads: FRAMES frames spread over the whole file, cropped and resized
to SIZE x SIZE (8 and 224, as published). Counted is the time of the processor, so that other programs on the machine do
not matter; the disk does not count either.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pandas as pd

from umt_pipeline.core.errors import VideoError
from umt_pipeline.tables.folders import read_folder
from umt_pipeline.video.decode_rate import decode_rate
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig, load_views, make_view

VIEWS = 64
TOGETHER = (4, 10)


def draw_file(path: Path, seed: int, seconds: int = 10, fps: int = 30, height: int = 256, width: int = 340) -> None:
    """Write H.264 with x264's own settings: a picture with detail that pans, turns brighter and has some noise."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 256, (height // 4 + 80, width // 4 + 80, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(seconds * fps):
            picture = canvas[number : number + height, 2 * number : 2 * number + width].astype(np.int16)
            picture += rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def rate_together(videos: pd.DataFrame, folder: Path, view: ViewConfig, count: int) -> float:
    """Return the views that one core decodes per second where ``count`` views of a file are decoded at once."""
    rows = videos.to_dict("records")
    start = time.process_time()
    for row in rows:
        size = (int(row["num_frames"]), int(row["height"]), int(row["width"]))
        drawn = [make_view(view, "rate", row["path"], number, *size) for number in range(count)]
        load_views(folder / row["path"], drawn)
    return count * len(rows) / (time.process_time() - start)


def main() -> None:
    """Print views per second and core."""
    frames, size = (int(number) for number in sys.argv[2:4]) if len(sys.argv) > 3 else (8, 224)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        for seed in range(8 if len(sys.argv) == 1 else 0):
            draw_file(folder / f"{seed}.mp4", seed)
        found = [folder / name for name in read_folder(folder).videos["video"]][:VIEWS]
        paths, infos, refused = [], [], 0
        start = time.process_time()
        for path in found:
            try:
                infos.append(probe(path, VideoRules(min_frames=1, min_side=1)))
            except VideoError as error:
                print(f"left out: {path}: {error}", file=sys.stderr)
                refused += 1
            else:
                paths.append(path)
        if not paths:
            raise SystemExit(f"{folder} holds no video that can be read: {refused} files were left out")
        whole = (time.process_time() - start) / len(found)
        table = pd.DataFrame([{**asdict(info), "path": str(path)} for info, path in zip(infos, paths, strict=True)])
        view = ViewConfig(frames=frames, size=size)
        rate = decode_rate(table, folder, view, VIEWS)
        together = {count: rate_together(table, folder, view, count) for count in TOGETHER}
    shape = f"{infos[0].width} x {infos[0].height}, {infos[0].codec}, {infos[0].num_frames} frames"
    print(f"{len(paths)} files, {refused} left out as unreadable")
    print(f"the first of {shape}; on average {np.mean([info.size_bytes for info in infos]) / 1e6:.2f} MB")
    print(f"{rate:.1f} views of {frames} frames per second and core; {1 / whole:.1f} files decoded to their end")
    for count, faster in together.items():
        print(f"{faster:.1f} views per second and core where {count} views of a file are decoded together, as in extraction")


if __name__ == "__main__":
    main()
