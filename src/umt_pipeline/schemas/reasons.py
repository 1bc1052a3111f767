"""Why a row of a raw table is not accepted, as far as tables and content decide it; ``video.media.Reason`` is about files."""

from __future__ import annotations

from enum import StrEnum


class RowReason(StrEnum):
    """The ``reason`` of a row of the reject table that no file is the cause of."""

    NOT_TEXT = "not_text"
    BROKEN_TEXT = "broken_text"
    BLANK_CAPTION = "blank_caption"
    BLANK_CELL = "blank_cell"
    UNKNOWN_SPLIT = "unknown_split"
    UNKNOWN_MEDIA = "unknown_media"
    DUPLICATE = "duplicate"
    DUPLICATE_ID = "duplicate_id"
    CONTRADICTING_LABELS = "contradicting_labels"
    PATH_TWIN = "path_twin"
    AMBIGUOUS_PATH = "ambiguous_path"
    UNKNOWN_VIDEO = "unknown_video"
    IMAGE = "image"
    NOT_TEXTS = "not_texts"
    WRONG_FORM = "wrong_form"
    NOT_A_NUMBER = "not_a_number"
    NEGATIVE_TIME = "negative_time"
    OUTSIDE_FRAME = "outside_frame"
    NO_AREA = "no_area"
    WRONG_SCORE = "wrong_score"
    WRONG_SOURCE = "wrong_source"
    # Not wrong by themselves: parameters of their own, or the fate of the video, decide about these.
    VIDEO_REJECTED = "video_rejected"
    DUPLICATE_CONTENT = "duplicate_content"
    CONTENT_IN_TWO_SPLITS = "content_in_two_splits"
    NEAR_DUPLICATE_IN_TWO_SPLITS = "near_duplicate_in_two_splits"


# Rows that are refused without a file being lost: another row has it.
NOTHING_LOST = frozenset(
    {
        RowReason.DUPLICATE,
        RowReason.PATH_TWIN,
        RowReason.DUPLICATE_CONTENT,
        RowReason.CONTENT_IN_TWO_SPLITS,
        RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS,
    }
)
# Rows that are not wrong by themselves.
OTHERS_DECIDE = frozenset(
    {
        RowReason.VIDEO_REJECTED,
        RowReason.DUPLICATE_CONTENT,
        RowReason.CONTENT_IN_TWO_SPLITS,
        RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS,
    }
)
