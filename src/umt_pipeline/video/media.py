"""What videos and images have in common: what is known about a file, why one is refused, and which decoder it is for.

Which decoder is tried is decided by the file's suffix alone, by :func:`is_image`, whenever a file is opened: so what was
checked and what is read later cannot differ.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError

Media = Literal["video", "image"]
Depth = Literal["header", "sample", "full"]

# Suffixes of still images. A GIF is a video here, as in the corpora that are made of GIFs.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


class Reason(StrEnum):
    """Why a file is refused: the ``reason`` of a :class:`VideoError` and of a row of the reject table."""

    MISSING_FILE = "missing_file"
    OUTSIDE_FOLDER = "outside_folder"
    UNREADABLE_FILE = "unreadable_file"
    EMPTY_FILE = "empty_file"
    WRONG_MEDIA = "wrong_media"
    NOT_A_VIDEO = "not_a_video"
    NO_VIDEO_STREAM = "no_video_stream"
    UNKNOWN_CODEC = "unknown_codec"
    NOT_AN_IMAGE = "not_an_image"
    ANIMATED_IMAGE = "animated_image"
    CORRUPT_IMAGE = "corrupt_image"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    TOO_SHORT = "too_short"
    UNKNOWN_LENGTH = "unknown_length"
    TRUNCATED = "truncated"
    NO_KEY_FRAME = "no_key_frame"
    CORRUPT_FRAME = "corrupt_frame"
    WRONG_SHAPE = "wrong_shape"
    FRAME_OUT_OF_RANGE = "frame_out_of_range"
    DECODER_CRASH = "decoder_crash"
    DECODER_TIMEOUT = "decoder_timeout"
    OUT_OF_MEMORY = "out_of_memory"
    FILE_CHANGED = "file_changed"


class VideoRules(Config):
    """What a file must have to be accepted.

    Attributes:
        min_frames: smallest number of decodable frames of a video; images have one and are not asked.
        min_side: smallest width and height in pixels as displayed, of videos and images.
        depth: how much of a video is looked at. Images are always decoded, and every byte is hashed at any depth.

            ``header``: header, index and the first frame that decodes. Finds what is no video, has no stream, no decoder
            or no listed frames, is cut off before its index says, too small or too short. Damage inside coded frames is
            not seen, ``num_frames`` is what the index lists, and there is no perceptual hash. Where no index lists them,
            frames of Matroska, WebM and fragmented MP4 files are counted in the container, which reads the file; MPEG
            streams are refused.
            ``sample``: also decodes a few frames: the first, the last, and the three that are hashed. Finds also what does
            not decode there, and then decodes all. Damage between them is not seen. Saves nothing for AVI, MPEG and other
            files that can only be decoded in order.
            ``full``: decodes every frame, as whoever reads the file will.
    """

    min_frames: int = Field(default=4, ge=1)
    min_side: int = Field(default=32, ge=1)
    depth: Depth = "full"

    def require_side(self, width: int, height: int) -> None:
        """Refuse a picture that is too small.

        Raises:
            VideoError: a side is below ``min_side``.
        """
        if min(width, height) < self.min_side:
            found = f"{width} x {height} pixels"
            raise VideoError(Reason.TOO_SMALL, f"expected at least {self.min_side} pixels a side, found {found}")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known about a video or image after it was probed.

    Attributes:
        media: ``video`` or ``image``.
        container: FFmpeg's short name of the container format, such as ``mov,mp4,m4a,3gp,3g2,mj2``; for an image Pillow's
            name of the format in lower case, such as ``jpeg``.
        codec: FFmpeg's name of the coding, such as ``h264``; for an image the same as ``container``.
        width: pixels per row as displayed: turned upright, and stretched to square pixels.
        height: rows of pixels as displayed.
        fps: average frames per second that the file states; 0 for an image, which has no time.
        num_frames: displayed frames that decode. Each number below it can be given to the reader. 1 for an image.
        duration_s: seconds that the file states or ``num_frames / fps``, the longer one: MPEG program streams state
            nothing, and FFmpeg's estimate leaves frames out; files with pauses hold fewer frames than their rate says.
            0 for an image.
        size_bytes: size of the file.
        sha256: hash of the file's bytes.
        rotation: degrees clockwise that the coded picture is turned by to be upright: 0, 90, 180 or 270.
        mirrored: whether the coded picture is mirrored from left to right, before it is turned.
        sample_aspect: width of a coded pixel per height; 1 is square. Applied to ``width``.
        stream: number of the video stream that is read, among all streams of the file; 0 for an image.
        perceptual_hash: 48 hexadecimal digits: :mod:`~umt_pipeline.video.perceptual` of the frames at one, three and five
            sixths of the length; for an image three times the same; "" where no frame was decoded.
    """

    media: Media
    container: str
    codec: str
    width: int
    height: int
    fps: float
    num_frames: int
    duration_s: float
    size_bytes: int
    sha256: str
    rotation: int = 0
    mirrored: bool = False
    sample_aspect: float = 1.0
    stream: int = 0
    perceptual_hash: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file was not accepted: the parts of a :class:`~umt_pipeline.core.errors.VideoError`, which is no value.

    Attributes:
        reason: one of :class:`Reason`.
        detail: what was expected and what was found.
    """

    reason: str
    detail: str


def is_image(path: Path | str) -> bool:
    """Tell whether a file is opened as a still image, by its suffix in any case; all others are opened as videos."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def check_file(path: Path) -> os.stat_result:
    """Return the state of a file that exists, can be read and is not empty. Pipes and devices are never opened.

    Raises:
        VideoError: it is something else.
    """
    try:
        if not path.is_file():
            other = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "nothing"
            raise VideoError(Reason.MISSING_FILE, f"expected a file, found {other}")
        with path.open("rb"):
            state = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or error
        raise VideoError(Reason.UNREADABLE_FILE, f"the file cannot be opened ({cause})") from error
    if state.st_size == 0:
        raise VideoError(Reason.EMPTY_FILE, "the file has 0 bytes")
    return state


def check_unchanged(path: Path, state: os.stat_result) -> None:
    """Refuse a file that is not what it was when its ``state`` was taken: what was found is not true of one content.

    Raises:
        VideoError: its size or time of change is another, or it is gone.
    """
    now = path.stat() if path.is_file() else None
    if now is None or (now.st_size, now.st_mtime_ns) != (state.st_size, state.st_mtime_ns):
        found = "gone" if now is None else f"of {now.st_size} bytes"
        detail = f"the file was changed while it was read: it was of {state.st_size} bytes, and is now {found}"
        raise VideoError(Reason.FILE_CHANGED, f"{detail}; wait until it is written, then run again")
