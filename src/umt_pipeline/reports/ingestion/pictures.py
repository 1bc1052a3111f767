"""Frames of the files that the page shows, read at a bounded cost.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.ingestion.content import Content
from umt_pipeline.reports.page import FrameLoader
from umt_pipeline.tables.blocks import Table, as_blocks
from umt_pipeline.video.guarded import Extend, ReadLimits, run_guarded
from umt_pipeline.video.images import read_image
from umt_pipeline.video.media import Refusal, is_image
from umt_pipeline.video.reader import read_frames

_FRAMES = 4  # of a video
_ASKED = ["path", "num_frames", "width", "height"]
# Pixels that all files together may make decoders produce: seconds of work. Frames are taken from the part of each video
# that its share reaches, so that one long or large film costs no more than another.
_PIXELS = 1_000_000_000
_SECONDS = 20.0  # of the clock for one file, which should take a fraction of one
_WORKERS = 2
_SIDE = 256  # shorter side that frames are made smaller to at once: no page shows larger ones


def shown_files(content: Content) -> list[str]:
    """Return the paths of the files that the page opens, each once."""
    paths = [row.video for group in content.reasons for row in group.examples if row.shown]
    paths += [
        path for found in (content.duplicates, content.near_duplicates) for group in found.shown for path, _ in group.files
    ]
    return list(dict.fromkeys([*paths, *(file.path for file in content.accepted)]))


def frame_loader(media: Path, videos: Table, content: Content, limits: ReadLimits) -> FrameLoader:
    """Read the files of the page; return what gives their frames by path.

    Of an accepted video these are a few, evenly spaced; of an image, and of a file that a rule refused, the first. They are
    uint8 RGB [T, H, W, 3]. Files are read in processes of their own: not all of them were decoded before, and a decoder may
    crash or hang.

    Args:
        media: folder that paths are relative to.
        videos: accepted files.
        content: names the files.
        limits: for each file.
    """
    paths = shown_files(content)
    numbers = {media / path: indices for path, indices in _numbers(paths, videos, content).items()}
    limits = limits.model_copy(update={"seconds": min(limits.seconds, _SECONDS)})
    check = partial(read_some, numbers=numbers)
    found = {paths[place]: result for place, result in run_guarded(check, [media / path for path in paths], limits, _WORKERS)}

    def load(path: str) -> np.ndarray:
        result = found[path]
        if isinstance(result, Refusal):
            raise VideoError(result.reason, result.detail)
        return result

    return load


def read_some(file: Path, extend: Extend, numbers: Mapping[Path, list[int]]) -> np.ndarray | Refusal:
    """Return the frames of a file that ``numbers`` names, made small, or why there are none; called in a process of its own."""
    del extend  # for work that takes longer for longer videos
    try:
        frames_THWC = read_image(file, numbers[file]) if is_image(file) else read_frames(file, numbers[file])
    except VideoError as error:
        # The page names the file already, and goes to people who need not know where it lies.
        return Refusal(str(error.reason), error.detail.removeprefix(f"{file}: "))
    return np.stack([_smaller(frame) for frame in frames_THWC])


def _numbers(paths: Sequence[str], videos: Table, content: Content) -> dict[str, list[int]]:
    """Return the numbers of the frames to read of each file."""
    share = _PIXELS // max(1, len(paths))
    shown = set(paths)
    numbers = {
        path: frame_numbers(num_frames, width, height, share)
        for block in as_blocks(videos)
        for path, num_frames, width, height in block.loc[block["path"].isin(shown), _ASKED].to_numpy(object)
    }
    for group in content.duplicates.shown:
        # The same bytes have the same frames, whichever of them was accepted.
        same = next((numbers[path] for path, _ in group.files if path in numbers), [0])
        numbers |= {path: same for path, _ in group.files}
    return {path: numbers.get(path, [0]) for path in paths}


def frame_numbers(num_frames: int, width: int, height: int, pixels: int) -> list[int]:
    """Return the numbers of the frames to show of a video; the last is so early that at most ``pixels`` are decoded.

    Wide pictures are shown by fewer frames: side by side they would be a line.
    """
    within = max(1, min(num_frames, pixels // (width * height)))
    count = _FRAMES if width <= 2 * height else 2 if width <= 4 * height else 1
    if count == 1:
        return [within // 2]
    return [int(number) for number in np.unique(np.linspace(0, within - 1, count).round())]


def _smaller(frame_HWC: np.ndarray) -> np.ndarray:
    height, width = frame_HWC.shape[:2]
    scale = _SIDE / min(height, width)
    if scale >= 1:
        return frame_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BILINEAR))
