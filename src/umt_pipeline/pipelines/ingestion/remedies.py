"""What each reason of the reject table means, what to do about it, and the parameter that decides: the one place for this.

``docs/rejects.md`` shows the same to readers.
"""

from __future__ import annotations

from dataclasses import dataclass

from umt_pipeline.schemas import RowReason
from umt_pipeline.video.media import Reason


@dataclass(frozen=True)
class Explanation:
    """What a reason says.

    Attributes:
        meaning: what was found, for the page.
        remedy: what to do, one sentence.
        parameter: of ``ingestion``; empty: none decides it.
    """

    meaning: str
    remedy: str
    parameter: str = ""


_BAD_ROW = "on_bad_row"

_OF_FILES = {
    Reason.MISSING_FILE: Explanation(
        "no file is at this path in the media folder",
        "Copy the file into the media folder, or correct the path: spelling, case and suffix count.",
    ),
    Reason.OUTSIDE_FOLDER: Explanation(
        "the path is absolute, or leaves the media folder by `..`",
        "Write the path relative to the media folder, and put the file or a link to it there.",
    ),
    Reason.UNREADABLE_FILE: Explanation(
        "the file cannot be opened or read",
        "Give yourself the right to read the file, or copy it again if the disk reports errors.",
    ),
    Reason.EMPTY_FILE: Explanation("the file has 0 bytes", "Download or export the file again."),
    Reason.FILE_CHANGED: Explanation(
        "the file was changed while it was read", "Wait until whoever writes the file is done, and run again."
    ),
    Reason.WRONG_MEDIA: Explanation(
        "the column `media` says video and the file is an image, or the other way round",
        "Correct the column media in the table of videos.",
        "columns.videos.media",
    ),
    Reason.NOT_A_VIDEO: Explanation(
        "no container format that FFmpeg knows: another kind of file by the name of a video, or one without its index",
        "Replace the file by a video; if its recording broke off, try to repair it with ffmpeg or untrunc.",
    ),
    Reason.NO_VIDEO_STREAM: Explanation("sound or subtitles alone", "Remove the row, or export the file with its picture."),
    Reason.UNKNOWN_CODEC: Explanation(
        "this FFmpeg has no decoder for the video stream", "Convert the file to H.264 with a program that can play it."
    ),
    Reason.NOT_AN_IMAGE: Explanation(
        "the suffix is that of an image, the content is not", "Replace the file by the image: it often is an error page."
    ),
    Reason.ANIMATED_IMAGE: Explanation(
        "an image file with several frames", "Convert the file to a video, or save one of its frames."
    ),
    Reason.CORRUPT_IMAGE: Explanation("the image does not decode", "Download or export the image again."),
    Reason.TOO_LARGE: Explanation("more pixels than any picture should have", "Scale the image down, or remove the row."),
    Reason.TOO_SMALL: Explanation(
        "a side has fewer pixels than allowed",
        "Find a larger copy of the file, or lower ingestion.rules.min_side.",
        "rules.min_side",
    ),
    Reason.TOO_SHORT: Explanation(
        "fewer frames than allowed", "Remove the row, or lower ingestion.rules.min_frames.", "rules.min_frames"
    ),
    Reason.UNKNOWN_LENGTH: Explanation(
        "neither header nor index says how many frames there are, and they were not to be decoded",
        "Set ingestion.rules.depth: full.",
        "rules.depth",
    ),
    Reason.TRUNCATED: Explanation("the file ends before its content does", "Download or copy the file again."),
    Reason.NO_KEY_FRAME: Explanation(
        "the file begins between key frames, so its first frames need others that were cut off",
        "Cut the file again at a key frame, or re-encode it with ffmpeg.",
    ),
    Reason.CORRUPT_FRAME: Explanation(
        "a frame does not decode",
        "Download or copy the file again; if it is so at its source, re-encode the part that plays with ffmpeg.",
    ),
    Reason.WRONG_SHAPE: Explanation(
        "frames have another size than the header says, or change it",
        "Re-encode the file to one size with ffmpeg.",
    ),
    Reason.FRAME_OUT_OF_RANGE: Explanation(
        "the file has fewer frames than its header says", "Download the file again, or re-encode it with ffmpeg."
    ),
    Reason.DECODER_CRASH: Explanation(
        "the process that decoded the file died", "Re-encode the file with ffmpeg, or remove the row."
    ),
    Reason.DECODER_TIMEOUT: Explanation(
        "the file was not decoded within the time that its length allows",
        "Re-encode the file with ffmpeg; if it is sound and the machine slow, raise ingestion.limits.",
        "limits",
    ),
    Reason.OUT_OF_MEMORY: Explanation(
        "decoding the file needs more memory than allowed",
        "Scale the file down with ffmpeg, or raise ingestion.limits.memory_mib.",
        "limits.memory_mib",
    ),
}

