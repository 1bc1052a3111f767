"""Files of an index on their way to a browser: only those, only as they were indexed, and in a form that it can play."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.video.media import is_image

# Container, coding, and the sound that it may have -> what it is called. Others are transcoded.
_MP4_VIDEO, _MP4_SOUND = {"h264", "av1", "vp9"}, {"aac", "mp3", "opus", "flac"}
_WEBM_VIDEO, _WEBM_SOUND = {"vp8", "vp9", "av1"}, {"opus", "vorbis"}
_PIXELS = {"yuv420p", "yuvj420p"}
_IMAGES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"BM": "image/bmp",
    b"RIFF": "image/webp",
    b"GIF8": "image/gif",
}
# Who asks need not know folders.
_AGAIN = "index the folder again: `umt index FOLDER --model MODEL --out INDEX`"


@dataclass(frozen=True)
class IndexedFile:
    """A file of an index.

    Attributes:
        file_id: SHA-256 of its content.
        path: where it was when it was indexed.
    """

    file_id: str
    path: Path


class Unchanged:
    """Tells whether files have the content that they were indexed with; each is hashed once, and again when it was touched."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, ...]] = {}
        self._turns: dict[tuple[str, str], threading.Lock] = {}

    def path(self, file: IndexedFile) -> Path:
        """Return where a file is, with all links resolved.

        A link may lead wherever it likes (DVC's lead into its cache): what is behind it is what was indexed, or is refused.

        Raises:
            RefusedError: 410: it is gone, or cannot be read; 409: its content is another.
        """
        name = f"file {file.file_id[:12]}… ({file.path.name})"
        try:
            path = file.path.resolve(strict=True)
            state = _state(path)
            if state is None:
                raise RefusedError(410, f"{name}: expected a file, found something else; {_AGAIN}")
            key = file.file_id, str(path)
            # A page asks for many pictures of a long film at the same time: one hashes it, the others wait.
            with self._turns.setdefault(key, threading.Lock()):
                if self._known.get(key) != state:
                    if sha256_file(path) != file.file_id or _state(path) != state:
                        raise RefusedError(409, f"{name}: its content is not what was indexed; {_AGAIN}")
                    self._known[key] = state
        except (OSError, RuntimeError) as error:
            # RuntimeError's own words have the path in them, which is nobody's business.
            reason = getattr(error, "strerror", None) or "its links lead in a circle"
            raise RefusedError(410, f"{name}: it was there when it was indexed, now: {reason}; {_AGAIN}") from error
        return path


def _state(path: Path) -> tuple[int, ...] | None:
    found = path.stat()
    # The time of the last change of anything about it, which nobody can set, tells of a change that keeps size and date.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) if path.is_file() else None


def playable_type(path: Path) -> str | None:
    """Return the media type of a file that browsers can show, by its content; None: it has to be transcoded.

    Raises:
        VideoError: it is neither video nor image.
    """
    if is_image(path):
        with path.open("rb") as handle:
            start = handle.read(16)
        for mark, media_type in _IMAGES.items():
            if start.startswith(mark):
                return media_type
        raise VideoError("not_an_image", f"{path}: expected an image, found a file that begins with {start!r}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            names = set(container.format.name.split(","))
            videos, sounds = _codings(container.streams.video), _codings(container.streams.audio)
            pixels = {stream.codec_context.pix_fmt for stream in container.streams.video if stream.codec_context}
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError("not_a_video", f"{path}: {error}") from error
    if len(videos) != 1 or not pixels <= _PIXELS:
        return None
    if "mp4" in names and videos <= _MP4_VIDEO and sounds <= _MP4_SOUND:
        return "video/mp4"
    if "webm" in names and videos <= _WEBM_VIDEO and sounds <= _WEBM_SOUND:
        return "video/webm"
    return None


def _codings(streams: Iterable[Any]) -> set[str]:
    return {stream.codec_context.codec.canonical_name if stream.codec_context else "unknown" for stream in streams}
