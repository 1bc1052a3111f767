"""Video files as models want them, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.media import VideoInfo, VideoRules
from umt_pipeline.video.reader import probe
from umt_pipeline.video.views import ViewConfig, eval_view, load_view

# However short or small: what is asked of a corpus is asked when it is ingested.
_RULES = VideoRules(min_frames=1, min_side=1)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let a :class:`VideoError` of the block name the file.

    Raises:
        VideoError: the block did.
    """
    try:
        yield
    except VideoError as error:
        if str(path) in error.detail:
            raise
        raise VideoError(error.reason, f"{path}: {error.detail}") from error


def load_frames(path: str | Path, view: ViewConfig) -> np.ndarray:
    """Return frames evenly spaced over all of a video, the square in the middle: uint8 [T, S, S, 3].

    Raises:
        VideoError: the file cannot be read.
    """
    with naming(path):
        found = _probe(path)
        return load_view(Path(path), eval_view(view, found.num_frames, found.height, found.width))


def video_table(paths: Sequence[str]) -> pd.DataFrame:
    """Return what tests read of a clean video table, a row for each different file.

    Returns:
        Columns video_id (the path), path, num_frames, height, width and fps.

    Raises:
        VideoError: a file cannot be read.
    """
    rows = []
    for path in dict.fromkeys(paths):
        with naming(path):
            found = _probe(path)
        rows.append((path, path, found.num_frames, found.height, found.width, found.fps))
    return pd.DataFrame(rows, columns=["video_id", "path", "num_frames", "height", "width", "fps"])


def require_all(failures: Mapping[str, str]) -> None:
    """Refuse an answer that leaves files out.

    Args:
        failures: files that could not be read, with the reason.

    Raises:
        VideoError: there is one; all are named.
    """
    if failures:
        listed = "; ".join(f"{path}: {reason}" for path, reason in failures.items())
        raise VideoError("unreadable_file", f"{len(failures)} files cannot be read: {listed}")


def _probe(path: str | Path) -> VideoInfo:
    return probe(path, _RULES)