_OF_ROWS = {
    RowReason.NOT_TEXT: Explanation(
        "a cell holds a number with a fraction, a truth value, a list or an object",
        "Write the cell as text, in quotes.",
        _BAD_ROW,
    ),
    RowReason.BROKEN_TEXT: Explanation(
        "a cell holds half a character (a lone surrogate), which no file in UTF-8 can hold",
        "Export the table again as UTF-8, or correct the character.",
        _BAD_ROW,
    ),
    RowReason.BLANK_CAPTION: Explanation(
        "the caption is empty, or of spaces and invisible characters only",
        "Write a caption, or remove the row.",
        _BAD_ROW,
    ),
    RowReason.BLANK_CELL: Explanation(
        "a cell that needs a value has none, or only invisible characters",
        "Fill the cell in, or remove the row.",
        _BAD_ROW,
    ),
    RowReason.UNKNOWN_SPLIT: Explanation(
        "the split is none of `ingestion.splits`",
        "Correct the split, or add it to ingestion.splits.",
        f"{_BAD_ROW}, splits",
    ),
    RowReason.UNKNOWN_MEDIA: Explanation(
        "the column `media` says neither video nor image",
        "Write video or image, or set ingestion.columns.videos.media: null.",
        _BAD_ROW,
    ),
    RowReason.DUPLICATE: Explanation(
        "another row says the same, or names the same file; that one is kept", "Remove the row: nothing is lost.", _BAD_ROW
    ),
    RowReason.DUPLICATE_ID: Explanation(
        "an earlier row has this `question_id`, or this `video_id` for another file", "Give each a name of its own.", _BAD_ROW
    ),
    RowReason.CONTRADICTING_LABELS: Explanation(
        "rows give one video different labels in one task; none of them is taken",
        "Keep the row with the right label, or give the others another task.",
        _BAD_ROW,
    ),
    RowReason.PATH_TWIN: Explanation(
        "the path differs from another row's in case or Unicode form only, and there is one file for both",
        "Remove the row, or copy the missing file if there should be two.",
        _BAD_ROW,
    ),
    RowReason.AMBIGUOUS_PATH: Explanation(
        "no file is called exactly so, and several differ from the path in Unicode form only",
        "Rename the files so that they differ visibly, and write the path as its file is called.",
        _BAD_ROW,
    ),
    RowReason.UNKNOWN_VIDEO: Explanation(
        "the row names a video that is not in the table of videos",
        "Add the video to the table of videos, write the path as it stands there, or remove the row.",
        _BAD_ROW,
    ),
    RowReason.IMAGE: Explanation("a question or box of an image; they are of videos", "Remove the row.", _BAD_ROW),
    RowReason.NOT_TEXTS: Explanation(
        "`answers` or `options` is no list of texts that are not blank", "Write a list of texts.", _BAD_ROW
    ),
    RowReason.WRONG_FORM: Explanation(
        "neither a question without options nor options of which `correct` is one",
        "Give a question, or options with correct counted from 0.",
        _BAD_ROW,
    ),
    RowReason.NOT_A_NUMBER: Explanation("a number was expected and another value found", "Write a finite number.", _BAD_ROW),
    RowReason.NEGATIVE_TIME: Explanation(
        "the time of a box is before the start", "Write seconds from the start of the film.", _BAD_ROW
    ),
    RowReason.OUTSIDE_FRAME: Explanation(
        "an edge of a box is below 0 or above 1", "Write edges as shares of the frame, not in pixels.", _BAD_ROW
    ),
    RowReason.NO_AREA: Explanation(
        "a box whose edges meet or are the wrong way round", "Write x1 < x2 and y1 < y2, or remove the row.", _BAD_ROW
    ),
    RowReason.WRONG_SCORE: Explanation("a score below 0 or above 1", "Write scores as shares of 1.", _BAD_ROW),
    RowReason.WRONG_SOURCE: Explanation(
        "the source of a box is neither annotated nor detected", "Write annotated or detected.", _BAD_ROW
    ),
    RowReason.VIDEO_REJECTED: Explanation(
        "the row is right, its video was rejected", "See the reject of the video: with it, this row comes back."
    ),
    RowReason.DUPLICATE_CONTENT: Explanation(
        "the file has the same bytes as another one of its split",
        "Remove the row, or set ingestion.on_duplicate_content: keep.",
        "on_duplicate_content",
    ),
    RowReason.CONTENT_IN_TWO_SPLITS: Explanation(
        "the same file or the same bytes are in a split that is held out more",
        "Remove the row, or move all copies into one split.",
        "on_content_in_two_splits",
    ),
    RowReason.NEAR_DUPLICATE_IN_TWO_SPLITS: Explanation(
        "the file looks like one in a split that is held out more",
        "Move all that look the same into one split, or set ingestion.on_near_duplicates_across_splits: report.",
        "on_near_duplicates_across_splits",
    ),
}

EXPLANATIONS: dict[str, Explanation] = {
    str(reason): explanation for reason, explanation in [*_OF_FILES.items(), *_OF_ROWS.items()]
}


def remedy(reason: str) -> str:
    """Return what to do about a reason."""
    return EXPLANATIONS[reason].remedy
