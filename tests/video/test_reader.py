from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.video.odd_files import pictures, write_pictures
from tests.video_files import number_shown, numbered_frame, write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.video import reader
from umt_pipeline.video.container import read_header
from umt_pipeline.video.decoders import read_in_order
from umt_pipeline.video.media import Depth, Reason, Refusal, VideoInfo, VideoRules
from umt_pipeline.video.perceptual import hashed_frames, perceptual_hash
from umt_pipeline.video.probing import try_probe
from umt_pipeline.video.reader import probe, read_frames

RULES = VideoRules()
DEPTHS: tuple[Depth, ...] = ("header", "sample", "full")
NAMES = ("plain.mp4", "old.avi", "tape.mpg", "web.mkv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    # Several groups of pictures with B-frames: seeking has something to get wrong.
    write_video(folder / "plain.mp4", 40, options={"g": "12", "bf": "2"})
    write_video(folder / "old.avi", 40, codec="mpeg4", options={"g": "12", "bf": "2"})
    write_video(folder / "tape.mpg", 40, fps=25, codec="mpeg2video", options={"g": "12", "bf": "2"})
    write_video(folder / "web.mkv", 40, options={"g": "12"})
    return folder


@pytest.fixture(scope="module")
def broken(folder: Path) -> list[tuple[Path, str]]:
    (folder / "broken").mkdir()
    return [
        (folder / "broken" / name, reason)
        for name, reason in write_broken_files(folder / "broken", folder / "plain.mp4", seed=3)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_probe_describes_a_good_file(folder: Path, name: str) -> None:
    info = probe(folder / name, RULES)
    assert (info.width, info.height, info.num_frames) == (64, 48, 40)
    assert info.fps == pytest.approx(25 if name == "tape.mpg" else 24, rel=0.01)
    assert info.duration_s == pytest.approx(40 / 24, rel=0.1)
    assert info.size_bytes == (folder / name).stat().st_size
    assert info.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert info.codec == {"plain.mp4": "h264", "old.avi": "mpeg4", "tape.mpg": "mpeg2video", "web.mkv": "h264"}[name]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, 39), min_size=1, max_size=6))
def test_frames_are_the_ones_asked_for(folder: Path, name: str, indices: list[int]) -> None:
    frames = read_frames(folder / name, indices)
    assert frames.shape == (len(indices), 48, 64, 3)
    assert frames.dtype == np.uint8
    assert [number_shown(frame) for frame in frames] == indices


def test_decoding_in_order_gives_the_same_pixels(folder: Path) -> None:
    fast = read_frames(folder / "plain.mp4", [3, 17, 38])
    np.testing.assert_array_equal(fast, read_in_order(folder / "plain.mp4", read_header(folder / "plain.mp4"), [3, 17, 38]))


@pytest.mark.parametrize("name", ['été "clip", №1 100%.mp4', "视频/片段.mp4", "a;b#c?d&e.mp4", " leading space.mp4"])
def test_any_file_name_can_be_read(folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "plain.mp4", path)
    assert probe(path, RULES).num_frames == 40
    assert number_shown(read_frames(path, [5])[0]) == 5


def test_each_broken_file_is_refused_for_its_reason(broken: list[tuple[Path, str]]) -> None:
    found = {}
    for path, _ in broken:
        refusal = try_probe(path, RULES)
        assert isinstance(refusal, Refusal)
        assert refusal.detail
        assert str(path.parent) not in refusal.detail  # reject tables are the same on every machine
        found[path.name] = refusal.reason
    assert found == {path.name: reason for path, reason in broken}
    assert len(set(found.values())) >= 7


def test_broken_files_are_the_same_for_the_same_seed(folder: Path, broken: list[tuple[Path, str]]) -> None:
    again = folder / "again"
    again.mkdir()
    write_broken_files(again, folder / "plain.mp4", seed=3)
    for path, _ in broken:
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_first_bad_frame_is_named(folder: Path, broken: list[tuple[Path, str]]) -> None:
    corrupt = next(path for path, _ in broken if path.name == "corrupt_middle.mp4")
    with pytest.raises(VideoError, match=r"frame (\d+) of 40 does not decode") as caught:
        probe(corrupt, RULES)
    first_bad = int(caught.value.detail.split()[1])
    # The middle third is damaged; B-frames move a coded frame by at most two places.
    assert 11 <= first_bad <= 15
    good = read_in_order(corrupt, read_header(corrupt), list(range(first_bad - 3)))
    assert [number_shown(frame) for frame in good] == list(range(first_bad - 3))


