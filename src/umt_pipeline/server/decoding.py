"""What is done with files in a process of its own, where a file that hangs, crashes or eats memory costs only itself.

Imported by those processes, which start for each file: nothing heavy is imported here.

T frames, S side of the square view.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.guarded import Check, Extend, ReadLimits, Result, out_of_memory, run_guarded
from umt_pipeline.video.media import Reason, Refusal, VideoInfo, VideoRules, is_image
from umt_pipeline.video.probing import stated_seconds, try_probe
from umt_pipeline.video.transcode import PreparedForm, transcode
from umt_pipeline.video.views import ViewConfig, eval_view, load_view

# Of an upload nobody asks more than that the model can be shown it. Smaller than this, a picture is one colour.
RULES = VideoRules(min_frames=1, min_side=8, depth="sample")
FULL = RULES.model_copy(update={"depth": "full"})
# For a page: small enough to be made while somebody waits, large enough to be looked at.
FOR_BROWSERS = PreparedForm(short_side=480, fps=30.0, gop=30, crf=23)


def in_a_process(check: Check[Result], path: Path, limits: ReadLimits) -> Result | Refusal:
    """Check one file in a process of its own.

    Raises:
        WorkersDoNotStartError: the process could not be started.
    """
    ((_, result),) = run_guarded(check, [path], limits, 1)
    return result


def read_clip(path: Path, view: ViewConfig, limits: ReadLimits) -> np.ndarray | Refusal:
    """Return frames evenly spaced over all of a file, the square in the middle, uint8 [T, S, S, 3]; or why there are none."""
    return in_a_process(partial(_clip, view=view), path, limits)


def check_clip(path: Path, limits: ReadLimits) -> bool | Refusal:
    """Decode all of a file; return True, or why that cannot be done."""
    return in_a_process(_checked, path, limits)


def transcode_for_browsers(source: Path, target: Path, limits: ReadLimits) -> Refusal | None:
    """Write a video as H.264 in MP4, without sound, its shorter side 480 pixels at most, 30 frames per second at most.

    Args:
        source: a video.
        target: written whole or not at all.
        limits: of the process that does it.

    Returns:
        Why it could not be done; None: it was.
    """
    found = in_a_process(partial(_transcoded, target=target), source, limits)
    return found if isinstance(found, Refusal) else None


def _probed(path: Path, extend: Extend, rules: VideoRules) -> VideoInfo | Refusal:
    if not is_image(path):
        extend(stated_seconds(path))
    return try_probe(path, rules)


def _checked(path: Path, extend: Extend) -> bool | Refusal:
    found = _probed(path, extend, FULL)
    return found if isinstance(found, Refusal) else True


def _clip(path: Path, extend: Extend, view: ViewConfig) -> np.ndarray | Refusal:
    found = _probed(path, extend, RULES)
    if isinstance(found, Refusal) and found.reason == Reason.UNKNOWN_LENGTH:
        found = _probed(path, extend, FULL)
    if isinstance(found, Refusal):
        return found
    try:
        return np.ascontiguousarray(load_view(path, eval_view(view, found.num_frames, found.height, found.width)))
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    except MemoryError as error:
        return out_of_memory(repr(error))


def _transcoded(path: Path, extend: Extend, target: Path) -> Refusal | str:
    extend(stated_seconds(path))
    try:
        transcode(path, target, FOR_BROWSERS)
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    except MemoryError as error:
        return out_of_memory(repr(error))
    except OSError as error:
        return Refusal(Reason.UNREADABLE_FILE.value, f"{target} cannot be written ({error.strerror or error})")
    return str(target)
