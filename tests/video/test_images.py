"""Still images: every mode becomes upright RGB, and what is broken is refused for its reason."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from umt_pipeline.core.errors import VideoError
from umt_pipeline.video.images import FORMATS, probe_image, read_image
from umt_pipeline.video.media import IMAGE_SUFFIXES, Reason, VideoInfo, VideoRules, is_image
from umt_pipeline.video.probing import Refusal, probe_all, try_probe
from umt_pipeline.video.views import View, ViewConfig, eval_view, load_view, make_view

RULES = VideoRules(min_side=8)
WHITE = [255, 255, 255]


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    """Red, green / blue, grey: any turn or mirror image of it is another picture."""
    picture = np.empty((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = (200, 20, 20), (20, 200, 20)
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = (20, 20, 200), (120, 120, 120)
    return picture


def corners(frame_HWC: np.ndarray) -> list[list[int]]:
    return [frame_HWC[row, column].tolist() for row in (4, -5) for column in (4, -5)]


PICTURE = Image.fromarray(quadrants())
COLOURS = corners(quadrants())


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_each_format_is_described_and_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix.upper()}"
    PICTURE.save(path)
    info = try_probe(path, VideoRules())
    assert isinstance(info, VideoInfo)
    assert (info.media, info.width, info.height, info.num_frames) == ("image", 48, 32, 1)
    assert (info.fps, info.duration_s) == (0.0, 0.0)
    assert info.container == info.codec == {".jpg": "jpeg"}.get(suffix, suffix[1:])
    assert info.container.upper() in FORMATS
    assert info.size_bytes == path.stat().st_size
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    frames = read_image(path, [0, 0])
    assert (frames.shape, frames.dtype) == ((2, 32, 48, 3), np.uint8)
    np.testing.assert_allclose(corners(frames[1]), COLOURS, atol=8)


def test_the_content_decides_the_format_and_the_suffix_the_decoder(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "really.jpg", "PNG")
    assert probe_image(tmp_path / "really.jpg", RULES).codec == "png"
    assert [is_image(name) for name in ("a/b.JPEG", "a.webp", "a.gif", "a.mp4", "jpg", ".png")] == [
        True, True, False, False, False, False
    ]  # fmt: skip
    PICTURE.save(tmp_path / "picture.mp4", "PNG")
    refusal = try_probe(tmp_path / "picture.mp4", RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.NOT_A_VIDEO


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [
        ("RGB", ".png", 0), ("RGBA", ".png", 0), ("P", ".png", 0), ("CMYK", ".jpg", 12), ("RGBA", ".webp", 12),
        ("P", ".bmp", 0), ("YCbCr", ".jpg", 12),
    ],
)  # fmt: skip
def test_colours_survive_every_mode(tmp_path: Path, mode: str, suffix: str, tolerance: int) -> None:
    image = PICTURE.quantize(8) if mode == "P" else PICTURE.convert(mode)
    image.save(tmp_path / f"x{suffix}", quality=95)
    np.testing.assert_allclose(corners(read_image(tmp_path / f"x{suffix}", [0])[0]), COLOURS, atol=tolerance)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str) -> None:
    grey_HW = np.tile(np.repeat(np.array([0, 255], dtype=np.uint8), 20), (30, 1))
    image = Image.fromarray(grey_HW.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey_HW).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "x.png")
    frame = read_image(tmp_path / "x.png", [0])[0]
    assert (frame == grey_HW[..., None]).all()


def test_sixteen_bits_keep_their_tones(tmp_path: Path) -> None:
    tones = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.tile(tones, (32, 1))).save(tmp_path / "x.png")
    frame = read_image(tmp_path / "x.png", [0])[0]
    assert (frame[0, :, 0] == tones >> 8).all()


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB with a transparent colour"])
def test_transparency_lies_over_white(tmp_path: Path, kind: str) -> None:
    alpha = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 16, axis=1).repeat(32, axis=0))
    image = Image.new("RGB", alpha.size, "black")
    image.putalpha(alpha)
    if kind == "P":
        image = image.quantize(4)
    if kind == "RGB with a transparent colour":
        opaque = Image.fromarray(np.where(np.asarray(alpha)[..., None] > 0, [0, 0, 0], [9, 9, 9]).astype(np.uint8))
        opaque.save(tmp_path / "x.png", transparency=(9, 9, 9))
    else:
        (image.convert("LA") if kind == "LA" else image).save(tmp_path / "x.png")
    frame = read_image(tmp_path / "x.png", [0])[0]
    assert (frame[4, 4].tolist(), frame[4, -4].tolist()) == (WHITE, [0, 0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    # What a camera stores so that turning it as the tag says gives the picture.
    stored = {
        1: PICTURE,
        2: PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: PICTURE.transpose(Image.Transpose.ROTATE_180),
        4: PICTURE.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: PICTURE.transpose(Image.Transpose.TRANSPOSE),
        6: PICTURE.transpose(Image.Transpose.ROTATE_90),
        7: PICTURE.transpose(Image.Transpose.TRANSVERSE),
        8: PICTURE.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.jpg", exif=exif, quality=95)
    info = probe_image(tmp_path / "x.jpg", RULES)
    assert (info.width, info.height) == (48, 32)
    np.testing.assert_allclose(corners(read_image(tmp_path / "x.jpg", [0])[0]), COLOURS, atol=8)


def test_damaged_camera_notes_do_not_cost_the_picture(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\xff\xff", quality=95)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        assert probe_image(tmp_path / "x.jpg", RULES).width == 48


def content(name: str, **options: object) -> bytes:
    target = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(target, name, **options)
    return target.getvalue()


def animation(name: str) -> bytes:
    target = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(target, name, save_all=True, append_images=frames[1:])
    return target.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


BROKEN = {
    "cut.jpg": (content("JPEG")[:-2000], Reason.TRUNCATED),
    "cut.png": (content("PNG")[:-4000], Reason.TRUNCATED),
    "cut.webp": (content("WEBP")[:-1000], Reason.CORRUPT_IMAGE),
    "cut.bmp": (content("BMP")[:-1000], Reason.TRUNCATED),
    "bits.png": (flipped(content("PNG"), 6000), Reason.CORRUPT_IMAGE),
    "empty.png": (b"", Reason.EMPTY_FILE),
    "page.jpg": (b"<!DOCTYPE html><title>404</title>", Reason.NOT_AN_IMAGE),
    "moving.webp": (animation("WEBP"), Reason.ANIMATED_IMAGE),
    "moving.png": (animation("PNG"), Reason.ANIMATED_IMAGE),
    "moving.jpg": (animation("GIF"), Reason.ANIMATED_IMAGE),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_image_is_refused_for_its_reason(tmp_path: Path, name: str) -> None:
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    refusal = try_probe(tmp_path / name, RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert str(tmp_path) not in refusal.detail
    if name != "bits.png":  # checksums are compared once, when a file is checked
        with pytest.raises(VideoError, match=name):
            read_image(tmp_path / name, [0])


def test_other_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PICTURE.save(tmp_path / "x.png")
    with pytest.raises(VideoError, match="expected at least 33 pixels a side, found 48 x 32 pixels") as caught:
        probe_image(tmp_path / "x.png", VideoRules(min_side=33))
    assert caught.value.reason == Reason.TOO_SMALL
    with pytest.raises(VideoError, match="expected a file, found nothing"):
        probe_image(tmp_path / "gone.png", RULES)
    for indices in ([1], [0, 1], []):
        with pytest.raises(VideoError, match=r"x\.png: expected frame number 0, the only one of an image, found"):
            read_image(tmp_path / "x.png", indices)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(VideoError, match="exceeds limit") as caught:
        probe_image(tmp_path / "x.png", RULES)
    assert caught.value.reason == Reason.TOO_LARGE


def test_a_photo_with_a_preview_behind_it_is_one_picture(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[PICTURE.resize((24, 16))], quality=95)
    assert probe_image(tmp_path / "x.jpg", RULES).codec == "mpo"
    np.testing.assert_allclose(corners(read_image(tmp_path / "x.jpg", [0])[0]), COLOURS, atol=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF"]))
def test_damage_anywhere_never_raises_anything_else(tmp_path: Path, data: st.DataObject, name: str) -> None:
    damaged = bytearray(content(name))
    start = data.draw(st.integers(0, len(damaged) - 1))
    damaged[start : start + 32] = data.draw(st.binary(min_size=0, max_size=32))
    path = tmp_path / "fuzzed.jpg"
    path.write_bytes(damaged)
    result = try_probe(path, RULES)
    if isinstance(result, VideoInfo):
        assert read_image(path, [0]).shape == (1, result.height, result.width, 3)
    else:
        assert result.reason in set(Reason) - {Reason.UNREADABLE_FILE}


def test_views_of_images_replay(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "x.png")
    config = ViewConfig(frames=1, size=16)
    drawn = make_view(config, "d", "x", 0, 1, 32, 48)
    assert drawn.frame_indices == (0,)
    picture = load_view(tmp_path / "x.png", drawn)
    assert (picture.shape, picture.dtype) == ((1, 16, 16, 3), np.uint8)
    assert (load_view(tmp_path / "x.png", View.from_dict(drawn.to_dict())) == picture).all()
    # With several frames, an image is a video that stands still.
    several = load_view(tmp_path / "x.png", eval_view(ViewConfig(frames=3, size=16), 1, 32, 48))
    assert several.shape == (3, 16, 16, 3)
    assert (several == several[:1]).all()
    with pytest.raises(VideoError, match=r"x\.png: .*crop.*ingest the videos again"):
        load_view(tmp_path / "x.png", View((0,), (0, 0, 33, 33), flip=False, size=16))


def test_videos_and_images_are_checked_together(tmp_path: Path) -> None:
    for number in range(12):
        PICTURE.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.{'png' if number % 3 else 'mp4'}" for number in range(12)]
    names = [path.name for path in paths]
    one, two = (list(probe_all(tmp_path, names, RULES, workers=workers)) for workers in (1, 2))
    assert one == two
    assert [isinstance(result, VideoInfo) for result in one] == [bool(number % 3) for number in range(12)]
