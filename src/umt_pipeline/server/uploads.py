"""Uploaded files: on disk only while they are looked at, and decoded where nothing that they do harms the server."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from fastapi import UploadFile

from umt_pipeline.server.decoding import check_clip, read_clip
from umt_pipeline.server.limits import Few, Limits, RefusedError
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.video.media import Reason, Refusal
from umt_pipeline.video.views import ViewConfig

# The first bytes of still images -> the suffix by which they are opened as such; what a sender calls a file is his affair.
_IMAGES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
# What is no video at all; others are videos that something is wrong with.
_OTHER_TYPES = {
    Reason.WRONG_MEDIA, Reason.NOT_A_VIDEO, Reason.NO_VIDEO_STREAM, Reason.UNKNOWN_CODEC, Reason.NOT_AN_IMAGE,
    Reason.ANIMATED_IMAGE,
}  # fmt: skip


class Uploads:
    """Takes files in, a few at a time.

    Args:
        limits: of size, number and decoding.
        metrics: are told what was refused.
        folder: that they lie in meanwhile; None: where temporary files are.
    """

    def __init__(self, limits: Limits, metrics: Metrics, folder: Path | None = None) -> None:
        self._limits, self._metrics, self._folder = limits, metrics, folder
        refused = metrics.refused.labels("uploads").inc
        self._few = Few(limits.uploads, 2 * limits.uploads, "files are looked at, or wait for it,", refused)

    @asynccontextmanager
    async def file(self, upload: UploadFile) -> AsyncIterator[Path]:
        """Yield a path with an uploaded file's content; it is gone when the block ends.

        Raises:
            RefusedError: 503: too many files are looked at.
        """
        async with self._few.turn():
            with tempfile.TemporaryDirectory(prefix="umt-upload-", dir=self._folder) as folder:
                yield await asyncio.to_thread(_written, upload, Path(folder))

    async def frames(self, path: Path, view: ViewConfig) -> np.ndarray:
        """Return frames of an uploaded file, uint8 [T, S, S, 3].

        Raises:
            RefusedError: 415: it is no video; 422: it cannot be read; with the reason.
        """
        found = await asyncio.to_thread(read_clip, path, view, self._limits.decoding)
        return self._accepted(found)

    async def check(self, path: Path) -> None:
        """Decode all of an uploaded file, for a model that reads it itself.

        Raises:
            RefusedError: see :meth:`frames`.
        """
        self._accepted(await asyncio.to_thread(check_clip, path, self._limits.decoding))

    def _accepted(self, found: np.ndarray | bool | Refusal) -> np.ndarray:
        if isinstance(found, Refusal):
            self._metrics.uploads.labels(found.reason).inc()
            raise RefusedError(
                415 if found.reason in _OTHER_TYPES else 422, f"the uploaded file: {found.reason}: {found.detail}"
            )
        return np.asarray(found)


def _written(upload: UploadFile, folder: Path) -> Path:
    start = upload.file.read(16)
    upload.file.seek(0)
    suffix = next((suffix for mark, suffix in _IMAGES.items() if start.startswith(mark)), ".video")
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        suffix = ".webp"
    path = folder / f"upload{suffix}"
    with path.open("wb") as handle:
        shutil.copyfileobj(upload.file, handle)
    return path
