"""Pictures of videos for the page: a frame at a second, and where in a frame a model looked.

H W pixels, h w patches.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.container import cause, open_video, read_header
from umt_pipeline.video.decoders import Display
from umt_pipeline.video.images import read_image
from umt_pipeline.video.media import Reason, check_file, is_image

# Pixels of a thumbnail's longer side: a third of a page's width, twice as fine as most screens.
_LONG_SIDE = 480
_QUALITY = 80
# Small frames, as models see them, are enlarged for people.
_SEEN_SIDE = 320
# What a model did not look at keeps this share of its light.
_DIMMED = 0.25


def thumbnail(path: Path, second: float) -> bytes:
    """Return the frame of a second as a JPEG file.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        frame_HWC = frame_at(path, second)
    except (OSError, ValueError) as error:
        raise VideoError(Reason.UNREADABLE_FILE, f"{path}: {error}") from error
    picture = Image.fromarray(frame_HWC)
    picture.thumbnail((_LONG_SIDE, _LONG_SIDE))
    return _jpeg(picture)


def frame_at(path: Path, second: float) -> np.ndarray:
    """Return the frame that a player shows at a second, as displayed: uint8 RGB [H, W, 3]; the last one after the end.

    Raises:
        VideoError: the file cannot be read.
    """
    check_file(path)
    if is_image(path):
        return np.asarray(read_image(path, [0])[0])
    header = read_header(path)
    with open_video(path) as (container, stream):
        stream.codec_context.thread_count = 1
        start = stream.start_time or 0

        def is_later(frame: av.VideoFrame) -> bool:
            return frame.pts is not None and (frame.pts - start) * stream.time_base > second

        for seek in (start + int(second / stream.time_base), start):
            try:
                container.seek(seek, stream=stream)
                shown = None
                for frame in container.decode(stream):
                    if is_later(frame) and shown is not None:
                        break
                    shown = frame
            except av.FFmpegError as error:
                if shown is None:
                    raise VideoError(Reason.CORRUPT_FRAME, f"{path}: no frame decodes ({cause(error)})") from error
            # Not all that calls itself a keyframe is one: what follows it may need frames from before it.
            if shown is not None and (seek == start or not (shown.is_corrupt or is_later(shown))):
                return Display(header).picture(shown)
    raise VideoError(Reason.CORRUPT_FRAME, f"{path}: expected a frame at second {second:.2f}, found none")


def seen(frame_HWC: np.ndarray, weight_hw: np.ndarray) -> bytes:
    """Return a frame as a JPEG file, bright where the model looked.

    Args:
        frame_HWC: uint8 RGB.
        weight_hw: of each patch, at least 0.
    """
    light_hw = weight_hw / max(float(weight_hw.max()), 1e-12)
    side = max(_SEEN_SIDE, *frame_HWC.shape[:2])
    scale = side / max(frame_HWC.shape[:2])
    size = round(frame_HWC.shape[1] * scale), round(frame_HWC.shape[0] * scale)
    light = Image.fromarray((light_hw * 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    share_HW1 = _DIMMED + (1 - _DIMMED) * np.asarray(light, dtype=np.float32)[..., None] / 255
    picture_HWC = np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return _jpeg(Image.fromarray((picture_HWC * share_HW1).astype(np.uint8)))


def _jpeg(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=_QUALITY)
    return written.getvalue()
