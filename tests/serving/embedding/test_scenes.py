"""A scene change is where one is, to the frame; a file is decoded to its end on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.filmed import write_film
from umt_pipeline.serving.embedding.scenes import look, looking
from umt_pipeline.serving.embedding.shelf import Looked
from umt_pipeline.video.guarded import ReadLimits, run_guarded
from umt_pipeline.video.media import Refusal


def seen(path: Path, threshold: float | None = 0.3) -> Looked:
    found = look(path, lambda _: None, threshold)
    assert isinstance(found, Looked), found
    return found


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264"), (".ts", "libx264")])
def test_scene_changes_are_found_to_the_frame(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_film(tmp_path / f"film{suffix}", [("red", 2.5), ("blue", 1.5), ("white", 3.0)], codec=codec)
    found = seen(path)
    assert found.scenes == pytest.approx((2.5, 4.0))
    assert found.duration_s == pytest.approx(7.0)
    assert seen(path, None) == Looked(found.duration_s, ())


def test_one_scene_has_no_change(tmp_path: Path) -> None:
    assert seen(write_film(tmp_path / "film.mp4", [("green", 3.0)])).scenes == ()


def test_what_does_not_decode_is_refused_in_a_process_of_its_own(tmp_path: Path) -> None:
    good = write_film(tmp_path / "good.mp4", [("red", 1.0), ("white", 1.0)])
    bad = write_film(tmp_path / "bad.mp4", [("red", 6.0)])
    content = bytearray(bad.read_bytes())
    middle = (content.index(b"mdat") + content.index(b"moov")) // 2
    content[middle : middle + 900] = b"\xff" * 900
    bad.write_bytes(content)
    found = dict(run_guarded(looking(0.3), [good, bad, tmp_path / "none.mp4"], ReadLimits(), workers=2))
    assert found[0] == Looked(pytest.approx(2.0), (pytest.approx(1.0),))
    assert isinstance(found[1], Refusal)
    assert found[1].reason == "corrupt_frame"
    assert isinstance(found[2], Refusal)
    assert found[2].reason == "missing_file"
