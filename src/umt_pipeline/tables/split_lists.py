"""Data sets that come as lists of files with class names: UCF101, HMDB51, Moments in Time."""

from __future__ import annotations

import re

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.labels import label_of, read_label_map
from umt_pipeline.tables.sources import Files, whole_number

_HMDB51_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>\d)\.txt")
_HMDB51_SPLITS = {1: "train", 2: "test"}


def read_ucf101(files: Files, out: Collector, suffix: str) -> None:
    """Read ``trainlist0N.txt`` (``Class/clip.avi number``) and ``testlist0N.txt`` (``Class/clip.avi``).

    Args:
        files: ``train``, ``test``; ``labels``, ``classInd.txt``, with which names and numbers are compared.
        out: takes the rows.
        suffix: not used; the lists name whole files.

    Raises:
        TableError: a path has no class folder, or folder, number and ``classInd.txt`` contradict each other.
    """
    path = files.get("labels")
    labels = read_label_map(files, path) if path else None
    for split, path in files.splits():
        for place, line in files.lines(path):
            fields = line.split()
            label, _, clip = fields[0].rpartition("/")
            if not label or not clip or len(fields) > 2:
                raise TableError(f"{place}: expected 'Class/clip.avi' and at most a number after it, found {line!r}.")
            if labels is not None and label not in labels.values():
                raise TableError(f"{place}: expected a class of the label map, found '{label}'.")
            if labels is not None and len(fields) == 2:
                named = label_of(labels, whole_number(fields[1], place, "a label"), place)
                if named != label:
                    raise TableError(f"{place}: expected the number of '{label}', found that of '{named}'.")
            out.label(out.video(fields[0], split, place), "ucf101", label, place)


def read_hmdb51(files: Files, out: Collector, suffix: str) -> None:
    """Read the ``<class>_test_split<N>.txt`` of one N: ``clip.avi 1`` for training, 2 for test, 0 for neither.

    Args:
        files: ``lists``, one per class.
        out: takes the rows; videos are ``<class>/<clip>``, as the archives unpack.
        suffix: not used; the lists name whole files.

    Raises:
        TableError: the files are of different splits, a name does not tell the class, or a line has another form.
    """
    numbers = set()
    for path in files.all("lists"):
        match = _HMDB51_NAME.fullmatch(path.name)
        if match is None:
            raise TableError(f"{path.name}: expected a name such as brush_hair_test_split1.txt, which tells the class.")
        numbers.add(match["split"])
        if len(numbers) > 1:
            raise TableError(
                f"{path.name}: expected the files of one of the three splits, found those of {', '.join(sorted(numbers))}. "
                "Give *_test_split1.txt for the first."
            )
        for place, line in files.lines(path):
            clip, _, mark = line.strip().rpartition(" ")
            number = whole_number(mark, place, "0, 1 or 2 after the name of the clip")
            if number not in (0, *_HMDB51_SPLITS) or not clip.strip():
                raise TableError(f"{place}: expected a clip and 0, 1 or 2, found {line!r}.")
            if number == 0:
                out.notes.add("clips of neither training nor test were left out", place)
            else:
                video = out.video(f"{match['label']}/{clip.strip()}", _HMDB51_SPLITS[number], place)
                out.label(video, "hmdb51", match["label"], place)


def read_moments(files: Files, out: Collector, suffix: str) -> None:
    """Read ``trainingSet.csv`` and ``validationSet.csv``: ``label/clip.mp4,label`` and counts of votes, without header.

    Args:
        files: ``train``, ``validation``; ``labels``, ``moments_categories.txt``, with which labels are compared.
        out: takes the rows; videos lie in the folders ``training`` and ``validation``, as the archive unpacks.
        suffix: not used; the lists name whole files.

    Raises:
        TableError: a row has fewer than two cells, or a label is not in the map.
    """
    path = files.get("labels")
    labels = set(read_label_map(files, path).values()) if path else None
    for split, path in files.splits():
        folder = {"train": "training"}.get(split, split)
        for place, cells in files.rows(path):
            if len(cells) < 2:
                raise TableError(f"{place}: expected at least two cells, path and label; found {len(cells)}.")
            label = cells[1].strip()
            if labels is not None and label not in labels:
                raise TableError(f"{place}: expected one of the {len(labels)} labels of the map, found '{label}'.")
            out.label(out.video(f"{folder}/{cells[0].strip()}", split, place), "moments", label, place)