def test_damage_in_a_container_without_times_is_found(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "old.avi").read_bytes())
    with av.open(str(folder / "old.avi")) as container:
        for entry in list(container.streams.video[0].index_entries)[15:20]:
            content[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    (tmp_path / "damaged.avi").write_bytes(content)
    with pytest.raises(
        VideoError, match=r"frame \d+ of 40 does not decode|of 40 coded frames give no picture"
    ) as caught:
        probe(tmp_path / "damaged.avi", RULES)
    assert caught.value.reason == Reason.CORRUPT_FRAME


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_damage_anywhere_never_raises_anything_else(folder: Path, data: st.DataObject, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + 64] = data.draw(st.binary(min_size=1, max_size=64))
    path = folder / f"fuzzed{Path(name).suffix}"
    path.write_bytes(content)
    result = try_probe(path, RULES)
    if isinstance(result, VideoInfo):
        frames = read_frames(path, [0, result.num_frames - 1])
        assert frames.shape == (2, result.height, result.width, 3)
    else:
        assert result.reason in list(Reason)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path, found in ((tmp_path / "no.mp4", "nothing"), (tmp_path / "folder.mp4", "a folder")):
        for call in (lambda path=path: probe(path, RULES), lambda path=path: read_frames(path, [0])):
            with pytest.raises(VideoError, match=f"expected a file, found {found}") as caught:
                call()
            assert caught.value.reason == Reason.MISSING_FILE


def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")  # to open it would wait for a writer, for ever
    for depth in DEPTHS:
        refusal = try_probe(tmp_path / "x.mp4", VideoRules(depth=depth))
        assert isinstance(refusal, Refusal)
        assert (refusal.reason, "found a pipe or device" in refusal.detail) == (Reason.MISSING_FILE, True)
    with pytest.raises(VideoError, match="found a pipe or device"):
        read_frames(tmp_path / "x.mp4", [0])


def test_a_file_that_may_not_be_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    shutil.copy(folder / "plain.mp4", tmp_path / "x.mp4")
    monkeypatch.setattr(Path, "open", refuse)  # not by the file's mode: root may read everything
    refusal = try_probe(tmp_path / "x.mp4", RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.UNREADABLE_FILE
    assert refusal.detail == "the file cannot be opened (Permission denied)"


@pytest.mark.parametrize("change", ["longer", "another", "gone"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "x.mp4"
    shutil.copy(folder / "plain.mp4", path)

    def hash_and_change(hashed: Path) -> str:
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes() + (b"more" if change == "longer" else b""))
            os.utime(path, ns=(1, 1))
        return "0" * 64

    monkeypatch.setattr(reader, "sha256_file", hash_and_change)
    with pytest.raises(VideoError, match=r"changed while it was read.* wait until it is written") as caught:
        probe(path, RULES)
    assert caught.value.reason == Reason.FILE_CHANGED


@pytest.mark.parametrize("name", NAMES)
def test_each_depth_tells_the_same_of_a_good_file(folder: Path, name: str) -> None:
    full = probe(folder / name, RULES)
    if name == "tape.mpg":
        for depth in ("header", "sample"):
            with pytest.raises(VideoError, match="only `depth: full` can tell") as caught:
                probe(folder / name, VideoRules(depth=depth))
            assert caught.value.reason == Reason.UNKNOWN_LENGTH
        return
    assert probe(folder / name, VideoRules(depth="sample")) == full
    assert probe(folder / name, VideoRules(depth="header")) == replace(full, perceptual_hash="")


def test_what_each_depth_finds(folder: Path, broken: list[tuple[Path, str]]) -> None:
    content = bytearray((folder / "plain.mp4").read_bytes())
    with av.open(str(folder / "plain.mp4")) as container:
        entries = list(container.streams.video[0].index_entries)
    # Behind the frame of the first group that a sample looks at, before the next group.
    unused = min(entries[9:11], key=lambda entry: entry.size)
    content[unused.pos + 4 : unused.pos + unused.size] = b"\xff" * (unused.size - 4)
    (folder / "hidden_damage.mp4").write_bytes(content)
    found = {
        path.name: [getattr(try_probe(path, VideoRules(depth=depth)), "reason", "") for depth in DEPTHS]
        for path in (folder / "hidden_damage.mp4", *(path for path, _ in broken))
    }
    for path, reason in broken:
        # Damage inside coded frames is the one thing that a header does not show.
        expected = ["" if path.name == "corrupt_middle.mp4" else reason, reason, reason]
        assert found[path.name] == expected, path.name
    assert found["hidden_damage.mp4"] == ["", "", Reason.CORRUPT_FRAME]


def test_a_sample_of_a_file_that_lists_too_many_frames_decodes_all(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    content = (folder / "old.avi").read_bytes()
    index = content.rindex(b"idx1")
    (size,) = struct.unpack_from("<I", content, index + 4)
    listed = content[index + 8 : index + 8 + size]
    path.write_bytes(content[: index + 4] + struct.pack("<I", size + 16) + listed + listed[-16:] + content[index + 8 + size :])
    sample, full = (probe(path, VideoRules(depth=depth)) for depth in ("sample", "full"))
    assert sample == full
    assert read_frames(path, [full.num_frames - 1]).shape == (1, 48, 64, 3)


def test_frames_are_counted_in_order_whatever_their_distance_in_time(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 40, 41, 43, 90, 91, 92, 100]
    drawn = np.stack([numbered_frame(number) for number in range(12)])
    for suffix in ("mp4", "mkv"):
        path = write_pictures(tmp_path / f"x.{suffix}", drawn, times=times)
        info = probe(path, RULES)
        assert info.num_frames == 12
        assert info.duration_s == pytest.approx(101 / 24, rel=0.1)
        assert info.fps == pytest.approx(12 / info.duration_s, rel=0.2) or suffix == "mkv"
        assert [number_shown(read_frames(path, [number])[0]) for number in range(12)] == list(range(12))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("ten.mp4", "libx264", "yuv420p10le", {}),
        ("ten_hevc.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("fields.mp4", "libx264", "yuv420p", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
        ("fields.mov", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme"}),
        ("full_colour.mp4", "libx264", "yuv444p", {}),
    ],
)
def test_other_ways_to_store_a_picture_give_the_same_picture_in_both_decoders(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    drawn = pictures(6, 64, 80)
    path = write_pictures(tmp_path / name, drawn, codec, pix_fmt, options=options)
    info, frames = probe(path, RULES), read_frames(path, range(6))
    assert (info.num_frames, info.width, info.height) == (6, 80, 64)
    assert np.abs(frames.astype(int) - drawn).mean() < 8
    np.testing.assert_array_equal(frames, read_in_order(path, read_header(path), range(6)))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("x.mov", "qtrle", "argb"), ("y.mov", "png", "rgba"), ("z.mov", "prores_ks", "yuva444p10le"),
     ("x.webm", "libvpx-vp9", "yuva420p")],
)  # fmt: skip
def test_alpha_is_left_out(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    drawn = pictures(6, 64, 80)
    alpha = np.zeros((*drawn.shape[:3], 1), dtype=np.uint8)  # all of it transparent: its colours are shown all the same
    path = write_pictures(tmp_path / name, np.concatenate([drawn, alpha], axis=-1), codec, pix_fmt)
    assert probe(path, RULES).num_frames == 6
    frames = read_frames(path, range(6))
    assert np.abs(frames.astype(int) - drawn).mean() < 8
    np.testing.assert_array_equal(frames, read_in_order(path, read_header(path), range(6)))


def test_the_hash_is_of_the_frames_at_one_three_and_five_sixths(folder: Path) -> None:
    for name in NAMES:
        expected = perceptual_hash(list(read_frames(folder / name, hashed_frames(40))))
        assert probe(folder / name, RULES).perceptual_hash == expected


@pytest.mark.parametrize("width", [32, 36, 40, 42, 64, 66, 84, 86, 96, 98, 128])
def test_no_width_is_mistaken_for_damage(tmp_path: Path, width: int) -> None:
    # decord cannot copy frames whose padded rows are a whole number of 4-channel pixels, 96 pixels for one.
    path = write_video(tmp_path / "clip.mp4", width=width)
    info = probe(path, VideoRules())
    assert (info.width, info.num_frames) == (width, 12)
    assert read_frames(path, [0, 11]).shape == (2, 48, width, 3)


def test_rules_are_parameters(folder: Path) -> None:
    with pytest.raises(VideoError, match="expected at least 41 frames, found 40"):
        probe(folder / "plain.mp4", VideoRules(min_frames=41))
    with pytest.raises(VideoError, match="expected at least 49 pixels a side, found 64 x 48"):
        probe(folder / "plain.mp4", VideoRules(min_side=49))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("indices", [[40], [3, 99], [-1], []])
def test_frames_that_do_not_exist_are_an_error_with_the_path(folder: Path, name: str, indices: list[int]) -> None:
    with pytest.raises(VideoError, match=name) as caught:
        read_frames(folder / name, indices)
    assert caught.value.reason == Reason.FRAME_OUT_OF_RANGE


def test_a_torch_that_is_loaded_after_decord_works() -> None:
    # decord by itself would have put NVBLAS in the place of torch's matrix products: a segmentation fault.
    script = "import umt_pipeline.video.reader, torch; a = torch.ones(300, 300); assert (a @ a).sum() == 300**3"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
