"""Scene changes of a video, by FFmpeg's own filter, found while the video is decoded to its end.

In guarded worker processes: what crashes a decoder, hangs or eats memory costs itself, and whoever reads the file later to
embed it does so without that danger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av

from umt_pipeline.core.errors import VideoError
from umt_pipeline.serving.embedding.shelf import Looked
from umt_pipeline.video.container import Header, read_header
from umt_pipeline.video.guarded import Extend
from umt_pipeline.video.media import Reason, Refusal, check_file
from umt_pipeline.video.probing import stated_seconds
from umt_pipeline.video.transcode import displayed_frames

# Scenes change on small pictures as on large ones, and those take a tenth of the time. In RGB, for of YUV the filter compares
# the brightness alone, and a red scene and a blue one may be equally bright.
_WIDTH = 160


def look(path: Path, extend: Extend, threshold: float | None) -> Looked | Refusal:
    """Decode a video to its end, and find its scene changes.

    Args:
        path: the file.
        extend: see :data:`~umt_pipeline.video.guarded.Extend`.
        threshold: share of change that makes a frame the first of a scene; None: none is looked for.

    Returns:
        What was seen; a refusal where the video cannot be decoded to its end.
    """
    try:
        check_file(path)
        extend(stated_seconds(path))
        return _look(path, threshold)
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    except Exception as error:  # decoders raise what they like on damaged files
        return Refusal(Reason.UNREADABLE_FILE.value, f"{type(error).__name__}: {error}")


def looking(threshold: float | None) -> Callable[[Path, Extend], Looked | Refusal]:
    """Return :func:`look` as a check that worker processes can be given."""
    return partial(look, threshold=threshold)


def _look(path: Path, threshold: float | None) -> Looked:
    header = read_header(path)
    detector = None if threshold is None else _Detector(header, threshold)
    scenes: list[float] = []
    first, end = 0, 0.0
    for number, frame in enumerate(displayed_frames(path, header)):
        # As everywhere here: a container that times its frames is believed, in others frames are evenly apart.
        timed = header.times_frames and frame.pts is not None
        first = frame.pts if timed and not number else first
        at = (frame.pts - first) * float(frame.time_base) if timed else number / header.fps
        end = max(end, at + (frame.duration * float(frame.time_base) if timed and frame.duration else 1 / header.fps))
        if detector is not None and detector.is_first_of_scene(frame) and number:
            scenes.append(at)
    return Looked(end, tuple(scenes))


class _Detector:
    """FFmpeg's `select` filter with its measure `scene`, which lets those frames through that begin a scene."""

    def __init__(self, header: Header, threshold: float) -> None:
        self._header, self._threshold = header, threshold
        self._kind: tuple[Any, ...] = ()
        self._graph: Any = None

    def is_first_of_scene(self, frame: Any) -> bool:
        """Whether a frame differs that much from the one that was asked about before."""
        kind = (frame.format.name, frame.width, frame.height)
        if kind != self._kind:
            self._kind, self._graph = kind, self._make(frame)
        self._graph.vpush(frame)
        try:
            self._graph.vpull()
        except av.FFmpegError:  # it was not let through
            return False
        return True

    def _make(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        scale = graph.add("scale", f"{_WIDTH}:-2:flags=fast_bilinear")
        select = graph.add("select", f"gt(scene\\,{self._threshold})")
        graph.link_nodes(source, scale, graph.add("format", "rgb24"), select, graph.add("buffersink")).configure()
        return graph
