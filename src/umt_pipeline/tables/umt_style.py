"""The JSON and SQLite files that UMT, VindLU and Singularity train on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector, with_suffix
from umt_pipeline.tables.sources import Files, Place, name_of, texts_of, value_of


def read_captions(files: Files, out: Collector, suffix: str, *, paragraph: bool) -> None:
    """Read lists of ``{"video" or "image": path, "caption": text}``, or databases with a table ``annos`` of the same.

    ``caption`` may be a list: several captions of one video (MSVD), or, with ``paragraph``, the sentences of one (DiDeMo,
    ActivityNet). ``video`` may be a list too: one caption of several videos (SSv2-template).

    Args:
        files: ``train``, ``validation``, ``test``.
        out: takes the rows.
        suffix: of media files that are named without one.
        paragraph: join the texts of a list.

    Raises:
        TableError: a key is missing or of another type, or the database has another table.
    """
    for split, path in files.splits():
        items = _database_items(path) if _is_database(path) else files.items(path)
        for place, item in items:
            captions = texts_of(item, "caption", place)
            for video in _videos(item, place, suffix):
                out.video(video, split, place)
                if paragraph:
                    out.paragraph(video, captions, place)
                    continue
                for caption in captions:
                    out.caption(video, caption, place)


def read_open_questions(files: Files, out: Collector, suffix: str) -> None:
    """Read lists of ``{"video", "question", "question_id", "answer"}``, where ``answer`` may be a list.

    Numbers of questions are those of one file, so ours begin with the split: ``test/17``.

    Args:
        files: ``train``, ``validation``, ``test``; ``answers``, the list of answers.
        out: takes the rows.
        suffix: of media files that are named without one.

    Raises:
        TableError: a key is missing or of another type, an id is there twice, or the answers are no list of texts.
    """
    out.answers = read_answers(files)
    for split, path in files.splits():
        for place, item in files.items(path):
            (video,) = _videos(item, place, suffix, several=False)
            out.question(
                f"{split}/{name_of(item, 'question_id', place)}",
                out.video(video, split, place),
                place,
                question=value_of(item, "question", str, place),
                answers=texts_of(item, "answer", place) if "answer" in item or split != "test" else (),
            )


def read_multiple_choice(files: Files, out: Collector, suffix: str) -> None:
    """Read lists of ``{"video", "caption": options, "answer": index}``, as of MSRVTT-MC.

    A question's id is its row: ``test/17``.

    Args:
        files: ``train``, ``validation``, ``test``.
        out: takes the rows.
        suffix: of media files that are named without one.

    Raises:
        TableError: a key is missing or of another type, or the answer is no index into the options.
    """
    for split, path in files.splits():
        for place, item in files.items(path):
            (video,) = _videos(item, place, suffix, several=False)
            out.question(
                f"{split}/{place.number}",
                out.video(video, split, place),
                place,
                question=item.get("question") or "",
                options=[str(option) for option in value_of(item, "caption", list, place)],
                correct=value_of(item, "answer", int, place),
            )


def read_answers(files: Files) -> list[str]:
    """Read the list of answers that open questions are ranked against.

    JSON: a list of texts, or an object from texts to numbers, which give the order. Other files: an answer per line.

    Returns:
        The answers; none if no file has the role ``answers``.

    Raises:
        TableError: the file has another form, or an answer is there twice or blank.
    """
    path = files.get("answers")
    if path is None:
        return []
    if path.suffix.lower() == ".json":
        value: Any = files.json(path, object)
        if isinstance(value, dict) and all(isinstance(number, int) for number in value.values()):
            value = sorted(value, key=value.__getitem__)
        answers = texts_of({"answers": value}, "answers", Place(path.name, "item", "top"))
    else:
        answers = [line for _, line in files.lines(path)]
    seen: set[str] = set()
    for number, answer in enumerate(answers):
        if not answer.strip() or answer in seen:
            raise TableError(f"{path.name}, answer {number}: expected answers, each once, not blank; found {answer!r}.")
        seen.add(answer)
    return answers


def _videos(item: dict[str, Any], place: Place, suffix: str, *, several: bool = True) -> list[str]:
    key = "image" if "image" in item and "video" not in item else "video"
    videos = texts_of(item, key, place) if several else [value_of(item, key, str, place)]
    if not videos or not all(video.strip() for video in videos):
        raise TableError(f"{place}, key '{key}': expected names of media files, found {item[key]!r}.")
    return [with_suffix(video, suffix) for video in videos]


def _is_database(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\x00"


def _database_items(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the rows of the table ``annos`` as objects. The file is opened for reading alone, and not locked."""
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as database:
        columns = [str(row[1]) for row in database.execute("PRAGMA table_info(annos)")]
        media = [name for name in ("video", "image") if name in columns]
        if not media or not {"id", "caption"} <= set(columns):
            raise TableError(
                f"{path.name}: expected a table annos with the columns id, video or image, caption; "
                f"found {', '.join(columns) or 'no such table'}."
            )
        for number, video, caption in database.execute(f"SELECT id, {media[0]}, caption FROM annos ORDER BY id"):
            yield Place(path.name, "row", number), {media[0]: video, "caption": caption}
