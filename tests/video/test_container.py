"""Files that say odd things about themselves: which stream is read, which frames are displayed, what is only claimed."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.video.boxes import box, in_track
from tests.video.odd_files import cut, matrix, pictures, with_edits, write_pictures, write_streams, write_with_cover
from tests.video_files import number_shown, write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video import container
from umt_pipeline.video.container import read_header
from umt_pipeline.video.media import Depth, Reason, VideoInfo, VideoRules
from umt_pipeline.video.probing import Refusal, try_probe
from umt_pipeline.video.reader import probe, read_frames

DEPTHS: tuple[Depth, ...] = ("header", "sample", "full")
# Groups of 12 pictures with frames in between that are coded out of order.
GROUPS = {"g": "12", "bf": "2", "sc_threshold": "0"}


def numbers(path: Path, count: int) -> list[int]:
    """Return what frames show, each read by itself: a decoder that jumps must arrive where the counting one does."""
    shown = [number_shown(read_frames(path, [index])[0]) for index in range(count)]
    assert shown == [number_shown(frame) for frame in read_frames(path, range(count))]
    return shown


def counts(path: Path) -> list[int]:
    return [probe(path, VideoRules(depth=depth)).num_frames for depth in DEPTHS]


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([(25, 15)], range(15, 40)),
        ([(20, 0)], range(20)),
        ([(20, 15)], range(15, 35)),
        ([(12, None), (40, 0)], range(40)),
        ([(10, 0), (10, 25)], [*range(10), *range(25, 35)]),
        ([(12, 24), (12, 0)], [*range(24, 36), *range(12)]),
    ],
)
def test_only_frames_that_an_edit_list_shows_are_there(
    tmp_path: Path, edits: list[tuple[int, int | None]], expected: Sequence[int]
) -> None:
    path = write_video(tmp_path / "clip.mp4", 40, options=GROUPS)
    path.write_bytes(with_edits(path.read_bytes(), edits))
    info = probe(path, VideoRules())
    assert counts(path) == [len(expected)] * 3
    assert numbers(path, len(expected)) == list(expected)
    assert info.duration_s == pytest.approx(len(expected) / 24, abs=0.01)
    with pytest.raises(VideoError, match=f"frame {len(expected)} was asked for"):
        read_frames(path, [len(expected)])


def test_frames_hidden_behind_the_last_one_cost_no_speed_and_are_not_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 40, options={"bf": "0"})
    path.write_bytes(with_edits(path.read_bytes(), [(39, 0)]))
    header = read_header(path)
    assert (header.hidden_frames, header.by_decord) == (1, True)
    assert counts(path) == [39] * 3
    assert numbers(path, 39) == list(range(39))
    with pytest.raises(VideoError, match="frame 39 was asked for, found 39 frames"):
        read_frames(path, [39])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_file_cut_between_key_frames_begins_with_the_first_that_decodes(tmp_path: Path, suffix: str) -> None:
    whole = write_video(tmp_path / f"whole.{suffix}", 40, options=GROUPS)
    path = cut(whole, tmp_path / f"cut.{suffix}", skipped=5)
    info = probe(path, VideoRules())
    assert info.num_frames == 28
    assert numbers(path, 28) == list(range(12, 40))
    if suffix != "mkv":  # which tells when it ends, not how long it is
        assert info.duration_s == pytest.approx(28 / 24, rel=0.02)
    if suffix != "ts":
        assert counts(path) == [28] * 3


@pytest.mark.parametrize(
    ("codec", "suffix", "reason"),
    [("mpeg4", "mp4", Reason.NO_KEY_FRAME), ("mpeg4", "avi", Reason.NO_KEY_FRAME),
     ("libvpx-vp9", "webm", Reason.CORRUPT_FRAME)],
)  # fmt: skip
def test_where_the_decoder_would_invent_the_first_frames_the_file_is_refused(
    tmp_path: Path, codec: str, suffix: str, reason: Reason
) -> None:
    whole = write_video(tmp_path / f"whole.{suffix}", 30, codec=codec, options={"g": "12"})
    path = cut(whole, tmp_path / f"cut.{suffix}", skipped=5)
    refusal = try_probe(path, VideoRules())
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert "frame 0" in refusal.detail
    with pytest.raises(VideoError, match="frame 0"):
        read_frames(path, [0])


def test_the_film_is_read_and_not_the_cover_before_it(tmp_path: Path) -> None:
    path = write_with_cover(tmp_path / "clip.mp4")
    with av.open(str(path)) as opened:
        assert [stream.codec_context.name for stream in opened.streams] == ["png", "h264"]
    info = probe(path, VideoRules())
    assert (info.codec, info.width, info.height, info.num_frames, info.stream) == ("h264", 64, 48, 12, 1)
    assert numbers(path, 12) == list(range(12))
    assert counts(path) == [12] * 3


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("default", [0, 1])
def test_of_several_video_streams_the_default_one_is_read_and_recorded(tmp_path: Path, default: int, suffix: str) -> None:
    path = write_streams(tmp_path / f"clip.{suffix}", firsts=[0, 100], default=default)
    assert probe(path, VideoRules()).stream == default
    assert numbers(path, 12) == list(range(100 * default, 100 * default + 12))


def test_fragments_are_read_like_one_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    whole = write_video(tmp_path / "whole.mp4", 40, options=GROUPS)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    assert counts(path) == [40] * 3
    assert numbers(path, 40) == list(range(40))


BILLION = 10**9


def _claim_times(data: bytearray) -> None:
    struct.pack_into(">I", data, box(data, *in_track(b"stts"))[0] + 8, BILLION)


def _claim_sizes(data: bytearray) -> None:
    struct.pack_into(">I", data, box(data, *in_track(b"stsz"))[0] + 8, BILLION)


def _claim_equal_sizes(data: bytearray) -> None:
    struct.pack_into(">II", data, box(data, *in_track(b"stsz"))[0] + 4, 100, BILLION)
    struct.pack_into(">I", data, box(data, *in_track(b"stsc"))[0] + 12, BILLION)


def _claim_duration(data: bytearray) -> None:
    struct.pack_into(">I", data, box(data, b"moov", b"mvhd")[0] + 16, BILLION)
    struct.pack_into(">I", data, box(data, b"moov", b"trak", b"mdia", b"mdhd")[0] + 16, 4 * BILLION)


@pytest.mark.parametrize(
    ("claim", "outcome"),
    [
        (_claim_times, 24),
        (_claim_duration, 24),
        (_claim_sizes, Reason.NOT_A_VIDEO),
        (_claim_equal_sizes, Reason.CORRUPT_FRAME),
    ],
)
def test_a_header_that_claims_a_billion_frames_costs_nothing(tmp_path: Path, claim: object, outcome: int | Reason) -> None:
    data = bytearray(write_video(tmp_path / "clip.mp4", 24).read_bytes())
    assert callable(claim)
    claim(data)
    (tmp_path / "clip.mp4").write_bytes(data)
    for depth in DEPTHS:
        result = try_probe(tmp_path / "clip.mp4", VideoRules(depth=depth))
        if isinstance(result, VideoInfo):
            assert (result.num_frames, result.duration_s) == (outcome, 1.0)
        else:
            assert result.reason == outcome
    if outcome == 24:
        assert numbers(tmp_path / "clip.mp4", 24) == list(range(24))


def test_ten_hours_are_as_long_as_their_frames(tmp_path: Path) -> None:
    times = [number * 3600 * 24 for number in range(11)]
    path = write_pictures(tmp_path / "long.mp4", pictures(11, 48, 64), times=times)
    for depth in DEPTHS:
        info = probe(path, VideoRules(depth=depth))
        assert info.num_frames == 11
        assert info.duration_s == pytest.approx(11 * 3600, rel=0.1)
    assert read_frames(path, [10, 0]).shape == (2, 48, 64, 3)


def test_a_header_is_read_once_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = container.open_video
    monkeypatch.setattr(container, "open_video", lambda path: opened.append(path) or real(path))  # type: ignore[func-returns-value]
    path = write_video(tmp_path / "clip.mp4")
    for _ in range(3):
        assert read_frames(path, [0, 3]).shape == (2, 48, 64, 3)
    assert len(opened) == 1
    write_video(path, height=64, width=48)
    assert read_frames(path, [0]).shape == (1, 64, 48, 3)
    os.utime(path, ns=(1, 1))
    read_header(path)
    assert len(opened) == 3


@pytest.mark.parametrize("sample_aspect", [Fraction(40), Fraction(1, 40)])
def test_a_mistaken_sample_aspect_is_refused(tmp_path: Path, sample_aspect: Fraction) -> None:
    path = write_pictures(tmp_path / "clip.mp4", pictures(4, 48, 64), sample_aspect=sample_aspect)
    refusal = try_probe(path, VideoRules())
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, "sample aspect below 16:1" in refusal.detail) == (Reason.WRONG_SHAPE, True)


def test_a_picture_that_is_turned_by_another_angle_is_refused(tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "clip.mp4", pictures(4, 48, 64), turn=matrix(46341, 46341, -46341, 46341))
    for call in (lambda: probe(path, VideoRules(depth="header")), lambda: read_frames(path, [0])):
        with pytest.raises(VideoError, match="multiple of 90 degrees") as caught:
            call()
        assert caught.value.reason == Reason.WRONG_SHAPE
