"""pandera models of the tables.

The texts given to ``error=`` complete the sentence "expected ..." in messages.
"""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from umt_pipeline.schemas.texts import is_blank

# Of the clean tables. Raise it when a column comes, goes or changes its meaning: older files are then refused.
SCHEMA_VERSION = 2

NOT_BLANK = "text that is not blank"
MEDIA = ("video", "image")
KNOWN_MEDIA = "'video' or 'image'"


def _not_blank(cls: type, values: pd.Series) -> pd.Series:
    return values.str.strip() != ""


def _is_visible(cls: type, values: pd.Series) -> pd.Series:
    return ~values.map(is_blank).astype(bool)


def _is_sha256(cls: type, values: pd.Series) -> pd.Series:
    return values.str.fullmatch("[0-9a-f]{64}")


def _is_perceptual_hash(cls: type, values: pd.Series) -> pd.Series:
    return values.str.fullmatch("([0-9a-f]{48})?")


def _is_media(cls: type, values: pd.Series) -> pd.Series:
    return values.isin(MEDIA)


class _Table(pa.DataFrameModel):
    """A table with exactly the columns named, in that order, of exactly these types: our own nodes made it."""

    class Config:
        strict = True
        ordered = True
        coerce = False


class _RawTable(_Table):
    """A table that comes from outside: values are converted to the types."""

    class Config(_Table.Config):
        coerce = True


class RawVideos(_RawTable):
    """The user's list of videos and images, after the mapping of columns: one row per file.

    ``media`` is there if the user's table says what each file should be; what it is is found by opening it.
    """

    video: str = pa.Field(unique=True)
    split: str
    corpus: str
    media: Series[str] | None

    _text = pa.check("video", "split", "corpus", error=NOT_BLANK)(_not_blank)

    _media = pa.check("media", error=KNOWN_MEDIA)(_is_media)


class RawCaptions(_RawTable):
    """The user's captions, after the mapping of columns: any number per video."""

    video: str
    caption: str

    _text = pa.check("video", "caption", error=NOT_BLANK)(_not_blank)


class RawLabels(_RawTable):
    """The user's labels, after the mapping of columns: one per video and task."""

    video: str
    task: str
    label: str

    _text = pa.check("video", "task", "label", error=NOT_BLANK)(_not_blank)

    class Config(_RawTable.Config):
        """A video has one label per task."""

        unique = ("video", "task")


class Videos(_Table):
    """Accepted videos and images.

    ``path`` is relative to the media folder; ``corpus`` is the collection that a file came with. ``width`` and ``height`` are
    as displayed: ``rotation`` (degrees clockwise), ``mirrored`` and ``sample_aspect`` (width of a coded pixel per height)
    are what was done to the coded picture for that. ``num_frames`` counts displayed frames, by decoding unless the probing
    was less deep. ``perceptual_hash`` is "" where no frame was decoded. An image has one frame and no time: ``fps`` and
    ``duration_s`` are 0.
    """

    video_id: str = pa.Field(unique=True)
    path: str = pa.Field(unique=True)
    split: str
    media: str
    corpus: str
    container: str
    codec: str
    width: int = pa.Field(gt=0)
    height: int = pa.Field(gt=0)
    fps: float = pa.Field(ge=0)
    num_frames: int = pa.Field(gt=0)
    duration_s: float = pa.Field(ge=0)
    size_bytes: int = pa.Field(gt=0)
    sha256: str
    rotation: int = pa.Field(isin=(0, 90, 180, 270))
    mirrored: bool
    sample_aspect: float = pa.Field(gt=0)
    stream: int = pa.Field(ge=0)
    perceptual_hash: str

    _text = pa.check("video_id", "path", "split", "corpus", "container", "codec", error=NOT_BLANK)(_not_blank)

    _media = pa.check("media", error=KNOWN_MEDIA)(_is_media)

    @pa.dataframe_check(error="fps and duration_s above 0 for a video, both 0 and one frame for an image")
    @classmethod
    def _time(cls, table: pd.DataFrame) -> pd.Series:
        image = (table["fps"] == 0) & (table["duration_s"] == 0) & (table["num_frames"] == 1)
        video = (table["fps"] > 0) & (table["duration_s"] > 0)
        return video.where(table["media"] == "video", image)

    _sha256 = pa.check("sha256", error="64 lower-case hexadecimal digits")(_is_sha256)

    _perceptual_hash = pa.check("perceptual_hash", error="48 lower-case hexadecimal digits, or nothing")(_is_perceptual_hash)


class Captions(_Table):
    """Accepted captions. ``caption_id`` is the row of the raw table."""

    caption_id: int = pa.Field(unique=True, ge=0)
    video_id: str
    caption: str

    _text = pa.check("video_id", error=NOT_BLANK)(_not_blank)

    _visible = pa.check("caption", error=NOT_BLANK)(_is_visible)


class Labels(_Table):
    """Accepted labels: one per video and task."""

    video_id: str
    task: str
    label: str

    _text = pa.check("video_id", "task", "label", error=NOT_BLANK)(_not_blank)

    class Config(_Table.Config):
        """A video has one label per task."""

        unique = ("video_id", "task")


class Rejects(_Table):
    """Rows of raw tables that were not accepted.

    ``row`` counts from 0 and leaves the header out; ``detail`` is what was expected and found; ``remedy`` is what to do about
    that reason.
    """

    table: str = pa.Field(isin=["videos", "captions", "labels", "questions", "boxes"])
    row: int = pa.Field(ge=0)
    video: str
    reason: str
    detail: str
    remedy: str

    _text = pa.check("reason", "remedy", error=NOT_BLANK)(_not_blank)

    class Config(_Table.Config):
        """A row is rejected once, for its first reason."""

        unique = ("table", "row")
