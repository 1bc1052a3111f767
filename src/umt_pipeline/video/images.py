"""Open still images: check one completely (:func:`probe_image`), read one as a video of one frame (:func:`read_image`).

H W pixels. Every image becomes uint8 RGB, upright: turned as its EXIF orientation says, transparency laid over white,
16-bit values divided by 256. The format is told from the content, so a PNG called ``.jpg`` is a PNG.

An animation is refused: its first frame is often a title or blank, and to pick it would be a choice that nobody sees. An
animated GIF called ``.gif`` is a video to this project and is read as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.video.media import Reason, VideoInfo, VideoRules, check_file, check_unchanged
from umt_pipeline.video.perceptual import FRAMES, perceptual_hash

# Formats that corpora of images consist of. Pillow knows others, some of which start other programs. JPEG brings MPO along.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")

_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes the picture upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same as (degrees clockwise, mirrored from left to right before), which is how tables tell it.
_TURNS = {
    1: (0, False), 2: (0, True), 3: (180, False), 4: (180, True),
    5: (270, True), 6: (90, False), 7: (90, True), 8: (270, False),
}  # fmt: skip


def probe_image(path: Path | str, rules: VideoRules) -> VideoInfo:
    """Decode a whole image and describe it.

    Args:
        path: the file.
        rules: what is asked of it; ``min_frames`` and ``depth`` are for videos alone.

    Returns:
        Its description.

    Raises:
        VideoError: the file cannot be used. ``reason`` is one of :class:`~umt_pipeline.video.media.Reason`.
    """
    path = Path(path)
    state = check_file(path)
    _verify(path)
    frame_HWC, name, orientation = _decode(path)
    height, width = frame_HWC.shape[:2]
    rules.require_side(width, height)
    sha256 = sha256_file(path)
    check_unchanged(path, state)
    return VideoInfo(
        media="image",
        container=name,
        codec=name,
        width=width,
        height=height,
        fps=0.0,
        num_frames=1,
        duration_s=0.0,
        size_bytes=state.st_size,
        sha256=sha256,
        rotation=_TURNS[orientation][0],
        mirrored=_TURNS[orientation][1],
        perceptual_hash=perceptual_hash([frame_HWC]) * FRAMES,
    )


def read_image(path: Path | str, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Read an image as the frames with the given numbers of a video of one frame.

    Args:
        path: the file.
        indices: T frame numbers, all 0.

    Returns:
        uint8 RGB ``[T, H, W, 3]``.

    Raises:
        VideoError: the file does not decode, or another frame than 0 is asked for.
    """
    path = Path(path)
    if len(indices) == 0 or any(indices):
        found = f"{path}: expected frame number 0, the only one of an image, found {list(indices)}"
        raise VideoError(Reason.FRAME_OUT_OF_RANGE, found)
    try:
        check_file(path)
        frame_HWC, _, _ = _decode(path)
    except VideoError as error:
        raise VideoError(error.reason, f"{path}: {error.detail}") from error
    return np.broadcast_to(frame_HWC, (len(indices), *frame_HWC.shape))


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        with path.open("rb") as handle:
            start = handle.read(16)
        found = f"expected an image ({', '.join(FORMATS)}), found a file that begins with {start!r}"
        raise VideoError(Reason.NOT_AN_IMAGE, found) from error
    except Image.DecompressionBombError as error:
        raise VideoError(Reason.TOO_LARGE, str(error)) from error
    except Exception as error:
        raise _damaged(error) from error


def _verify(path: Path) -> None:
    """Compare the checksums of the formats that have them; Pillow does not while it decodes."""
    with _open(path) as image:
        try:
            image.verify()
        except Exception as error:
            raise _damaged(error) from error


def _decode(path: Path) -> tuple[NDArray[np.uint8], str, int]:
    """Return an image's pixels [H, W, 3], the name of its format and the EXIF orientation that they were turned by."""
    with _open(path) as image:
        name = str(image.format).lower()
        try:
            # MPO is a photo with previews behind it, or the two pictures of a stereo camera: the first one is the photo.
            frames = 1 if name == "mpo" else int(getattr(image, "n_frames", 1))
            if frames == 1:
                image.load()  # before anything that swallows errors
                orientation = _orientation(image)
                return _to_rgb(image, orientation), name, orientation
        except Exception as error:
            raise _damaged(error) from error
    raise VideoError(Reason.ANIMATED_IMAGE, f"expected a still image, found {frames} frames ({name})")


def _damaged(error: Exception) -> VideoError:
    # Pillow raises what it likes on damaged files: OSError, SyntaxError, ValueError, struct.error, …
    reason = Reason.TRUNCATED if "truncated" in str(error).lower() else Reason.CORRUPT_IMAGE
    return VideoError(reason, f"the image does not decode ({error})")


def _to_rgb(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Pillow's own conversion cuts 16-bit values off at 255, which makes the picture white.
        grey_HW = (np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF) >> 8).astype(np.uint8)
        rgb = Image.fromarray(grey_HW).convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.asarray(rgb)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, where none is given."""
    # A camera's notes that cannot be read are no reason to refuse the picture: it is taken as it is stored.
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1
    return orientation if orientation in _TURNS else 1
