"""The frame of a second, wherever one can begin to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.video_files import number_shown, write_video
from umt_pipeline.server.pictures import frame_at

# Refreshed a few columns at a time: no frame after the first stands for itself, though some say so.
NO_KEYFRAMES = {"x264-params": "intra-refresh=1:keyint=20:min-keyint=20:bframes=0:scenecut=0"}


@pytest.mark.parametrize("options", [{}, {"g": "10"}, NO_KEYFRAMES], ids=["one keyframe", "keyframes", "no keyframes"])
def test_the_frame_of_a_second_is_the_one_a_player_shows(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_video(tmp_path / "a.mp4", 60, fps=10, height=96, width=128, options=options)
    for second, number in ((0.0, 0), (0.05, 0), (2.25, 22), (4.25, 42), (5.95, 59), (9.0, 59)):
        assert number_shown(frame_at(path, second)) == number
