"""pandera models of the tables.

The texts given to ``error=`` complete the sentence "expected ..." in messages.
"""

from __future__ import annotations

import pandas as pd
import pandera.pandas as pa

NOT_BLANK = "text that is not blank"


def _not_blank(cls: type, values: pd.Series) -> pd.Series:
    return values.str.strip() != ""


def _is_sha256(cls: type, values: pd.Series) -> pd.Series:
    return values.str.fullmatch("[0-9a-f]{64}")


class _Table(pa.DataFrameModel):
    """A table with exactly the columns named, in that order."""

    class Config:
        strict = True
        ordered = True
        coerce = True


class RawVideos(_Table):
    """The user's list of videos, after the mapping of columns: one row per file."""

    video: str = pa.Field(unique=True)
    split: str

    _text = pa.check("video", "split", error=NOT_BLANK)(_not_blank)


class RawCaptions(_Table):
    """The user's captions, after the mapping of columns: any number per video."""

    video: str
    caption: str

    _text = pa.check("video", "caption", error=NOT_BLANK)(_not_blank)


class RawLabels(_Table):
    """The user's labels, after the mapping of columns: one per video and task."""

    video: str
    task: str
    label: str

    _text = pa.check("video", "task", "label", error=NOT_BLANK)(_not_blank)

    class Config(_Table.Config):
        """A video has one label per task."""

        unique = ("video", "task")


class Videos(_Table):
    """Accepted videos. ``num_frames`` is counted by decoding; ``path`` is relative to the media folder."""

    video_id: str = pa.Field(unique=True)
    path: str = pa.Field(unique=True)
    split: str
    container: str
    codec: str
    width: int = pa.Field(gt=0)
    height: int = pa.Field(gt=0)
    fps: float = pa.Field(gt=0)
    num_frames: int = pa.Field(gt=0)
    duration_s: float = pa.Field(gt=0)
    size_bytes: int = pa.Field(gt=0)
    sha256: str

    _text = pa.check("video_id", "path", "split", "container", "codec", error=NOT_BLANK)(_not_blank)

    _sha256 = pa.check("sha256", error="64 lower-case hexadecimal digits")(_is_sha256)


class Captions(_Table):
    """Accepted captions. ``caption_id`` is the row of the raw table."""

    caption_id: int = pa.Field(unique=True, ge=0)
    video_id: str
    caption: str

    _text = pa.check("video_id", "caption", error=NOT_BLANK)(_not_blank)


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
    """Rows of raw tables that were not accepted. ``row`` counts from 0 and leaves the header out."""

    table: str = pa.Field(isin=["videos", "captions", "labels"])
    row: int = pa.Field(ge=0)
    video: str
    reason: str
    detail: str

    _text = pa.check("reason", error=NOT_BLANK)(_not_blank)

    class Config(_Table.Config):
        """A row is rejected once, for its first reason."""

        unique = ("table", "row")
