"""What videos and images have in common: what is known about a file, why one is refused, and which decoder it is for.

Which decoder is tried is decided by the file's suffix alone, by :func:`is_image`, whenever a file is opened: so what was
checked and what is read later cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError

Media = Literal["video", "image"]

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
    TRUNCATED = "truncated"
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
        min_side: smallest width and height in pixels, of videos and images.
    """

    min_frames: int = Field(default=4, ge=1)
    min_side: int = Field(default=32, ge=1)

    def require_side(self, width: int, height: int) -> None:
        """Refuse a picture that is too small.

        Raises:
            VideoError: a side is below ``min_side``.
        """
        if min(width, height) < self.min_side:
            found = f"{width} x {height} pixels"
            raise VideoError(Reason.TOO_SMALL, f"expected at least {self.min_side} pixels a side, found {found}")


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video or image after all of it was decoded.

    Attributes:
        media: ``video`` or ``image``.
        container: FFmpeg's short name of the container format, such as ``mov,mp4,m4a,3gp,3g2,mj2``; for an image Pillow's
            name of the format in lower case, such as ``jpeg``.
        codec: FFmpeg's name of the coding, such as ``h264``; for an image the same as ``container``.
        width: pixels per row, for an image after it was turned upright.
        height: rows of pixels.
        fps: average frames per second that the file states; 0 for an image, which has no time.
        num_frames: frames that decode. Each number below it can be given to the reader. 1 for an image.
        duration_s: seconds that the file states or ``num_frames / fps``, the longer one: MPEG program streams state
            nothing, and FFmpeg's estimate leaves frames out; files with pauses hold fewer frames than their rate says.
            0 for an image.
        size_bytes: size of the file.
        sha256: hash of the file's bytes.
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


@dataclass(frozen=True)
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


def check_file(path: Path) -> int:
    """Return the size in bytes of a file that exists, can be read and is not empty.

    Raises:
        VideoError: it is something else.
    """
    try:
        if not path.is_file():
            raise VideoError(
                Reason.MISSING_FILE, f"expected a file, found {'a folder' if path.is_dir() else 'nothing'}"
            )
        with path.open("rb"):
            size_bytes = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        cause = getattr(error, "strerror", None) or error
        raise VideoError(Reason.UNREADABLE_FILE, f"the file cannot be opened ({cause})") from error
    if size_bytes == 0:
        raise VideoError(Reason.EMPTY_FILE, "the file has 0 bytes")
    return size_bytes
