"""Parameters of the ingestion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from umt_pipeline.core.config import Config
from umt_pipeline.schemas import Column, Constant
from umt_pipeline.video.guarded import ReadLimits
from umt_pipeline.video.media import VideoRules


class VideoColumns(Config):
    """Where the columns of the table of videos and images come from.

    Attributes:
        video: path of the file, relative to the media folder.
        split: one of ``splits``.
        corpus: the collection that a file came with; None: all are of ``dataset_id``.
        media: ``video`` or ``image``, what each file should be: another one is rejected. None: nobody says, and any is taken.
        video_id: what a file is called everywhere else, which stays when it is moved; None: its path says.
    """

    video: Column = "video"
    split: Column = "split"
    corpus: Column | None = None
    media: Column | None = None
    video_id: Column | None = None


class CaptionColumns(Config):
    """Where the columns of the caption table come from."""

    video: Column = "video"
    caption: Column = "caption"


class LabelColumns(Config):
    """Where the columns of the label table come from."""

    video: Column = "video"
    task: Column = "task"
    label: Column = "label"


class QuestionColumns(Config):
    """Where the columns of the question table come from; see :class:`umt_pipeline.schemas.RawQuestions` for what they hold.

    A table without ``question``, ``answers``, ``options`` or ``correct`` has empty ones.
    """

    question_id: Column = "question_id"
    video: Column = "video"
    question: Column = "question"
    answers: str = "answers"
    options: str = "options"
    correct: str = "correct"


class BoxColumns(Config):
    """Where the columns of the box table come from; see :class:`umt_pipeline.schemas.RawBoxes` for what they hold.

    A table without ``person``, ``score`` or ``source`` is of boxes that people drew: its person is unknown, the score 1.
    """

    video: Column = "video"
    timestamp_s: str = "timestamp_s"
    x1: str = "x1"
    y1: str = "y1"
    x2: str = "x2"
    y2: str = "y2"
    label: Column = "label"
    person: Column = "person"
    score: Column = "score"
    source: Column = "source"


class Columns(Config):
    """For each of our columns the name of the user's column, or ``{constant: value}`` where there is none."""

    videos: VideoColumns = VideoColumns()
    captions: CaptionColumns = CaptionColumns()
    labels: LabelColumns = LabelColumns()
    questions: QuestionColumns = QuestionColumns()
    boxes: BoxColumns = BoxColumns()


class IngestionParams(Config):
    """What is read and what is accepted.

    Attributes:
        dataset_id: name of the data set; recorded views are derived from it.
        splits: allowed splits, from the one trained on to the one held out most: of the same content in two splits, the
            copy in the later one is kept.
        columns: our columns from the user's.
        rules: what a video or image must have.
        limits: what the check of one file may take.
        workers: processes that check files; None: one per core. 1: the pipeline's own process, where a debugger works, but
            where no limit holds.
        max_rejected_share: a larger share of unusable videos ends the run.
        on_duplicate_content: two files of one split have the same bytes. Reported in any case; ``keep`` is the default
            because published test sets contain such pairs, and dropping one changes the benchmark.
        on_content_in_two_splits: the same bytes in two splits, so that a model would be tested on what it has seen.
        near_duplicate_bits: two files look the same if their perceptual hashes differ in at most so many of 192 bits. Of real
            clips, copies in another codec, size, frame rate or brightness differ in 5 (most: 18, of 168 copies but 2), two
            takes of one fixed camera in 27, other pairs in 64 or more.
        on_near_duplicates_across_splits: such files are in two splits. ``reject`` keeps those of the split held out most.
        on_bad_row: a row is wrong by itself or names a video that is in no table: it becomes a reject, or ends the run. Not
            meant are the rows of a video that was rejected: a broken video must not end the run.
    """

    dataset_id: str = Field(min_length=1)
    splits: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()
    rules: VideoRules = VideoRules()
    limits: ReadLimits = ReadLimits()
    workers: int | None = Field(default=None, ge=1)
    max_rejected_share: float = Field(default=0.1, ge=0.0, le=1.0)
    on_duplicate_content: Literal["keep", "reject", "error"] = "keep"
    on_content_in_two_splits: Literal["error", "reject"] = "error"
    near_duplicate_bits: int = Field(default=20, ge=0, le=32)
    on_near_duplicates_across_splits: Literal["report", "reject", "error"] = "report"
    on_bad_row: Literal["reject", "error"] = "reject"

    def mapping(self, table: str) -> dict[str, Column]:
        """Return where the columns of a table come from, without those that nobody gave.

        Args:
            table: ``videos``, ``captions``, ``labels``, ``questions`` or ``boxes``.
        """
        columns = dict(getattr(self.columns, table))
        if table == "videos" and columns["corpus"] is None:
            columns["corpus"] = Constant(constant=self.dataset_id)
        return {name: column for name, column in columns.items() if column is not None}

    @field_validator("splits")
    @classmethod
    def _named_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) != len(splits) or not all(split.strip() for split in splits):
            raise ValueError(f"expected names that are not blank, each once, found {list(splits)}")
        return splits
