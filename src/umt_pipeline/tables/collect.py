"""Rows as the readers find them, in; checked tables, out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.schemas import (
    NO_OPTION,
    RawBoxes,
    RawCaptions,
    RawLabels,
    RawQuestions,
    RawVideos,
    check_table,
)
from umt_pipeline.tables.annotations import Annotations, Source, count
from umt_pipeline.tables.sources import Files, Notes, Place

_SCHEMAS = {
    "videos": RawVideos,
    "captions": RawCaptions,
    "labels": RawLabels,
    "questions": RawQuestions,
    "boxes": RawBoxes,
}


class Collector:
    """Takes the rows of one data set and refuses those that contradict each other.

    A video may be named any number of times, in one split, and a label repeated. Captions are taken as often as they are
    there: MSR-VTT has videos with the same sentence twice, and leaving one out would change the benchmark.

    Args:
        name: the reader's.
        files: what is read; its notes become warnings.
    """

    def __init__(self, name: str, files: Files) -> None:
        self._name = name
        self._files = files
        self._splits: dict[str, str] = {}
        self._captions: list[tuple[str, str]] = []
        self._labels: dict[tuple[str, str], str] = {}
        self._questions: dict[str, list[Any]] = {}
        self._boxes: list[tuple[Any, ...]] = []
        self.answers: Sequence[str] = ()

    @property
    def notes(self) -> Notes:
        """The notes of this reading."""
        return self._files.notes

    def video(self, video: str, split: str, place: Place) -> str:
        """Take a video and return its name.

        Raises:
            TableError: the name is blank, or the video was in another split.
        """
        if not video.strip():
            raise TableError(f"{place}: expected the name of a video, found {video!r}.")
        before = self._splits.setdefault(video, split)
        if before != split:
            raise TableError(
                f"{place}: expected each video in one split, found '{video}' in {split} and before in {before}. "
                "A model would be tested on what it was trained on; remove it from one of them."
            )
        return video

    def knows(self, video: str) -> bool:
        """Return whether the video was taken."""
        return video in self._splits

    def caption(self, video: str, caption: str, place: Place) -> None:
        """Take a caption without the space around it. A blank one is left out and noted."""
        text = caption.strip()
        if text:
            self._captions.append((video, text))
        else:
            self.notes.add("blank captions were left out", place)

    def paragraph(self, video: str, sentences: Sequence[str], place: Place) -> None:
        """Take one caption: all sentences, in order, joined by a space."""
        self.caption(video, " ".join(sentence.strip() for sentence in sentences if sentence.strip()), place)

    def label(self, video: str, task: str, label: str, place: Place) -> None:
        """Take a label.

        Raises:
            TableError: it is blank, or the video has another label in this task.
        """
        if not label.strip():
            raise TableError(f"{place}: expected a label of '{video}', found {label!r}.")
        before = self._labels.setdefault((video, task), label)
        if before != label:
            raise TableError(
                f"{place}: expected one label of task '{task}' per video, found '{video}' as '{label}' and before as "
                f"'{before}'."
            )

    def question(
        self,
        question_id: str,
        video: str,
        place: Place,
        *,
        question: str = "",
        answers: Sequence[str] = (),
        options: Sequence[str] = (),
        correct: int = NO_OPTION,
    ) -> None:
        """Take a question, open or multiple-choice.

        Raises:
            TableError: its id was there before; a text is blank; ``correct`` is no index into the options.
        """
        if question_id in self._questions:
            raise TableError(f"{place}: expected each question id once, found '{question_id}' again.")
        if not question.strip() and not options:
            raise TableError(f"{place}: expected a question, found {question!r}.")
        for text in (*answers, *options):
            if not text.strip():
                raise TableError(f"{place}: expected answers and options that are not blank, found {text!r}.")
        if options and not 0 <= correct < len(options):
            raise TableError(f"{place}: expected the index of one of {len(options)} options, from 0; found {correct}.")
        self._questions[question_id] = [video, question, list(answers), list(options), correct]

    def box(
        self,
        video: str,
        timestamp_s: float,
        box: tuple[float, float, float, float],
        place: Place,
        *,
        label: str = "",
        person: str = "",
        score: float = 1.0,
        source: str = "annotated",
    ) -> None:
        """Take a box of x1, y1, x2, y2, as shares of the frame. One without area is left out and noted.

        Raises:
            TableError: an edge lies outside the frame.
        """
        if not all(0.0 <= edge <= 1.0 for edge in box):
            raise TableError(f"{place}: expected box edges from 0 to 1, found {', '.join(map(str, box))}.")
        if box[0] >= box[2] or box[1] >= box[3]:
            self.notes.add("boxes without area were left out", place)
            return
        self._boxes.append((video, timestamp_s, *box, label, person, score, source))

    def finish(self, known: Mapping[str, tuple[int, ...]]) -> Annotations:
        """Check the tables against their schemas and the counts against those of the public data set.

        Args:
            known: for keys of :attr:`Annotations.counts` the counts that published versions have. What was not read is
                not compared.

        Raises:
            TableError: no video was found, or a table breaks its schema.
        """
        if not self._splits:
            names = ", ".join(path.name for _, path in self._files)
            raise TableError(f"{names}: expected at least one video, found none.")
        frames = self._frames()
        tables = {name: check_table(frames[name], schema, name, {}) for name, schema in _SCHEMAS.items()}
        self._note_unreachable_answers(tables["questions"])
        counts = count(tables)
        warnings = [*self.notes.lines(), *self._without("captions", tables), *self._without("labels", tables)]
        for key, expected in known.items():
            if key in counts and counts[key] not in expected:
                published = " or ".join(f"{number:,}" for number in expected)
                warnings.append(f"{key}: the public data set has {published}, these files have {counts[key]:,}")
        return Annotations(
            name=self._name,
            **tables,
            answers=tuple(self.answers),
            sources=tuple(Source.of(role, path) for role, path in self._files),
            counts=counts,
            warnings=tuple(warnings),
        )

    def _frames(self) -> dict[str, pd.DataFrame]:
        labels = [(video, task, label) for (video, task), label in self._labels.items()]
        questions = [(key, *row) for key, row in self._questions.items()]
        rows: dict[str, list[Any]] = {
            "videos": [(video, split, self._name) for video, split in self._splits.items()],
            "captions": self._captions,
            "labels": labels,
            "questions": questions,
            "boxes": self._boxes,
        }
        columns = {name: list(schema.to_schema().columns) for name, schema in _SCHEMAS.items()}
        # What kind of file each is, the ingestion finds by opening it.
        columns["videos"].remove("media")
        return {name: pd.DataFrame(rows[name], columns=columns[name]) for name in rows}

    def _without(self, name: str, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        """Say how many videos lack what videos of their split have."""
        videos, rows = tables["videos"], tables[name]
        has = videos["video"].isin(rows["video"])
        sentences = []
        for split in videos["split"].unique():
            inside = videos["split"] == split
            lacking = videos.loc[inside & ~has, "video"]
            if len(lacking) > 0 and (has & inside).any():
                sentences.append(f"{len(lacking)} videos of {split} have no {name} (first: {lacking.iloc[0]})")
        return sentences

    def _note_unreachable_answers(self, questions: pd.DataFrame) -> None:
        if not self.answers:
            return
        reachable = set(self.answers)
        for question_id, answers in zip(questions["question_id"], questions["answers"], strict=True):
            if answers and reachable.isdisjoint(answers):
                self.notes.add(
                    "questions have no answer in the list of answers and cannot be answered rightly",
                    Place("questions", "id", str(question_id)),
                )


def with_suffix(path: str, suffix: str) -> str:
    """Append the media suffix to a path that has none.

    A dot alone does not make a suffix: clips of LSMDC end in a time such as ``00.00.54.129``.
    """
    return path if re.search(r"\.(?=[0-9]*[A-Za-z])[0-9A-Za-z]{2,5}$", path) else path + suffix
