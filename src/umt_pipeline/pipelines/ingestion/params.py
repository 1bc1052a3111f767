"""Parameters of the ingestion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from umt_pipeline.config import Config
from umt_pipeline.schemas import Column
from umt_pipeline.video.reader import VideoRules


class VideoColumns(Config):
    """Where the columns of the video table come from."""

    video: Column = "video"
    split: Column = "split"


class CaptionColumns(Config):
    """Where the columns of the caption table come from."""

    video: Column = "video"
    caption: Column = "caption"


class LabelColumns(Config):
    """Where the columns of the label table come from."""

    video: Column = "video"
    task: Column = "task"
    label: Column = "label"


class Columns(Config):
    """For each of our columns the name of the user's column, or ``{constant: value}`` where there is none."""

    videos: VideoColumns = VideoColumns()
    captions: CaptionColumns = CaptionColumns()
    labels: LabelColumns = LabelColumns()


class IngestionParams(Config):
    """What is read and what is accepted.

    Attributes:
        dataset_id: name of the data set; recorded views are derived from it.
        splits: allowed splits, from the one trained on to the one held out most: of the same content in two splits, the
            copy in the later one is kept.
        columns: our columns from the user's.
        rules: what a video must have.
        workers: processes that check videos; None: one per core.
        max_rejected_share: a larger share of unusable videos ends the run.
        on_duplicate_content: two files of one split have the same bytes. Reported in any case; ``keep`` is the default
            because published test sets contain such pairs, and dropping one changes the benchmark.
        on_content_in_two_splits: the same bytes in two splits, so that a model would be tested on what it has seen.
        on_orphan: a caption or label names a video that is not in the video table. Those of a video that was rejected
            are always rejected with it: a broken video must not end the run.
    """

    dataset_id: str = Field(min_length=1)
    splits: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()
    rules: VideoRules = VideoRules()
    workers: int | None = Field(default=None, ge=1)
    max_rejected_share: float = Field(default=0.1, ge=0.0, le=1.0)
    on_duplicate_content: Literal["keep", "reject", "error"] = "keep"
    on_content_in_two_splits: Literal["error", "reject"] = "error"
    on_orphan: Literal["reject", "error"] = "reject"

    @field_validator("splits")
    @classmethod
    def _named_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) != len(splits) or not all(split.strip() for split in splits):
            raise ValueError(f"expected names that are not blank, each once, found {list(splits)}")
        return splits
