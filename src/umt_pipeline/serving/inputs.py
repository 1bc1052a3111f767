"""Videos in whatever form somebody has them, as the frames that a model reads; texts that a model can read.

Shapes: T frames of a clip, S side of a square frame, N frames of a video, H W pixels, R views.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from umt_pipeline.core.errors import ConfigError, VideoError
from umt_pipeline.serving.files import Film, frame_seconds, naming, read_chosen
from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.video.action_views import ClipConfig, evaluation_views
from umt_pipeline.video.images import read_image
from umt_pipeline.video.media import IMAGE_SUFFIXES, Reason, is_image
from umt_pipeline.video.views import View, ViewConfig, apply_view, eval_view, load_view, load_views

Video = str | Path | bytes | np.ndarray | Tensor
"""The path of a file, its bytes, or its frames: uint8 [N, H, W, 3]. A still image, too, is a video, of one frame."""
Span = tuple[float, float]
"""First and last second of a part of a video."""

# How the still images begin whose suffixes `is_image` knows; the decoder of a file is chosen by its suffix.
_IMAGES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
assert set(_IMAGES.values()) < IMAGE_SUFFIXES

# How an address begins; a path loses one of its slashes. A drive of Windows has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True)
class Clip:
    """What a model is shown of a video.

    Attributes:
        frames: uint8 [T, S, S, 3].
        seconds: when each of them is shown, float64 [T]; NaN where nobody asked, or where frames have no file to say it.
    """

    frames: np.ndarray
    seconds: np.ndarray


def clip_of(video: Video, view: ViewConfig, span: Span | None = None) -> np.ndarray:
    """Return frames evenly spaced over a video, or over a part of it, the square in the middle: uint8 [T, S, S, 3].

    Args:
        video: in any of its forms.
        view: number and size of the frames.
        span: first and last second of the part, the last not included; None: all of it.

    Raises:
        VideoError: it cannot be read, is no video, or ends before the span begins; it is named.
    """
    return _read(video, view, span, timed=False).frames


def timed_clip(video: Video, view: ViewConfig, span: Span | None = None) -> Clip:
    """Return the same frames as :func:`clip_of`, with their times, for which the whole of a file is read.

    Raises:
        VideoError: see :func:`clip_of`.
    """
    return _read(video, view, span, timed=True)


def views_of(video: Video, clip: ClipConfig, test: MultiViewTest, span: Span | None = None) -> np.ndarray:
    """Return the views that a test of classifiers looks at, of a video or a part of it: uint8 [R, T, S, S, 3].

    Args:
        video: in any of its forms.
        clip: frames, and how they are sampled.
        test: number of views.
        span: first and last second of the part, the last not included; None: all of it.

    Raises:
        VideoError: it cannot be read, is no video, or ends before the span begins; it is named.
    """
    if isinstance(video, np.ndarray | Tensor):
        _require_whole(span, name_of(video))
        return _views(_array(video), clip, test)
    with _as_file(video) as path:
        if is_image(path):
            with naming(path):
                return _views(read_image(path, [0]), clip, test)

        def choose(film: Film) -> tuple[View, ...]:
            first, count = _part(path, film, span)
            inside = evaluation_views(clip, test.clips, test.crops, count, film.height, film.width)
            return tuple(_moved(view, first) for view in inside)

        return read_chosen(path, choose, lambda views: load_views(path, views))


def name_of(video: Video) -> str:
    """Return what messages call a video."""
    if isinstance(video, bytes):
        return f"video of {len(video)} bytes"
    if isinstance(video, np.ndarray | Tensor):
        return f"array {list(video.shape)}"
    return str(video)


def require_texts(texts: Sequence[str], what: str) -> None:
    """Refuse what is no text, or one in which there is nothing to read.

    Args:
        texts: any number.
        what: one of them is called in messages.

    Raises:
        ConfigError: there is such a one; it is named by its number, from 0.
    """
    for number, text in enumerate(texts):
        given: object = text
        if not isinstance(given, str) or not given.strip():
            raise ConfigError(f"{what} {number}: expected a text with something to read, found {given!r}")
        try:
            given.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{what} {number}: expected a text in Unicode, found {given!r}: {error}") from error


@contextmanager
def _as_file(video: str | Path | bytes) -> Iterator[Path]:
    """Yield a file with the video; of bytes one that is gone afterwards, which errors do not name."""
    if not isinstance(video, bytes):
        yield _path(video)
        return
    suffix = next((suffix for start, suffix in _IMAGES.items() if video.startswith(start)), ".video")
    if video[:4] == b"RIFF" and video[8:12] == b"WEBP":
        suffix = ".webp"
    with tempfile.TemporaryDirectory(prefix="umt-") as folder:
        path = Path(folder) / f"bytes{suffix}"
        path.write_bytes(video)
        try:
            yield path
        except VideoError as error:
            raise VideoError(error.reason, _renamed(error.detail, path, name_of(video))) from error


def _path(video: object) -> Path:
    if not isinstance(video, str | Path) or not str(video):
        found = repr(video) if video is None or isinstance(video, str | int | float) else f"one of type {type(video).__name__}"
        expected = "the path of a file, a file's bytes, or frames as uint8 [frames, height, width, 3]"
        raise VideoError(Reason.NOT_A_VIDEO, f"expected {expected}, found {found}")
    path = Path(video)
    if _ADDRESS.match(str(video)) and not path.exists():
        raise VideoError(Reason.MISSING_FILE, f"{video}: expected a file on this machine, found an address: fetch it first")
    return path


def _renamed(detail: str, path: Path, name: str) -> str:
    return detail.replace(str(path), name) if str(path) in detail else f"{name}: {detail}"


def _read(video: Video, view: ViewConfig, span: Span | None, timed: bool) -> Clip:
    if isinstance(video, np.ndarray | Tensor):
        return _of_array(_array(video), view, span, name_of(video))
    with _as_file(video) as path:
        if is_image(path):
            # Whatever part is meant, it is on the screen.
            with naming(path):
                shown = _of_array(read_image(path, [0]), view, None, str(path))
            return replace(shown, seconds=np.zeros(view.frames))

        def choose(film: Film) -> tuple[View, np.ndarray]:
            chosen = _view(path, film, view, span)
            second_T = frame_seconds(path, film)[list(chosen.frame_indices)] if timed else np.full(view.frames, np.nan)
            return chosen, second_T

        return read_chosen(path, choose, lambda chosen: Clip(load_view(path, chosen[0]), chosen[1]))


def _array(video: np.ndarray | Tensor) -> np.ndarray:
    frames = video.detach().cpu().numpy() if isinstance(video, Tensor) else video
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        found = f"{frames.dtype} {list(frames.shape)}"
        raise VideoError(Reason.WRONG_SHAPE, f"expected frames as uint8 [frames, height, width, 3], found {found}")
    return frames


def _of_array(frames_NHWC: np.ndarray, view: ViewConfig, span: Span | None, name: str) -> Clip:
    _require_whole(span, name)
    chosen = eval_view(view, *frames_NHWC.shape[:3])
    frames = apply_view(frames_NHWC[list(chosen.frame_indices)], chosen)
    return Clip(frames, np.full(view.frames, np.nan))


def _require_whole(span: Span | None, name: str) -> None:
    if span is not None:
        detail = f"{name}: a part was asked for by seconds ({span[0]:g} to {span[1]:g}), which single frames do not have"
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"{detail}; give the frames of that part")


def _view(path: Path, film: Film, view: ViewConfig, span: Span | None) -> View:
    first, count = _part(path, film, span)
    return _moved(eval_view(view, count, film.height, film.width), first)


def _part(path: Path, film: Film, span: Span | None) -> tuple[int, int]:
    """Return the first frame of a part of a file, and how many there are in it, at least one."""
    if span is None:
        return 0, film.num_frames
    second_N = frame_seconds(path, film)
    end = second_N[-1] + 1 / film.fps
    if not span[0] < span[1] or span[0] >= end:
        detail = f"{path}: expected a part of a video of {end:.3f} seconds, found seconds {span[0]:g} to {span[1]:g}"
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, detail)
    first, last = np.searchsorted(second_N, span).tolist()
    # Between two frames the earlier one is on the screen.
    first = min(first, max(last - 1, 0))
    return first, max(last - first, 1)


def _moved(view: View, first: int) -> View:
    """Return a view of a part of a file that begins with frame ``first``."""
    return replace(view, frame_indices=tuple(first + index for index in view.frame_indices))


def _views(frames_NHWC: np.ndarray, clip: ClipConfig, test: MultiViewTest) -> np.ndarray:
    views = evaluation_views(clip, test.clips, test.crops, *frames_NHWC.shape[:3])
    return np.stack([apply_view(frames_NHWC[list(view.frame_indices)], view) for view in views])
