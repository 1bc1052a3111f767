from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.video_files import number_shown, numbered_frame, write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.video.container import open_video, read_header
from umt_pipeline.video.media import VideoInfo, VideoRules
from umt_pipeline.video.reader import probe, read_frames
from umt_pipeline.video.transcode import PreparedForm, Transcoded, is_prepared, prepared_size, transcode

SMALL = PreparedForm(short_side=48, gop=6)


def check(path: Path) -> VideoInfo:
    return probe(path, VideoRules(min_frames=1, min_side=1))


def times(path: Path) -> list[Fraction]:
    with open_video(path) as (container, stream):
        return [frame.pts * frame.time_base for frame in container.decode(stream)]


def key_frames(path: Path) -> list[int]:
    with open_video(path) as (_, stream):
        return [number for number, entry in enumerate(stream.index_entries) if entry.is_keyframe]


def write_frames(path: Path, pictures: list[np.ndarray], ticks: list[int], rate: int = 100) -> Path:
    """Write RGB pictures, each at its tick of 1 / rate s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture, tick in zip(pictures, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.mpg"])
def test_every_frame_stays_under_its_number_whatever_the_container_was(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name == "a.mpg" else "mpeg4" if name == "a.avi" else "libx264"
    source = write_video(tmp_path / name, num_frames=40, height=96, width=128, codec=codec)
    target = tmp_path / "made" / name  # MP4 by content, whatever the suffix says
    made = transcode(source, target, SMALL)
    before, after = check(source), check(target)
    assert (after.codec, after.width, after.height) == ("h264", 64, 48)
    assert after.num_frames == before.num_frames == made.num_frames
    assert after.duration_s == pytest.approx(before.duration_s, abs=1 / before.fps)
    numbers = [number_shown(frame) for frame in read_frames(target, range(after.num_frames))]
    assert numbers == [number_shown(frame) for frame in read_frames(source, range(before.num_frames))]
    assert max(np.diff([*key_frames(target), after.num_frames])) <= SMALL.gop
    assert list((tmp_path / "made").iterdir()) == [target]


def test_sound_and_other_streams_are_left_out_and_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "sound.mp4"
    with av.open(str(source), "w") as container:
        video, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=48_000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 48_000
        container.mux(sound.encode(silence))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    made = [tmp_path / name for name in ("one.mp4", "two.mp4")]
    for path in made:
        transcode(source, path, SMALL)
    with av.open(str(made[0])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert sha256_file(made[0]) == sha256_file(made[1])


@pytest.mark.parametrize(
    ("displayed", "prepared"),
    [((1920, 1080), (568, 320)), ((1080, 1920), (320, 568)), ((340, 256), (340, 256)), ((333, 251), (332, 250)),
     ((640, 32), (640, 32)), ((321, 321), (320, 320)), ((17, 3), (16, 2)), ((1, 1), (2, 2))],
)  # fmt: skip
def test_sides_are_even_and_the_shorter_one_at_most_as_asked(displayed: tuple[int, int], prepared: tuple[int, int]) -> None:
    assert prepared_size(*displayed, 320) == prepared


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_as_they_are_displayed(tmp_path: Path, degrees: int) -> None:
    source = write_turned(tmp_path / "turned.mp4", degrees)
    target = tmp_path / "made.mp4"
    transcode(source, target, PreparedForm(crf=5))
    before, after = read_frames(source, [0, 3]), read_frames(target, [0, 3])
    assert before.shape == after.shape
    assert np.abs(before.astype(int) - after).mean() < 3
    assert (check(source).rotation, check(target).rotation) == (degrees, 0)


def write_turned(path: Path, degrees: int) -> Path:
    """Write a picture with four different corners, and the display matrix of a phone into its track header."""
    corners = np.zeros((48, 64, 3), dtype=np.uint8)
    corners[:24, :32], corners[:24, 32:], corners[24:, :32] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    write_frames(path, [corners] * 4, [0, 10, 20, 30])
    data = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    # Fixed point: sixteen bits behind the point, thirty in the last column.
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


COLOURS = [("yuv420p", 5, 1), ("yuv420p", 1, 1), ("yuv420p", 2, 0), ("yuvj420p", 5, 2), ("yuv420p", 1, 2)]


@pytest.mark.parametrize(("pixels", "matrix", "full"), COLOURS)
def test_colours_stay_what_the_reader_makes_of_them(tmp_path: Path, pixels: str, matrix: int, full: int) -> None:
    """BT.601, BT.709 or not said, of limited or full range."""
    drawn = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(drawn).resize((64, 48), Image.Resampling.BICUBIC))
    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, full
        rgb = av.VideoFrame.from_ndarray(smooth, format="rgb24")
        options = {"dst_colorspace": matrix if matrix != 2 else 5, "dst_color_range": full or 1, "src_color_range": 2}
        for number in range(3):
            frame = rgb.reformat(format=pixels, **options)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    target = tmp_path / "made.mp4"
    transcode(source, target, PreparedForm(crf=1))
    before, after = (read_frames(path, [1])[0].astype(int) for path in (source, target))
    assert np.abs(before - smooth).mean() < 5, "the source is drawn as it should be"
    assert np.abs(before - after).mean() < 0.5
    with open_video(target) as (container, stream):
        frame = next(container.decode(stream))
        assert (frame.colorspace, frame.color_range) == (matrix, full)


def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    ticks = [0, 3, 10, 11, 40, 41, 90]
    source = write_frames(tmp_path / "vfr.mp4", [numbered_frame(number) for number in range(7)], ticks)
    made = transcode(source, tmp_path / "made.mp4", SMALL)
    assert times(tmp_path / "made.mp4") == times(source) == [Fraction(tick, 100) for tick in ticks]
    assert made.num_frames == 7


def test_at_a_lower_rate_each_tick_shows_what_a_player_would(tmp_path: Path) -> None:
    ticks = [0, 3, 10, 11, 40, 41, 60]
    source = write_frames(tmp_path / "vfr.mp4", [numbered_frame(number) for number in range(7)], ticks)
    target = tmp_path / "made.mp4"
    made = transcode(source, target, PreparedForm(fps=10))
    numbers = [number_shown(frame) for frame in read_frames(target, range(made.num_frames))]
    assert numbers[:7] == [0, 2, 3, 3, 4, 5, 6], "at 0, 0.1, 0.2, … s"
    assert times(target)[:3] == [0, Fraction(1, 10), Fraction(2, 10)]
    assert made.duration_s == pytest.approx(len(numbers) / 10)


def test_a_rate_that_is_low_already_is_kept(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", num_frames=20, fps=10)
    assert transcode(source, tmp_path / "made.mp4", PreparedForm(fps=12)).num_frames == 20


def test_what_has_the_form_is_known_by_it(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", num_frames=40, options={"g": "40"})
    assert not is_prepared(source, PreparedForm(short_side=32, gop=60)), "too large"
    assert not is_prepared(source, PreparedForm(short_side=48, gop=6)), "key frames too far apart"
    assert is_prepared(source, PreparedForm(short_side=48, gop=60))
    target = tmp_path / "made.avi"
    transcode(source, target, SMALL)
    assert is_prepared(target, SMALL)
    assert not is_prepared(target, PreparedForm(short_side=48, gop=6, fps=5)), "too many frames a second"
    assert not is_prepared(write_video(tmp_path / "b.avi", codec="mpeg4"), PreparedForm())


def test_what_ingestion_refuses_is_not_made(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", num_frames=48, height=96, width=128)
    (tmp_path / "broken").mkdir()
    names = write_broken_files(tmp_path / "broken", source, seed=0)
    refused = []
    for name, reason in names:
        try:
            transcode(tmp_path / "broken" / name, tmp_path / "made.mp4", SMALL)
        except (VideoError, OSError):
            refused.append(name)
            assert not (tmp_path / "made.mp4").exists()
        else:  # sound files that are too small or too short are for ingestion to judge
            assert reason in ("too_small", "too_short"), name
            (tmp_path / "made.mp4").unlink()
    assert len(refused) >= 4
    assert not list(tmp_path.glob(".*.part"))


def test_a_full_disk_is_an_error_of_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    source = write_video(tmp_path / "a.mp4", num_frames=40, height=96, width=128)
    opened = av.open

    def open_full(file: str, mode: str = "r", **options: object) -> object:
        return opened("/dev/full", mode, format="mp4") if mode == "w" else opened(file, mode, **options)

    monkeypatch.setattr("umt_pipeline.video.transcode.av.open", open_full)
    with pytest.raises(OSError, match="No space left"):
        transcode(source, tmp_path / "made.mp4", SMALL)
    assert not (tmp_path / "made.mp4").exists()


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    source = write_frames(tmp_path / "one.mp4", [numbered_frame(5)], [0])
    made = transcode(source, tmp_path / "made.mp4", SMALL)
    assert isinstance(made, Transcoded)
    assert read_header(tmp_path / "made.mp4").listed_frames == made.num_frames == 1
