"""A stand-in for a decoder that crashes; by itself, so that the processes of the test start quickly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.probing import Refusal


def die_at_bad(path: Path, rules: VideoRules) -> Refusal:
    """Kill this process if the file is called ``bad``."""
    if path.name == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return Refusal("seen", path.name)
