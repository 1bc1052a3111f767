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
    batches = list(_batches(readers, batch_size))
    failures: dict[str, Refusal] = {}
    parts: dict[int, list[np.ndarray]] = {}
    done = 0

    def load(batch: _Batch) -> _Read:
        return {piece: _load(readers[piece.number], piece.part) for piece in batch}

    with progress("embedding", sum(len(video.windows) for video in videos), "window") as show:
        show(0)
        # So many batches wait for the model that each thread has one.
        for read, _ in decoded(batches, load, -(-threads // 2), threads):
            for pieces in read.values():
                vectors = _encoded(embedder, pieces)
                for piece, found in pieces.items():
                    video = videos[piece.number]
                    done += len(readers[piece.number].parts[piece.part])
                    if isinstance(found, Refusal):
                        failures.setdefault(video.info.sha256, found)
                        continue
                    parts.setdefault(piece.number, []).append(vectors[piece])
                    if piece.part + 1 < len(readers[piece.number].parts):
                        continue
                    own = parts.pop(piece.number)
                    if FileState.of(video.path) != video.state:
                        detail = f"{video.path}: the file was changed while it was read; run again when it is written"
                        failures.setdefault(video.info.sha256, Refusal(Reason.FILE_CHANGED.value, detail))
                    elif video.info.sha256 not in failures:
                        shelf.put(video.info.sha256, video.windows, np.concatenate(own))
            show(done)
    return failures


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
