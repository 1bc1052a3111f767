"""Node that turns the raw question table into questions about accepted videos, rejects, and counts that add up."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.pipelines.question_answering.params import QuestionAnsweringParams
from umt_pipeline.schemas import NO_OPTION, Questions, RawQuestions, Rejects, check_table, select_columns

logger = logging.getLogger(__name__)

TEXTS = ("question_id", "video", "question")
LISTS = ("answers", "options")
COLUMNS = list(Questions.to_schema().columns)
REJECT_COLUMNS = list(Rejects.to_schema().columns)


def read_questions(
    params: QuestionAnsweringParams, raw_questions: pd.DataFrame, videos: pd.DataFrame, rejects: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Check the raw table and join it to accepted videos.

    Args:
        params: splits to count.
        raw_questions: as :class:`RawQuestions` describes it. A cell that is not there is empty; other columns are not
            used, and reported. Without a row the project has no questions, which is no error.
        videos: the clean video table.
        rejects: what the ingestion did not accept.

    Returns:
        The clean questions; rejects of the question table; the report.

    Raises:
        TableError: the table breaks its schema, or none of its questions is about an accepted video.
    """
    listed, ignored = _listed(raw_questions)
    clips = videos[videos["media"] == "video"]
    ids = dict(zip(clips["path"], clips["video_id"], strict=True))
    stills = set(videos.loc[videos["media"] != "video", "path"])
    broken = rejects[rejects["table"] == "videos"]
    reasons = dict(zip(broken["video"], broken["reason"], strict=True))
    rejected = []
    for row, video in enumerate(listed["video"]):
        if video in ids:
            continue
        if video in reasons:
            reason, detail = "video_rejected", f"its video was rejected: {reasons[video]}"
        elif video in stills:
            reason, detail = "image", "questions are asked about videos"
        else:
            reason, detail = "unknown_video", "not in the table of videos"
        rejected.append({"table": "questions", "row": row, "video": video, "reason": reason, "detail": detail})
    table = pd.DataFrame(rejected, columns=REJECT_COLUMNS).astype({"row": "int64"})
    known = listed["video"].isin(list(ids))
    accepted = listed[known].assign(video_id=listed.loc[known, "video"].map(ids).astype(str))[COLUMNS].reset_index(drop=True)
    if len(accepted) + len(table) != len(listed):
        raise TableError(
            f"Table raw_questions: {len(listed)} rows were read, {len(accepted)} accepted and {len(table)} rejected. Please "
            "report this: the program is wrong, not your table."
        )
    counts = dict(sorted(Counter(table["reason"]).items()))
    if len(listed) and accepted.empty:
        raise TableError(
            f"Table raw_questions: none of {len(listed)} questions is about an accepted video: {counts}, the first about "
            f"'{table['video'].iloc[0]}'. Expected paths as in the table of videos, such as '{clips['path'].iloc[0]}'."
        )
    logger.info("questions: %d of %d accepted, rejected: %s", len(accepted), len(listed), counts or "none")
    report = {
        "rows_in": len(listed),
        "accepted": len(accepted),
        "rejected": len(table),
        "reasons": counts,
        "ignored_columns": ignored,
        "splits": {
            split: _count(accepted, clips[clips["split"] == split]) for split in (params.train_split, *params.test_splits)
        },
    }
    return accepted, table, report


def is_open(questions: pd.DataFrame) -> pd.Series:
    """Tell for each question whether its answer is free, rather than one of its options."""
    return questions["correct"] == NO_OPTION


def _listed(raw: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the raw table with our columns, checked, and the names of those that are not used."""
    absent = [name for name in ("question_id", "video") if name not in raw]
    if absent and len(raw):
        raise TableError(
            f"Table raw_questions: expected the columns question_id and video, and question with answers or options with "
            f"correct; found {', '.join(map(str, raw))}; missing: {', '.join(absent)}. Rename them in the file."
        )
    table = raw if "question" in raw or raw.empty else raw.assign(question="")
    # The names are ours already; this makes texts of numbers, and says which cell is neither.
    listed, unused = select_columns(table, {name: name for name in TEXTS}, "raw_questions", "raw_questions")
    listed["video"] = listed["video"].map(lambda video: str(PurePosixPath(video)) if video.strip() else video).astype(str)
    for name in LISTS:
        listed[name] = pd.Series([_as_list(value) for value in _cells(raw, name)], dtype=object)
    correct = [NO_OPTION if _is_missing(value) else value for value in _cells(raw, "correct")]
    listed["correct"] = pd.Series(correct, dtype=object if correct else "int64").infer_objects()
    columns = list(RawQuestions.to_schema().columns)
    ignored = [name for name in unused if name not in columns]
    return check_table(listed[columns], RawQuestions, "raw_questions", {}), ignored


def _cells(raw: pd.DataFrame, name: str) -> list[Any]:
    return raw[name].tolist() if name in raw else [None] * len(raw)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))


def _as_list(value: Any) -> Any:
    if _is_missing(value):
        return []
    return value.tolist() if isinstance(value, np.ndarray) else value


def _count(questions: pd.DataFrame, clips: pd.DataFrame) -> dict[str, int]:
    own = questions[questions["video_id"].isin(clips["video_id"])]
    free = is_open(own)
    answered = own["answers"].map(len).astype(int) > 0
    return {
        "open": int((free & answered).sum()),
        "open_without_answer": int((free & ~answered).sum()),
        "multiple_choice": int((~free).sum()),
        "videos": len(clips),
        "videos_without_question": int((~clips["video_id"].isin(own["video_id"])).sum()),
    }
