"""How fast a core decodes: what `umt plan` and the benchmarks measure on a corpus' own files."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.video.views import ViewConfig, load_view, make_view

# Enough files to be a sample, few enough to take seconds.
VIEWS = 64


def decode_rate(videos: pd.DataFrame, media_root: Path, view: ViewConfig, views: int = VIEWS) -> float:
    """Return the views that one core decodes per second, on average over a sample of the files.

    Counted is the time of the processor, so that neither other programs nor disks matter. The sample is spread over the table,
    and the same for the same table.

    Args:
        videos: rows with path, num_frames, height and width.
        media_root: folder that paths are relative to.
        view: what is cut out of each.
        views: how many.

    Raises:
        VideoError: a file cannot be read.
    """
    rows = videos.iloc[np.linspace(0, len(videos) - 1, min(views, len(videos))).round().astype(int)].to_dict("records")
    began = time.process_time()
    for number in range(views):
        row = rows[number % len(rows)]
        size = (int(row["num_frames"]), int(row["height"]), int(row["width"]))
        load_view(media_root / row["path"], make_view(view, "rate", row["path"], number, *size))
    return views / (time.process_time() - began)
