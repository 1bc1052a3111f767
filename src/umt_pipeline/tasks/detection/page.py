"""The page of action detection: how well actions are told, which ones, and in which key frames they are told best and worst."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.reports.figures import svg_picture, training_curves
from umt_pipeline.reports.page import Bar, Bars, Cell, Example, Film, Page, Said, Section, Table, subsection
from umt_pipeline.reports.tables import NOTHING, Compared, Scored, percent, score_table, share_cells, table
from umt_pipeline.tasks.detection.boxes import BOX, FRAME
from umt_pipeline.tasks.detection.figures import Box, boxes_on_frame, corner_names
from umt_pipeline.tasks.detection.testing import SHOWN
from umt_pipeline.tasks.task import RUN_NAMES, Shown

_CHANCE = "chance"
_NAMES = {**RUN_NAMES, _CHANCE: "Chance"}  # also the order of rows
_FRAMES_OF_A_KIND = 6
_ACTIONS_NAMED = 3


@dataclass(frozen=True)
class Actions:
    """The actions and where they are done.

    Attributes:
        truth: annotated boxes of the test, a row per box and action.
        trained: how many training boxes each action has.
        groups: evaluated actions by the name of a group.
    """

    truth: pd.DataFrame
    trained: Mapping[str, int]
    groups: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class KeyFrame:
    """A key frame to show.

    Attributes:
        video: the path of its video.
        timestamp_s: where it is in the film.
        best: whether it is shown because it is told so well, or so badly.
        people: boxes that people drew.
        found: boxes of the person detector.
        example: what there is to see.
    """

    video: str
    timestamp_s: float
    best: bool
    people: Sequence[Box]
    found: Sequence[Box]
    example: Example


def choose_frames(predictions: pd.DataFrame, truth: pd.DataFrame) -> list[KeyFrame]:
    """Return the key frames that the first model tells best, then those that it tells worst, none twice.

    A frame is as good as the share of its true actions that are among as many best ones of a box at the person who does them;
    of equal frames come first those in which the model is surest. Frames without a box or an action are left out.
    """
    there = set(predictions.get("model", ()))
    models = [name for name in _NAMES if name in there]
    if not models:
        return []
    read = {model: predictions[(predictions["model"] == model) & (predictions["failure"] == "")] for model in models}
    grades = _grades(read[models[0]], truth)
    share = {frame: right / true for frame, (right, true, _) in grades.items()}
    sure = {frame: score for frame, (_, _, score) in grades.items()}
    ranked = sorted(share, key=lambda frame: (-share[frame], -sure[frame], frame))
    best = ranked[: min(_FRAMES_OF_A_KIND, -(-len(ranked) // 2))]
    worst = sorted(set(share).difference(best), key=lambda frame: (share[frame], -sure[frame], frame))[:_FRAMES_OF_A_KIND]
    chosen = []
    for video, at in (*best, *worst):
        right, true, _ = grades[video, at]
        drawn = truth[_at(truth, video, at)].groupby(BOX, sort=False)["label"]
        people = {_box(edges): ", ".join(name for name in labels if name) for edges, labels in drawn}
        told = {model: rows[_at(rows, video, at)].to_dict("records") for model, rows in read.items()}
        named = zip(corner_names(len(people)), people.values(), strict=True)
        said = [Said("The truth", " · ".join(f"{name}: {actions or 'no action'}" for name, actions in named))]
        for model, rows in told.items():
            boxes = (f"{index}: {_best(row)}" for index, row in enumerate(rows, start=1))
            said.append(Said(_NAMES[model], " · ".join(boxes) or "(no box)"))
        name, verdict = f"{video}, {at:g} s", f"{right:,} of {true:,}"
        example = Example(name, Film(name), tuple(said), verdict, right == true, about="the key frame")
        found = [_box([row[edge] for edge in BOX]) for row in told[models[0]]]
        chosen.append(KeyFrame(video, at, (video, at) in best, list(people), found, example))
    return chosen


def _grades(first: pd.DataFrame, truth: pd.DataFrame) -> dict[tuple[str, float], tuple[int, int, float]]:
    """Return of each key frame with a box and an action: how many actions a model tells, of how many, and its best score."""
    right: Counter[tuple[str, float]] = Counter()
    named: Counter[tuple[str, float]] = Counter()
    sure: dict[tuple[str, float], float] = defaultdict(float)
    for row in first[first["true"] != ""].to_dict("records"):
        frame = str(row["video"]), float(row["timestamp_s"])
        true = str(row["true"]).split("; ")
        told = [row[f"action{rank}"] for rank in range(1, min(len(true), SHOWN) + 1) if f"action{rank}" in row]
        right[frame] += len(set(true) & set(told))
        named[frame] += len(true)
        sure[frame] = max(sure[frame], float(row["score1"]))
    # Two boxes may stand at one person, and none at another.
    done = truth[truth["label"] != ""].groupby(FRAME).size().to_dict()
    return {frame: (right[frame], max(named[frame], done.get(frame, 0)), sure[frame]) for frame in named}


def detection_page(
    shown: Shown[Any, Any],
    actions: Actions,
    notes: Sequence[str],
    read: Callable[[str, float], np.ndarray],
) -> Page:
    """Return the page.

    Args:
        shown: what was trained and found. Metrics are ``test`` and ``per_action`` in percent, and ``missed``; predictions a row
            for each box and model with ``true``, ``failure``, ``action1`` ... and ``score1`` ..., as text or as numbers; the
            picture is of some key frames and of all average precisions.
        actions: what there is to tell.
        notes: what was skipped and why.
        read: the key frame of a video's path at a time, uint8 RGB [H, W, 3]. Raises :class:`VideoError`.
    """
    test = {name: shown.metrics["test"][name] for name in _NAMES if name in shown.metrics["test"]}
    curves = training_curves("detection", {_NAMES[name]: rows for name, rows in shown.histories.items()})
    picture = svg_picture(shown.picture, "Key frames with true and found boxes, and the average precision of each action")
    frames = {frame.example.head: frame for frame in choose_frames(shown.predictions, actions.truth)}
    bars = [Bar(_NAMES[name], row["map"], name == _CHANCE) for name, row in test.items()]

    def draw(name: str) -> np.ndarray:
        frame = frames[name]
        return boxes_on_frame(read(frame.video, frame.timestamp_s), frame.people, frame.found)[None]

    return Page(
        title="Action detection: report",
        summary=_summary(test, shown.metrics, actions),
        tiles=[compared.tile for compared in _compared(test)],
        notes=notes,
        sections=[
            Section("Results", [Bars([("Mean average precision (%)", bars)]) if test else None], missing="Nothing was tested."),
            Section(
                "Mean average precision",
                [_group_table(test)],
                "On held-out key frames, in percent, at an overlap of one half. Boxes in key frames that cannot be read count "
                "as missed; ties never help. The best value of each column is set in bold. Chance gives every action of every "
                "box the same score.",
                "Nothing was tested.",
            ),
            Section(
                "Actions", [_action_table(shown.metrics, actions, list(test)) if test else None], missing="Nothing was tested."
            ),
            Section("Training", [curves], missing="Nothing was trained."),
            Section("Overview", [picture if test else None], missing="Nothing was tested."),
            Section(
                "Key frames",
                [
                    block
                    for best, title in ((True, "Told best"), (False, "Told worst"))
                    for block in subsection(title, [frame.example for frame in frames.values() if frame.best == best])
                ],
                "Those that the first model tells best and worst: by the share of the true actions that are among as many best "
                "ones of a box at the person who does them. White boxes with letters are those that people drew, pink ones "
                "with numbers those that were to be told.",
                "There is no key frame to show.",
            ),
            Section("Missed", [_missed(shown)], "Their boxes count as missed.", "No key frame was missed."),
        ],
        records=shown.records,
        frames=draw,
    )


def _at(rows: pd.DataFrame, video: str, timestamp_s: float) -> pd.Series:
    return (rows["video"] == video) & (rows["timestamp_s"].astype(float) == timestamp_s)


def _box(edges: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = (float(edge) for edge in edges)
    return x1, y1, x2, y2


def _best(row: Mapping[Any, Any]) -> str:
    ranks = [rank for rank in range(1, _ACTIONS_NAMED + 1) if f"action{rank}" in row]
    return ", ".join(f"{row[f'action{rank}']} {float(row[f'score{rank}']):.2f}" for rank in ranks)


def _summary(test: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any], actions: Actions) -> list[str]:
    if not test:
        return []
    compared, *_ = _compared(test)
    frames = len(actions.truth.drop_duplicates(FRAME))
    return [
        f"The detector fine-tuned {_NAMES[next(iter(test))].lower()} tells {len(metrics['per_action']):,} actions with a mean "
        f"average precision of {percent(compared.value)} in {frames:,} held-out key frames in which people drew a box "
        f"({compared.against})."
    ]


def _compared(test: Mapping[str, Mapping[str, float]]) -> list[Compared]:
    """Return mean average precision of the first model over all actions, and over those of each group."""
    (_, first), *others = test.items() or [("", {})]
    return [
        Compared(_column(column), value, {_NAMES[name].lower(): row[column] for name, row in others})
        for column, value in first.items()
    ]


def _column(name: str) -> str:
    if name == "top1":
        return "Actions that no wrong one outscores"
    return "mAP, all actions" if name == "map" else f"mAP, {name.removeprefix('map_').replace('_', ' ')}"


def _group_table(test: Mapping[str, Mapping[str, float]]) -> Table | None:
    columns = {column: _column(column) for row in test.values() for column in row}
    rows = [Scored(Cell(_NAMES[name]), row) for name, row in test.items() if name != _CHANCE]
    return score_table("Mean average precision", rows, columns, {_NAMES[_CHANCE]: test.get(_CHANCE, {})})


def _action_table(metrics: Mapping[str, Any], actions: Actions, models: Sequence[str]) -> Table | None:
    """Return a row per action that has ground truth, those that the first model tells best first."""
    tested = Counter(actions.truth.drop_duplicates([*FRAME, *BOX, "label"])["label"])
    groups: dict[str, list[str]] = defaultdict(list)
    for name, members in actions.groups.items():
        for action in members:
            groups[action].append(name)
    values = {action: row for action, row in metrics["per_action"].items() if row}
    trained = [name for name in models if name != _CHANCE]
    rows = []
    for action, row in sorted(values.items(), key=lambda item: (-item[1][models[0]], item[0])):
        own = [", ".join(groups[action]) or NOTHING] if actions.groups else []
        count = actions.trained.get(action, 0)
        boxes = Cell(f"{count:,}", style="" if count else "bad"), tested[action]
        rows.append((action, *own, *boxes, *share_cells({name: row[name] for name in models}, trained)))
    grouped = ("Group",) if actions.groups else ()
    head = ("Action", *grouped, "Boxes in training", "In the test", *(f"{_NAMES[model]}, %" for model in models))
    return table("Average precision of each action", head, rows, "An action without a box in the test has none.")


def _missed(shown: Shown[Any, Any]) -> Table | None:
    """Return the key frames that could not be read, and the videos in which there was no box to tell."""
    found = shown.predictions
    failed = found[found["failure"] != ""].drop_duplicates(FRAME) if "failure" in found else found
    rows = [(str(row["video"]), f"{float(row['timestamp_s']):g} s", str(row["failure"])) for row in failed.to_dict("records")]
    unread = set(failed["video"])
    videos = {video: reason for missed in shown.metrics["missed"].values() for video, reason in missed["videos"].items()}
    rows += [(name, "all", reason) for name, reason in videos.items() if name not in unread]
    return table("Key frames that were missed whole", ("Video", "At", "Reason"), rows, words=True)
