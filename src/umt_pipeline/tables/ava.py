"""AVA 2.2: who does what, and where, in one frame per second of fifteen minutes of a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.labels import read_label_map
from umt_pipeline.tables.sources import Files, Place, number_of, whole_number

# The numbers of actions go from 1 to 80; 60 of them are evaluated.
NUM_ACTIONS = 80
NUM_EVALUATED = 60
_COLUMNS = "video, timestamp, x1, y1, x2, y2, action, person"


@dataclass(frozen=True)
class _Rules:
    """What a row of boxes is read by: names of actions and media files, frames to keep."""

    labels: dict[int, str]
    media: dict[str, str]
    suffix: str
    included: set[int] | None
    excluded: set[tuple[str, int]]

    @classmethod
    def of(cls, files: Files, suffix: str) -> _Rules:
        """Read the files that are not about boxes."""
        path = files.get("labels")
        labels = read_label_map(files, path) if path else {number: str(number) for number in range(1, NUM_ACTIONS + 1)}
        if path and len(labels) not in (NUM_EVALUATED, NUM_ACTIONS):
            kind = f"label map of {len(labels)} actions, where the public ones have {NUM_EVALUATED} or {NUM_ACTIONS}"
            files.notes.add(kind, Place(path.name, "entry", 0))
        names = [line.strip() for path in files.all("names") for _, line in files.lines(path)]
        path = files.get("included")
        included = {whole_number(line, place, "a timestamp") for place, line in files.lines(path)} if path else None
        return cls(labels, {name.rpartition(".")[0]: name for name in names}, suffix, included, _excluded(files))

    def file(self, name: str) -> str:
        return self.media.get(name, name + self.suffix)

    def keeps(self, name: str, timestamp: float) -> bool:
        second = int(timestamp)
        return (name, second) not in self.excluded and (self.included is None or second in self.included)


def read_ava(files: Files, out: Collector, suffix: str) -> None:
    """Read actions and a detector's person boxes, both without header.

    Rows of actions: video, timestamp, x1, y1, x2, y2, action, person. Rows of detections: the same with a score in place of
    the person. Boxes at excluded timestamps are left out, and so are, if there is a list of included ones, those at others;
    with a label map, also those of actions that it does not have, as the official evaluation does. All of it is noted.

    Args:
        files: ``train``, ``validation`` (actions), ``test`` (names of videos); ``train_excluded``, ``validation_excluded``,
            ``test_excluded`` (video, timestamp); ``train_detections``, ``validation_detections``, ``test_detections``;
            ``included``, a list of timestamps; ``names``, lists of media files, which have different suffixes;
            ``labels``, a ``.pbtxt``, without which an action is its number.
        out: takes the rows.
        suffix: of media files that ``names`` does not have.

    Raises:
        TableError: a row has other cells, an edge lies outside the frame, an action is not between 1 and 80.
    """
    rules = _Rules.of(files, suffix)
    for split, path in files.splits():
        if split == "test":
            for place, line in files.lines(path):
                out.video(rules.file(line.strip()), split, place)
        else:
            _read_boxes(files, out, path, split, rules, detected=False)
    for split, path in files.splits("_detections"):
        _read_boxes(files, out, path, split, rules, detected=True)


def _read_boxes(files: Files, out: Collector, path: Path, split: str, rules: _Rules, *, detected: bool) -> None:
    for place, cells in files.rows(path):
        if len(cells) != 8:
            raise TableError(f"{place}: expected 8 cells ({_COLUMNS} or score), found {len(cells)}.")
        name, time, *edges, action, last = (cell.strip() for cell in cells)
        video = out.video(rules.file(name), split, place)
        timestamp = number_of(time, place, "a timestamp in seconds")
        label = _label(action, rules.labels, place)
        if not rules.keeps(name, timestamp):
            out.notes.add("boxes at timestamps that are excluded or not included were left out", place)
        elif not any(edges):
            out.notes.add("frames have no box", place)
        elif label is None:
            out.notes.add("boxes of actions that the label map does not have were left out", place)
        else:
            x1, y1, x2, y2 = (number_of(edge, place, "a box edge") for edge in edges)
            more = {"score": _score(last, place), "source": "detected"} if detected else {"person": last}
            out.box(video, timestamp, (x1, y1, x2, y2), place, label=label, **more)


def _score(text: str, place: Place) -> float:
    score = number_of(text, place, "a score")
    if not 0.0 <= score <= 1.0:
        raise TableError(f"{place}: expected a score from 0 to 1, found {score}.")
    return score


def _label(action: str, labels: dict[int, str], place: Place) -> str | None:
    if action in ("", "-1"):
        return ""
    number = whole_number(action, place, "the number of an action")
    if not 1 <= number <= NUM_ACTIONS:
        raise TableError(f"{place}: expected an action from 1 to {NUM_ACTIONS}, found {number}.")
    return labels.get(number)


def _excluded(files: Files) -> set[tuple[str, int]]:
    frames = set()
    for _, path in files.splits("_excluded"):
        for place, cells in files.rows(path):
            if len(cells) != 2:
                raise TableError(f"{place}: expected 2 cells (video, timestamp), found {len(cells)}.")
            frames.add((cells[0].strip(), whole_number(cells[1], place, "a timestamp")))
    return frames
