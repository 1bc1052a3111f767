"""Open video files: check one (:func:`probe`), read some of its frames (:func:`read_frames`).

T frames, H W pixels. Frames are uint8 RGB ``[T, H, W, 3]`` as a player shows them: turned, mirrored and stretched to square
pixels as the file says, without those that an edit list hides, alpha left out, fields of interlaced video woven. Frame
numbers count from 0 in the order of presentation, whatever their distance in time.

Two decoders share the work. decord is the fast one, and exact where every frame carries its own time of presentation
(MP4, MOV, Matroska, WebM). In other containers (AVI, MPEG streams, WMV) it seeks to another frame, up to a second away,
without a word; those are decoded in order with PyAV, and so are files with mirrored or hidden frames, or whose film is not
the first video stream, which decord gets wrong. PyAV also reads all headers, and names the first bad frame when decord
fails, which decord cannot: its decoding thread is ahead of the frame that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.video.container import Header, read_header
from umt_pipeline.video.counting import count_frames
from umt_pipeline.video.decoders import DECORD_ERRORS, open_decord, read_in_order
from umt_pipeline.video.media import Reason, VideoInfo, VideoRules, check_file, check_unchanged


def probe(path: Path | str, rules: VideoRules) -> VideoInfo:
    """Look into a video as deep as the rules say, and describe it.

    Args:
        path: the file.
        rules: what is asked of it, and the depth.

    Returns:
        Its description.

    Raises:
        VideoError: the file cannot be used. ``reason`` is one of :class:`~umt_pipeline.video.media.Reason`.
    """
    path = Path(path)
    state = check_file(path)
    header = read_header(path)
    rules.require_side(header.width, header.height)
    num_frames, looks = count_frames(path, header, rules.depth, partial(_read_displayed, path, header))
    if num_frames < rules.min_frames:
        raise VideoError(Reason.TOO_SHORT, f"expected at least {rules.min_frames} frames, found {num_frames}")
    sha256 = sha256_file(path)
    check_unchanged(path, state)
    return VideoInfo(
        media="video",
        container=header.container,
        codec=header.codec,
        width=header.width,
        height=header.height,
        fps=header.fps,
        num_frames=num_frames,
        duration_s=max(header.duration_s, num_frames / header.fps),
        size_bytes=state.st_size,
        sha256=sha256,
        rotation=header.orientation.rotation,
        mirrored=header.orientation.mirrored,
        sample_aspect=float(header.sample_aspect),
        stream=header.stream,
        perceptual_hash=looks,
    )


def read_frames(path: Path | str, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Read the frames with the given numbers.

    Args:
        path: the file.
        indices: T frame numbers from 0, in any order, repeats allowed.

    Returns:
        uint8 RGB ``[T, H, W, 3]``.

    Raises:
        VideoError: the file does not open, or one of the frames does not exist or does not decode.
    """
    path = Path(path)
    wanted = [int(index) for index in indices]
    try:
        if not wanted or min(wanted) < 0:
            raise VideoError(Reason.FRAME_OUT_OF_RANGE, f"expected frame numbers from 0, found {wanted}")
        check_file(path)
        return _read_displayed(path, read_header(path), wanted)
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {error.detail}") from error


def _read_displayed(path: Path, header: Header, wanted: Sequence[int]) -> NDArray[np.uint8]:
    # Beyond the listed frames decord knows hidden ones.
    if header.by_decord and not (header.hidden_frames and max(wanted) >= header.listed_frames):
        try:
            frames = open_decord(path, header).get_batch(list(wanted)).asnumpy()
            if frames.shape == (len(wanted), header.height, header.width, 3):
                return np.asarray(frames, dtype=np.uint8)
        except DECORD_ERRORS:
            pass  # decoding in order finds the frame if it exists, and names what is wrong if not
    return read_in_order(path, header, wanted)
