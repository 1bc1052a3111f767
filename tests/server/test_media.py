"""Files on their way to a browser: unchanged since they were indexed, and in a form that it can play."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.video_files import number_shown, write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.server import media
from umt_pipeline.server.decoding import check_clip, read_clip, transcode_for_browsers
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.media import IndexedFile, Unchanged, playable_type
from umt_pipeline.server.pictures import frame_at, seen, thumbnail
from umt_pipeline.video.guarded import ReadLimits
from umt_pipeline.video.media import Refusal
from umt_pipeline.video.views import ViewConfig

LIMITS = ReadLimits(seconds=60)


def indexed(path: Path) -> IndexedFile:
    return IndexedFile(sha256_file(path), path)


def refusal(unchanged: Unchanged, file: IndexedFile) -> int:
    with pytest.raises(RefusedError) as refused:
        unchanged.path(file)
    assert str(file.path.parent) not in refused.value.detail, "who asks need not know folders"
    return refused.value.status


def test_a_file_is_given_as_long_as_it_is_what_was_indexed(tmp_path: Path) -> None:
    file = indexed(write_video(tmp_path / "a.mp4"))
    unchanged = Unchanged()
    assert unchanged.path(file) == file.path
    os.utime(file.path, (1, 1))
    assert unchanged.path(file) == file.path, "touched, and the same"
    state = file.path.stat()
    content = bytearray(file.path.read_bytes())
    content[-1] ^= 1
    file.path.write_bytes(content)
    os.utime(file.path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert refusal(unchanged, file) == 409, "another content, of the same size and date"
    file.path.unlink()
    assert refusal(unchanged, file) == 410
    file.path.mkdir()
    assert refusal(unchanged, file) == 410


def test_a_file_is_hashed_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = indexed(_written(tmp_path / "a.mp4", b"content"))
    hashed = []

    def slowly(path: Path) -> str:
        hashed.append(path)
        time.sleep(0.2)
        return file.file_id

    monkeypatch.setattr(media, "sha256_file", slowly)
    unchanged = Unchanged()
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(lambda _: unchanged.path(file), range(4)))) == 1
    assert len(hashed) == 1


def test_a_link_is_followed_only_to_what_was_indexed(tmp_path: Path) -> None:
    target, secret = write_video(tmp_path / "cache" / "a.mp4"), tmp_path / "secret.txt"
    secret.write_text("secret")
    link = tmp_path / "media" / "a.mp4"
    link.parent.mkdir()
    link.symlink_to(target)
    unchanged, file = Unchanged(), IndexedFile(sha256_file(target), link)
    assert unchanged.path(file) == target
    link.unlink()
    link.symlink_to(secret)
    assert refusal(unchanged, file) == 409
    link.unlink()
    link.symlink_to(link)
    assert refusal(unchanged, file) == 410


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("a.mp4", "libx264", "video/mp4"),
        ("a.avi", "libx264", None),
        ("a.avi", "mpeg4", None),
        ("a.mp4", "mpeg4", None),
        ("a.webm", "libvpx-vp9", "video/webm"),
        ("wrong.txt", "libx264", None),
    ],
)
def test_what_browsers_play_is_given_as_it_is(tmp_path: Path, name: str, codec: str, expected: str | None) -> None:
    if name == "wrong.txt":
        path = write_video(tmp_path / "a.mp4", codec=codec).rename(tmp_path / name)
        expected = "video/mp4"
    else:
        path = write_video(tmp_path / name, codec=codec)
    assert playable_type(path) == expected


def test_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16)).save(path, "PNG")
    assert playable_type(path) == "image/png"
    path.write_text("<script>")
    with pytest.raises(VideoError, match="expected an image"):
        playable_type(path)


def test_the_frame_of_a_second_is_shown(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.avi", "mpeg4")):
        path = write_video(tmp_path / name, num_frames=48, fps=24, codec=codec, options={"g": "12"})
        assert number_shown(frame_at(path, 0)) == 0
        assert number_shown(frame_at(path, 1.01)) == 24
        assert number_shown(frame_at(path, 1000)) == 47, "the last one, after the end"
    with Image.open(_written(tmp_path / "t.jpg", thumbnail(path, 1.0))) as picture:
        assert picture.format == "JPEG"
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(VideoError):
        thumbnail(tmp_path / "broken.mp4", 0)


def test_what_was_looked_at_is_bright(tmp_path: Path) -> None:
    weights = np.zeros((2, 2), dtype=np.float32)
    weights[0, 1] = 1
    with Image.open(_written(tmp_path / "a.jpg", seen(np.full((32, 32, 3), 200, np.uint8), weights))) as picture:
        light = np.asarray(picture.convert("L"), dtype=float)
    half = len(light) // 2
    assert light[:half, half:].mean() > 2 * light[half:, :half].mean()


def test_what_browsers_cannot_play_is_made_playable(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.avi", num_frames=30, codec="mpeg4", height=600, width=800)
    target = tmp_path / "a.mp4"
    assert transcode_for_browsers(source, target, LIMITS) is None
    assert playable_type(target) == "video/mp4"
    with av.open(str(target)) as container:
        assert (container.streams.video[0].height, container.streams.video[0].frames) == (480, 30)
    source.write_bytes(source.read_bytes()[:3000])
    found = transcode_for_browsers(source, tmp_path / "b.mp4", LIMITS)
    assert isinstance(found, Refusal)
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.slow
def test_uploads_are_read_in_a_process_that_may_die(tmp_path: Path) -> None:
    view = ViewConfig(frames=2, size=32)
    frames = read_clip(write_video(tmp_path / "a.mp4"), view, LIMITS)
    assert isinstance(frames, np.ndarray)
    assert frames.shape == (2, 32, 32, 3)
    (tmp_path / "a.video").write_bytes(b"no film at all")
    for found in (read_clip(tmp_path / "a.video", view, LIMITS), check_clip(tmp_path / "a.video", LIMITS)):
        assert isinstance(found, Refusal)
        assert found.reason == "not_a_video"
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    found = read_clip(tmp_path / "a.png", view, LIMITS)
    assert isinstance(found, Refusal)
    assert found.reason == "too_small"
    # 12,000 x 12,000 pixels: 432 MB as RGB, of 600 kB.
    Image.new("RGB", (12_000, 12_000)).save(tmp_path / "bomb.png")
    found = read_clip(tmp_path / "bomb.png", view, ReadLimits(seconds=60, memory_mib=400))
    assert isinstance(found, Refusal)
    assert found.reason in ("out_of_memory", "too_large")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
