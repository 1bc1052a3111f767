"""The page of action detection: how well actions are told, which ones, and in which key frames they are told best and worst."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from umt_pipeline.reports.examples import Example, Film, Said
from umt_pipeline.reports.figures import svg_picture, training_curves
from umt_pipeline.reports.tables import NOTHING, Bar, Cell, Heading, Row, Scored, Table, Tile, percent, score_table
from umt_pipeline.reports.task import Block, Section, TaskPage
from umt_pipeline.tasks.detection.figures import Box, corner_names
from umt_pipeline.tasks.detection.scoring import BOX
from umt_pipeline.tasks.detection.testing import SHOWN

_CHANCE = "chance"
_NAMES = {
    "stage1": "From stage 1",
    "stage2": "From stage 2",
    "scratch": "From scratch",
    "control": "From scratch (control)",
    _CHANCE: "Chance",
}
_FRAMES_OF_A_KIND = 6
_ACTIONS_NAMED = 3
_FRAME = ["video", "timestamp_s"]


@dataclass(frozen=True)
class DetectionResults:
    """What the test of the detectors found.

    Args:
        metrics: ``test`` and ``per_action`` in percent, ``actions``, ``missed``, ``table``.
        records: each number with its protocol.
        predictions: a row for each box and model: ``true``, ``failure``, ``action1`` ... and ``score1`` ..., as text or as
            numbers.
        truth: annotated boxes of the test, a row per box and action.
        trained: how many training boxes each action has.
        groups: evaluated actions by the name of a group.
        picture: SVG of some key frames and of all average precisions.
        histories: rows of training by model; empty where nothing was trained.
        notes: what was skipped and why.
    """

    metrics: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    predictions: pd.DataFrame
    truth: pd.DataFrame
    trained: Mapping[str, int]
    groups: Mapping[str, Sequence[str]]
    picture: str
    histories: Mapping[str, pd.DataFrame]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class KeyFrame:
    """A key frame to show.

    Args:
        name: names its picture.
        video: the path of its video.
        timestamp_s: where it is in the film.
        best: whether it is shown because it is told so well, or so badly.
        right: how many actions the first model tells there.
        true: of so many.
        people: boxes that people drew, and their actions.
        found: boxes of the person detector.
        said: model -> for each of ``found`` the best actions with their scores.
    """

    name: str
    video: str
    timestamp_s: float
    best: bool
    right: int
    true: int
    people: Sequence[tuple[Box, Sequence[str]]]
    found: Sequence[Box]
    said: Mapping[str, Sequence[Sequence[tuple[str, float]]]]


def choose_frames(results: DetectionResults) -> list[KeyFrame]:
    """Return the key frames that the first model tells best, then those that it tells worst, none twice.

    A frame is as good as the share of its true actions that are among as many best ones of a box at the person who does them;
    of equal frames come first those in which the model is surest. Frames without a box or an action are left out.
    """
    models = _models(results)
    if not models:
        return []
    table = results.predictions
    first = table[(table["model"] == models[0]) & (table["failure"] == "")]
    done = results.truth[results.truth["label"] != ""].groupby(_FRAME).size().to_dict()
    right: Counter[tuple[str, float]] = Counter()
    asked: Counter[tuple[str, float]] = Counter()
    sure: dict[tuple[str, float], float] = defaultdict(float)
    for row in first[first["true"] != ""].to_dict("records"):
        frame = str(row["video"]), float(row["timestamp_s"])
        true = str(row["true"]).split("; ")
        told = [row[f"action{place}"] for place in range(1, min(len(true), SHOWN) + 1) if f"action{place}" in row]
        right[frame] += len(set(true) & set(told))
        asked[frame] += len(true)
        sure[frame] = max(sure[frame], float(row["score1"]))
    # Two boxes may stand at one person, and none at another.
    true_count = {frame: max(asked[frame], done.get(frame, 0)) for frame in asked}
    share = {frame: right[frame] / true_count[frame] for frame in asked}
    ranked = sorted(share, key=lambda frame: (-share[frame], -sure[frame], frame))
    best = ranked[: min(_FRAMES_OF_A_KIND, -(-len(ranked) // 2))]
    worst = sorted(set(share).difference(best), key=lambda frame: (share[frame], -sure[frame], frame))[:_FRAMES_OF_A_KIND]
    return [_key_frame(results, models, frame, frame in best, right[frame], true_count[frame]) for frame in (*best, *worst)]


def detection_page(results: DetectionResults, frames: Sequence[KeyFrame]) -> TaskPage:
    """Return the page, yet without the pictures of key frames that it shows.

    Args:
        results: of the test.
        frames: from :func:`choose_frames`.
    """
    test = {name: results.metrics["test"][name] for name in _NAMES if name in results.metrics["test"]}
    curves = training_curves("detection", [(_NAMES[name], rows) for name, rows in results.histories.items()])
    picture = "Key frames with true and found boxes, and the average precision of each action"
    return TaskPage(
        title="Action detection: report",
        summary=_summary(results, test),
        tiles=_tiles(test),
        bars=[("Mean average precision (%)", [Bar(_NAMES[name], row["map"], name == _CHANCE) for name, row in test.items()])]
        if test else [],
        notes=results.notes,
        sections=[
            Section(
                "Mean average precision",
                [table for table in [_group_table(test)] if table],
                "On held-out key frames, in percent, at an overlap of one half. Boxes in key frames that cannot be read count "
                "as missed; ties never help. The best value of each column is set in bold. Chance gives every action of every "
                "box the same score.",
                "Nothing was tested.",
            ),
            Section("Actions", [_action_table(results, list(test))] if test else [], missing="Nothing was tested."),
            Section("Training", [curves] if curves else [], missing="Nothing was trained."),
            Section("Overview", [svg_picture(results.picture, picture)] if test else [], missing="Nothing was tested."),
            Section(
                "Key frames",
                _examples(frames),
                "Those that the first model tells best and worst: by the share of the true actions that are among as many best "
                "ones of a box at the person who does them. White boxes with letters are those that people drew, pink ones "
                "with numbers those that were to be told.",
                "There is no key frame to show.",
            ),
            Section("Missed", _missed(results), "Their boxes count as missed.", "No key frame was missed."),
        ],
        records=results.records,
    )  # fmt: skip


def _models(results: DetectionResults) -> list[str]:
    there = set(results.predictions.get("model", ()))
    return [name for name in _NAMES if name in there]


def _key_frame(
    results: DetectionResults, models: Sequence[str], frame: tuple[str, float], best: bool, right: int, true: int
) -> KeyFrame:
    video, at = frame
    drawn = results.truth[(results.truth["video"] == video) & (results.truth["timestamp_s"] == at)]
    table = results.predictions[(results.predictions["video"] == video) & (results.predictions["failure"] == "")]
    table = table[table["timestamp_s"].astype(float) == at]
    rows = {model: table[table["model"] == model].to_dict("records") for model in models}
    return KeyFrame(
        name=f"{video}, {at:g} s",
        video=video,
        timestamp_s=at,
        best=best,
        right=right,
        true=true,
        people=[(_box(box), [name for name in labels if name]) for box, labels in drawn.groupby(BOX, sort=False)["label"]],
        found=[_box([row[edge] for edge in BOX]) for row in rows[models[0]]],
        said={model: [_best(row) for row in told] for model, told in rows.items()},
    )


def _box(edges: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = (float(edge) for edge in edges)
    return x1, y1, x2, y2


def _best(row: Mapping[Any, Any]) -> list[tuple[str, float]]:
    places = [place for place in range(1, _ACTIONS_NAMED + 1) if f"action{place}" in row]
    return [(str(row[f"action{place}"]), float(row[f"score{place}"])) for place in places]


def _summary(results: DetectionResults, test: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not test:
        return []
    (name, values), *others = test.items()
    against = ", ".join(f"{_NAMES[other].lower()} {percent(row['map'])}" for other, row in others)
    count = len(results.metrics["per_action"])
    frames = len(results.truth.drop_duplicates(_FRAME))
    return [
        f"The detector fine-tuned {_NAMES[name].lower()} tells {count:,} actions with a mean average precision of "
        f"{percent(values['map'])} in {frames:,} held-out key frames in which people drew a box ({against})."
    ]


def _tiles(test: Mapping[str, Mapping[str, float]]) -> list[Tile]:
    """Return one tile for all actions, and one for each group."""
    if not test:
        return []
    first, *others = test
    tiles = []
    for column, value in test[first].items():
        beside = [f"{_NAMES[name].lower()} {percent(test[name][column])}" for name in others]
        tiles.append(Tile(_column(column), percent(value), beside))
    return tiles


def _column(name: str) -> str:
    return "mAP, all actions" if name == "map" else f"mAP, {name.removeprefix('map_').replace('_', ' ')}"


def _group_table(test: Mapping[str, Mapping[str, float]]) -> Table | None:
    columns = {column: _column(column) for row in test.values() for column in row}
    rows = [Scored(Cell(_NAMES[name]), row) for name, row in test.items() if name != _CHANCE]
    return score_table("Mean average precision", rows, columns, {_NAMES[_CHANCE]: test.get(_CHANCE, {})})


def _action_table(results: DetectionResults, models: Sequence[str]) -> Table:
    """Return a row per action that has ground truth, those that the first model tells best first."""
    tested = Counter(results.truth.drop_duplicates([*_FRAME, *BOX, "label"])["label"])
    groups: dict[str, list[str]] = defaultdict(list)
    for name, actions in results.groups.items():
        for action in actions:
            groups[action].append(name)
    values = {action: row for action, row in results.metrics["per_action"].items() if row}
    rows = []
    for action, row in sorted(values.items(), key=lambda item: (-item[1][models[0]], item[0])):
        told = [row[model] for model in models if model != _CHANCE]
        best = max(told) if max(told) > min(told) else None
        cells = [Cell(", ".join(groups[action]) or NOTHING)] if results.groups else []
        count = results.trained.get(action, 0)
        cells += [Cell(f"{count:,}", style="" if count else "bad"), Cell(f"{tested[action]:,}")]
        cells += [Cell(f"{row[name]:.1f}", style="best" if row[name] == best and name != _CHANCE else "") for name in models]
        rows.append(Row(Cell(action), tuple(cells)))
    grouped = ("Group",) if results.groups else ()
    head = ("Action", *grouped, "Boxes in training", "In the test", *(f"{_NAMES[model]}, %" for model in models))
    return Table("Average precision of each action", head, tuple(rows), "An action without a box in the test has none.")


def _examples(frames: Sequence[KeyFrame]) -> list[Block]:
    blocks: list[Block] = []
    for best, title in ((True, "Told best"), (False, "Told worst")):
        shown = [frame for frame in frames if frame.best == best]
        blocks += [Heading(title), *(_example(frame) for frame in shown)] if shown else []
    return blocks


def _example(frame: KeyFrame) -> Example:
    names = corner_names(len(frame.people))
    truth = " · ".join(
        f"{name}: {', '.join(actions) or 'no action'}" for name, (_, actions) in zip(names, frame.people, strict=True)
    )
    said = [Said("The truth", truth)]
    for model, boxes in frame.said.items():
        told = (f"{place}: {', '.join(f'{name} {score:.2f}' for name, score in box)}" for place, box in enumerate(boxes, 1))
        said.append(Said(_NAMES[model], " · ".join(told) or "(no box)"))
    verdict, good = f"{frame.right:,} of {frame.true:,}", frame.right == frame.true
    return Example(frame.name, Film(frame.name), tuple(said), verdict, good, about="the key frame")


def _missed(results: DetectionResults) -> list[Block]:
    """Return the key frames that could not be read, and the videos in which there was no box to tell."""
    table = results.predictions
    failed = table[table["failure"] != ""].drop_duplicates(_FRAME) if "failure" in table else table
    rows = [
        Row(Cell(str(row["video"])), (Cell(f"{float(row['timestamp_s']):g} s"), Cell(str(row["failure"]))))
        for row in failed.to_dict("records")
    ]
    unread = set(failed["video"])
    videos = {video: reason for found in results.metrics["missed"].values() for video, reason in found["videos"].items()}
    rows += [Row(Cell(name), (Cell("all"), Cell(reason))) for name, reason in videos.items() if name not in unread]
    return [Table("Key frames that were missed whole", ("Video", "At", "Reason"), tuple(rows), words=True)] if rows else []
