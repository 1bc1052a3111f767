"""Vectors of the windows of many videos, file by file into a shelf.

Files are decoded ahead in threads while the model encodes. A batch holds windows of several short files, or a part of a long
one; a file is put onto the shelf when its last window is encoded. What cannot be read is a failure with its reason.

Shapes: B windows of a batch, T frames, S side of a view in pixels, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.identity import code_key, fingerprint
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.shelf import Shelf
from umt_pipeline.serving.window_frames import WindowReader
from umt_pipeline.serving.windows import Window, WindowRule
from umt_pipeline.video.media import Reason, Refusal, VideoInfo
from umt_pipeline.video.probe_cache import FileState

CODE = ("serving.embedding", "serving.scenes")


@dataclass(frozen=True)
class Video:
    """A file to be embedded.

    Args:
        path: the file.
        state: that it was in before it was looked at.
        info: what it is.
        windows: in order.
    """

    path: Path
    state: FileState
    info: VideoInfo
    windows: tuple[Window, ...]


class _Piece(NamedTuple):
    """A part of a file that is read at once."""

    number: int
    part: int


_Batch = tuple[_Piece, ...]
_Read = dict[_Piece, np.ndarray | Refusal]


def identity_of(embedder: Embedder, rule: WindowRule) -> str:
    """Return 16 hex digits of what the vectors of a file depend on besides its bytes: model, rule, code."""
    return fingerprint(embedder.key, rule.model_dump(mode="json"), code_key(*CODE))


def embed_videos(
    embedder: Embedder, videos: Sequence[Video], shelf: Shelf, batch_size: int, threads: int
) -> dict[str, Refusal]:
    """Embed videos; each is on the shelf when it is done.

    Args:
        embedder: the model.
        videos: each content once.
        shelf: where the vectors go, by the SHA-256 of the file.
        batch_size: windows that are encoded at once, B.
        threads: that decode.

    Returns:
        Why videos could not be read, by their SHA-256.
    """
    readers = [WindowReader(video.path, video.info, embedder.view, video.windows, batch_size) for video in videos]
    work = _Work(videos, readers, shelf)

    def load(batch: _Batch) -> _Read:
        return {piece: _load(readers[piece.number], piece.part) for piece in batch}

    with progress("embedding", sum(len(video.windows) for video in videos), "window") as show:
        show(0)
        # So many batches wait for the model that each thread has one.
        for read, _ in decoded(list(_batches(readers, batch_size)), load, -(-threads // 2), threads):
            for pieces in read.values():
                vectors = _encoded(embedder, pieces)
                for piece, found in pieces.items():
                    work.take(piece, found if isinstance(found, Refusal) else vectors[piece])
                show(work.windows)
    return work.failures


class _Work:
    """Puts the vectors of files together, part by part in their order, and onto the shelf when they are whole.

    Attributes:
        failures: by SHA-256 of a file, why it could not be read.
        windows: that are done.
    """

    def __init__(self, videos: Sequence[Video], readers: Sequence[WindowReader], shelf: Shelf) -> None:
        self._videos, self._readers, self._shelf = videos, readers, shelf
        self._parts: list[np.ndarray] = []
        self.failures: dict[str, Refusal] = {}
        self.windows = 0

    def take(self, piece: _Piece, found: np.ndarray | Refusal) -> None:
        """Take the vectors of the next part, or why it could not be read."""
        video, reader = self._videos[piece.number], self._readers[piece.number]
        self.windows += len(reader.parts[piece.part])
        if isinstance(found, Refusal):
            self.failures.setdefault(video.info.sha256, found)
        else:
            self._parts.append(found)
        if piece.part + 1 < len(reader.parts):
            return
        reader.close()
        own, self._parts = self._parts, []
        if video.info.sha256 in self.failures:
            return
        if FileState.of(video.path) == video.state:
            self._shelf.put(video.info.sha256, video.windows, np.concatenate(own))
        else:
            detail = f"{video.path}: the file was changed while it was read; run again when it is written"
            self.failures[video.info.sha256] = Refusal(Reason.FILE_CHANGED.value, detail)


def _batches(readers: Sequence[WindowReader], batch_size: int) -> Iterator[_Batch]:
    """Divide the parts of all readers, in order, so that no batch has more windows than ``batch_size``."""
    waiting: list[_Piece] = []
    windows = 0
    for number, reader in enumerate(readers):
        for part, of_part in enumerate(reader.parts):
            if waiting and windows + len(of_part) > batch_size:
                yield tuple(waiting)
                waiting, windows = [], 0
            waiting.append(_Piece(number, part))
            windows += len(of_part)
    if waiting:
        yield tuple(waiting)


def _load(reader: WindowReader, part: int) -> np.ndarray | Refusal:
    try:
        return reader.read(part)
    except VideoError as error:
        return Refusal(str(error.reason), error.detail)
    except Exception as error:  # decoders raise what they like; one file does not end the work, and none is dropped unseen
        return Refusal(Reason.UNREADABLE_FILE.value, f"{reader.path}: {type(error).__name__}: {error}")


def _encoded(embedder: Embedder, pieces: _Read) -> dict[_Piece, np.ndarray]:
    frames = {piece: found for piece, found in pieces.items() if not isinstance(found, Refusal)}
    if not frames:
        return {}
    vectors_BE = embedder.encode_clips(torch.from_numpy(np.concatenate(list(frames.values())))).numpy()
    ends = np.cumsum([len(found) for found in frames.values()])
    return dict(zip(frames, np.split(vectors_BE, ends[:-1]), strict=True))
