"""Question answering in the files of its authors: MSRVTT-QA, MSVD-QA, ActivityNet-QA."""

from __future__ import annotations

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.retrieval import read_msvd_mapping
from umt_pipeline.tables.sources import Files, name_of, value_of
from umt_pipeline.tables.umt_style import read_answers


def read_xu_questions(files: Files, out: Collector, suffix: str, *, prefix: str) -> None:
    """Read ``train_qa.json``, ``val_qa.json``, ``test_qa.json`` of MSRVTT-QA or MSVD-QA.

    A list of ``{"id", "video_id": number, "question", "answer"}``.

    Args:
        files: ``train``, ``validation``, ``test``; ``answers``, the list of answers; ``mapping``, MSVD's
            ``youtube_mapping.txt``, with which videos have the names of the public clips.
        out: takes the rows.
        suffix: of media files.
        prefix: of videos' names, before the number, where there is no mapping.

    Raises:
        TableError: a key is missing or of another type, an id is there twice, or the mapping lacks a video.
    """
    out.answers = read_answers(files)
    path = files.get("mapping")
    clips = read_msvd_mapping(files, path) if path else None
    for split, path in files.splits():
        for place, item in files.items(path):
            number = name_of(item, "video_id", place)
            if clips is not None and number not in clips:
                raise TableError(f"{place}, key 'video_id': expected one of the mapping's {len(clips)}, found {number}.")
            name = clips[number] if clips is not None else prefix + number.removeprefix(prefix)
            out.question(
                name_of(item, "id", place),
                out.video(name + suffix, split, place),
                place,
                question=value_of(item, "question", str, place),
                answers=[value_of(item, "answer", str, place)],
            )


def read_activitynet_questions(files: Files, out: Collector, suffix: str) -> None:
    """Read ``train_q.json`` with ``train_a.json``, and the same of the other splits.

    Args:
        files: ``train``, ``validation``, ``test`` (questions); ``train_answers``, ``validation_answers``,
            ``test_answers``; ``answers``, the list of answers.
        out: takes the rows; videos are ``v_<video_name>``.
        suffix: of media files.

    Raises:
        TableError: a key is missing or of another type, an id is there twice, or a question has no answer.
    """
    out.answers = read_answers(files)
    given: dict[str, str] = {}
    for _, path in files.splits("_answers"):
        for place, item in files.items(path):
            key = name_of(item, "question_id", place)
            if key in given:
                raise TableError(f"{place}, key 'question_id': expected each id once, found '{key}' again.")
            given[key] = name_of(item, "answer", place)
    answered = {split for split, _ in files.splits("_answers")}
    for split, path in files.splits():
        for place, item in files.items(path):
            key = name_of(item, "question_id", place)
            if split in answered and key not in given:
                raise TableError(f"{place}, key 'question_id': expected an answer to '{key}', found none.")
            out.question(
                key,
                out.video(f"v_{name_of(item, 'video_name', place)}{suffix}", split, place),
                place,
                question=value_of(item, "question", str, place),
                answers=[given[key]] if split in answered else [],
            )
