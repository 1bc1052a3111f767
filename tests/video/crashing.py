"""Decoding that kills its process, for other processes to import; what the file's name says is done."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from umt_pipeline.video import decode
from umt_pipeline.video.decode import Loaded
from umt_pipeline.video.views import View


def behave(path: Path, views: Sequence[View]) -> list[Loaded]:
    """Do what the file's name says, and write down in the file that it was begun."""
    before = len(path.read_bytes())
    with path.open("ab") as handle:
        handle.write(b"x")
    kind = path.stem.partition("-")[0]
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "once" and not before:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "damaged":
        return [("corrupt_frame", "as its name says")] * len(views)
    return [np.full((len(view.frame_indices), 2, 2, 3), ord(path.stem[0]), dtype=np.uint8) for view in views]


def load(path: Path, views: Sequence[View]) -> list[Loaded]:
    """Decode, unless the file is one that crashes its decoder."""
    if path.read_bytes() == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode._load(path, views)


def die(*_: object) -> None:
    """End, as a process does that cannot be started."""
    os._exit(3)
