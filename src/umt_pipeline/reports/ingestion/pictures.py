"""Frames of the files that the page shows, read at a bounded cost.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from umt_pipeline.core.errors import VideoError
from umt_pipeline.reports.ingestion.content import Content
from umt_pipeline.reports.page import FrameLoader
from umt_pipeline.video.images import read_image
from umt_pipeline.video.media import is_image
from umt_pipeline.video.reader import read_frames

_FRAMES = 4  # of a video
# Pixels that all files together may make decoders produce: seconds of work. Frames are taken from the part of each video
# that its share reaches, so that one long or large film costs no more than another.
_PIXELS = 1_500_000_000
_SIDE = 256  # shorter side that frames are made smaller to at once: no page shows larger ones


def shown_files(content: Content) -> list[str]:
    """Return the paths of the files that the page opens, each once."""
    groups = [content.duplicates, *([content.near_duplicates] if content.near_duplicates else [])]
    paths = [row.video for group in content.reasons for row in group.examples if row.shown]
    paths += [path for all_groups in groups for group in all_groups.shown for path, _ in group.files]
    return list(dict.fromkeys([*paths, *(file.path for file in content.accepted)]))


def frame_loader(media: Path, videos: pd.DataFrame, content: Content) -> FrameLoader:
    """Return what reads the frames of a file by its path.

    Of an accepted video these are a few, evenly spaced; of an image, and of a file that a rule refused, the first. They are
    uint8 RGB [T, H, W, 3].

    Args:
        media: folder that paths are relative to.
        videos: accepted files.
        content: names the files that will be read.
    """
    paths = shown_files(content)
    known = videos[videos["path"].isin(paths)]
    sizes = {
        path: (num_frames, width, height)
        for path, num_frames, width, height in known[["path", "num_frames", "width", "height"]].to_numpy(object)
    }
    for group in content.duplicates.shown:
        # The same bytes have the same frames, whichever of them was accepted.
        known_size = next((sizes[path] for path, _ in group.files if path in sizes), None)
        if known_size is not None:
            sizes |= dict.fromkeys((path for path, _ in group.files), known_size)
    share = _PIXELS // max(1, len(paths))

    def load(path: str) -> np.ndarray:
        indices = frame_numbers(*sizes[path], share) if path in sizes else [0]
        file = media / path
        try:
            frames_THWC = read_image(file, indices) if is_image(file) else read_frames(file, indices)
        except VideoError as error:
            # The page names the file already, and goes to people who need not know where it lies.
            raise VideoError(error.reason, error.detail.removeprefix(f"{file}: ")) from error
        return np.stack([_smaller(frame) for frame in frames_THWC])

    return load


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
