"""Mean average precision of action detection: by hand, against a plain loop, and in the cases that would flatter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from umt_pipeline.evaluation.metrics import EvaluationError, NoDataError
from umt_pipeline.tasks.detection.scoring import NO_DETECTION, DetectionScores, action_evidence, score
from umt_pipeline.video.box_views import box_iou

COLUMNS = ["video", "timestamp_s", "x1", "y1", "x2", "y2", "label"]
LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.5, 0.0, 0.9, 1.0)
Row = tuple[Any, ...]


def truth_of(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame([(video, at, *box, label) for video, at, box, label in rows], columns=COLUMNS)


def found_of(*rows: Row) -> pd.DataFrame:
    table = [(video, at, *box, label, value) for video, at, box, label, value in rows]
    return pd.DataFrame(table, columns=[*COLUMNS, "score"])


def test_a_worked_example() -> None:
    """Four ground truth boxes of "walk"; sorted by score: hit, false alarm, hit, hit a second time, false alarm.

    Precision at the hits is 1/1 and 2/3, recall goes to 1/4 and 2/4: 1/4 * 1 + 1/4 * 2/3 = 5/12. "sit" has one box, found at
    an overlap of one third: 0. "run" has no ground truth and does not count.
    """
    truth = truth_of(
        ("a", 902, LEFT, "walk"), ("a", 902, RIGHT, "walk"), ("a", 903, LEFT, "walk"), ("b", 902, LEFT, "walk"),
        ("a", 902, LEFT, "sit"), ("a", 902, LEFT, "sing"), ("a", 902, LEFT, ""),
    )  # fmt: skip
    found = found_of(
        ("a", 902, LEFT, "walk", 0.9), ("a", 903, RIGHT, "walk", 0.8), ("a", 902, (0.5, 0.0, 0.9, 0.6), "walk", 0.7),
        ("a", 902.0, (0.0, 0.0, 0.4, 0.9), "walk", 0.6), ("a", 904, LEFT, "walk", 0.5), ("a", 902, (0.2, 0, 0.6, 1), "sit", 1),
        ("a", 902, LEFT, "run", 0.3), ("a", 902, LEFT, "sing", 0.3),
    )  # fmt: skip
    scores = score(found, truth, ["walk", "sit", "run"])
    assert scores.per_class == pytest.approx({"walk": 100 * 5 / 12, "sit": 0.0})
    assert scores.mean_ap == pytest.approx(100 * 5 / 24)
    assert scores.skipped == ("run",)
    assert scores.missing == {"b": NO_DETECTION}


def test_the_envelope_takes_the_best_precision_at_a_higher_recall() -> None:
    """Of two boxes: false alarm, hit, hit. Precision 1/2 and 2/3, so both hits count with 2/3."""
    truth = truth_of(("a", 1, LEFT, "walk"), ("a", 1, RIGHT, "walk"))
    found = found_of(
        ("a", 2, LEFT, "walk", 0.9), ("a", 1, LEFT, "walk", 0.8), ("a", 1, RIGHT, "walk", 0.7),
    )  # fmt: skip
    assert score(found, truth, ["walk"]).mean_ap == pytest.approx(100 * 2 / 3)


def test_a_detection_belongs_to_the_box_it_overlaps_most_even_if_that_is_taken() -> None:
    near = (0.05, 0.0, 0.45, 1.0)
    truth = truth_of(("a", 1, LEFT, "walk"), ("a", 1, near, "walk"))
    found = found_of(("a", 1, LEFT, "walk", 0.9), ("a", 1, (0.01, 0.0, 0.41, 1.0), "walk", 0.8))
    assert box_iou(np.array([0.01, 0, 0.41, 1]), np.array(near)) > 0.5
    assert score(found, truth, ["walk"]).mean_ap == pytest.approx(50.0)


def test_an_overlap_of_one_half_is_enough() -> None:
    truth = truth_of(("a", 1, (0.0, 0.0, 0.5, 1.0), "walk"))
    for height, expected in ((0.5, 100.0), (0.49, 0.0)):
        assert score(found_of(("a", 1, (0.0, 0.0, 0.5, height), "walk", 1)), truth, ["walk"]).mean_ap == expected


def by_loop(found: pd.DataFrame, truth: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """The same, box by box."""
    values = {}
    for label in classes:
        rows = [row for row in truth.itertuples() if row.label == label]
        taken: set[int] = set()
        marks: list[tuple[float, bool]] = []
        own = [row for row in found.itertuples() if row.label == label]
        for row in sorted(own, key=lambda row: -row.score):
            best, best_iou = -1, 0.0
            for place, other in enumerate(rows):
                if (other.video, other.timestamp_s) == (row.video, row.timestamp_s):
                    width = min(row.x2, other.x2) - max(row.x1, other.x1)
                    height = min(row.y2, other.y2) - max(row.y1, other.y1)
                    common = max(width, 0) * max(height, 0)
                    area = (row.x2 - row.x1) * (row.y2 - row.y1) + (other.x2 - other.x1) * (other.y2 - other.y1)
                    if common / (area - common) > best_iou:
                        best, best_iou = place, common / (area - common)
            hit = best_iou >= 0.5 and best not in taken
            taken |= {best} if hit else set()
            marks.append((row.score, hit))
        if not rows:
            continue
        marks.sort(key=lambda mark: (-mark[0], mark[1]))
        points = [(sum(hit for _, hit in marks[: k + 1]), k + 1) for k in range(len(marks))]
        total = 0.0
        for wanted in range(1, len(rows) + 1):
            total += max((hits / seen for hits, seen in points if hits >= wanted), default=0.0)
        values[label] = 100 * total / len(rows)
    return values


# Edges in eighths, so that overlaps are exact and many of them tie.
edges = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 5), st.integers(1, 5))
boxes = edges.map(lambda e: (e[0] / 8, e[1] / 8, (e[0] + e[2]) / 8, (e[1] + e[3]) / 8))
places = st.tuples(st.sampled_from("ab"), st.sampled_from([1.0, 2.5]), boxes, st.sampled_from(["walk", "sit", "run"]))


@settings(deadline=None)
@given(
    st.lists(places, min_size=1, max_size=12),
    st.lists(st.tuples(places, st.sampled_from([0.1, 0.5, 0.9, 0.95])), max_size=15),
)
def test_it_is_what_a_plain_loop_gives(truth: list[Row], found: list[Any]) -> None:
    known, detected = truth_of(*truth), found_of(*[(*place, value) for place, value in found])
    expected = by_loop(detected, known, ["walk", "sit"])

    def scores() -> DetectionScores:
        return score(detected, known, ["walk", "sit"])

    if detected["video"].size and not set(detected["video"]) & set(known["video"]):
        with pytest.raises(EvaluationError, match="no video in common"):
            scores()
    elif not expected:
        with pytest.raises(NoDataError, match="of the 2 evaluated actions, found none"):
            scores()
    else:
        result = scores()
        assert result.per_class == pytest.approx(expected)
        assert result.mean_ap == pytest.approx(np.mean(list(expected.values())))
        shuffled = score(detected.sample(frac=1, random_state=0), known, ["walk", "sit"])
        assert shuffled.per_class == pytest.approx(expected), "the order of detections does not matter, ties or not"


def test_ties_never_flatter() -> None:
    truth = truth_of(("a", 1, LEFT, "walk"))
    rows = [("a", 1, LEFT, "walk", 0.5), ("a", 1, RIGHT, "walk", 0.5), ("a", 2, LEFT, "walk", 0.5)]
    for order in ([0, 1, 2], [2, 1, 0]):
        assert score(found_of(*[rows[i] for i in order]), truth, ["walk"]).mean_ap == pytest.approx(100 / 3)


def test_videos_that_fail_are_missed_and_named() -> None:
    truth = truth_of(("a", 1, LEFT, "walk"), ("b", 1, LEFT, "walk"), ("c", 1, LEFT, "walk"))
    found = found_of(("a", 1, LEFT, "walk", 0.9))
    scores = score(found, truth, ["walk"], failures={"b": "truncated"})
    assert scores.mean_ap == pytest.approx(100 / 3)
    assert scores.missing == {"b": "truncated", "c": NO_DETECTION}
    with pytest.raises(EvaluationError, match="1 videos are named as unreadable and have detections: 'a'"):
        score(found, truth, ["walk"], failures={"a": "truncated"})
    assert score(found.iloc[:0], truth, ["walk"]).mean_ap == 0.0


def test_only_the_best_of_a_frame_count_if_wanted() -> None:
    truth = truth_of(("a", 1, LEFT, "walk"), ("a", 2, LEFT, "walk"))
    found = found_of(
        ("a", 1, LEFT, "walk", 0.4), ("a", 1, LEFT, "sit", 0.9), ("a", 1, RIGHT, "walk", 0.5), ("a", 2, LEFT, "walk", 0.1),
    )  # fmt: skip
    assert score(found, truth, ["walk", "sit"]).per_class == pytest.approx({"walk": 100 * 2 / 3})
    assert score(found, truth, ["walk", "sit"], per_frame=2).per_class == pytest.approx({"walk": 25.0})
    assert score(found, truth, ["walk"], per_frame=2).per_class == pytest.approx({"walk": 100 * 2 / 3}), "others are out before"


def test_refusals() -> None:
    truth, found = truth_of(("a", 1, LEFT, "walk")), found_of(("a", 1, LEFT, "walk", 0.9))
    for value in (np.nan, np.inf):
        with pytest.raises(EvaluationError, match=r"detections: 1 of 1 rows hold NaN or infinity.* video 'a' at 1 s.*score"):
            score(found.assign(score=value), truth, ["walk"])
    with pytest.raises(EvaluationError, match=r"ground truth: .* 1 boxes without area.* \[0\.4, 0\.0, 0\.4, 1\.0\]"):
        score(found, truth.assign(x1=0.4), ["walk"])
    with pytest.raises(EvaluationError, match=r"expected columns .* found none called score"):
        score(truth, truth, ["walk"])
    with pytest.raises(EvaluationError, match="2 of which some are equal"):
        score(found, truth, ["walk", "walk"])
    with pytest.raises(EvaluationError, match=r"no video in common: the first are 'a' and 'a\.mp4'"):
        score(found, truth.assign(video="a.mp4"), ["walk"])


def test_a_hundred_thousand_rows_take_a_moment() -> None:
    rng = np.random.default_rng(0)
    frames, people, classes = 1_000, 2, 60
    where = np.repeat(np.arange(frames), people)
    corner = np.stack([np.tile([0.0, 0.5], frames), rng.uniform(0, 0.3, len(where))], axis=1)
    box = np.concatenate([corner, corner + 0.5], axis=1)
    names = [f"action{number}" for number in range(classes)]

    def table(rows: np.ndarray, label: np.ndarray) -> pd.DataFrame:
        columns = {"video": (where[rows] // 900).astype(str), "timestamp_s": where[rows] % 900.0}
        edges = {edge: box[rows, number] for number, edge in enumerate(["x1", "y1", "x2", "y2"])}
        return pd.DataFrame({**columns, **edges, "label": np.array(names)[label]})

    truth = table(np.arange(len(where)), rng.integers(0, classes, len(where)))
    found = table(np.repeat(np.arange(len(where)), classes), np.tile(np.arange(classes), len(where)))
    began = time.process_time()
    result = score(found.assign(score=rng.random(len(found))), truth, names)
    assert time.process_time() - began < 3
    assert result.mean_ap == pytest.approx(100 / classes, rel=0.3), "a random score has the precision of its base rate"


# Of each box: whether anything was found there, the score, and whether it lies on the ground truth.
answers = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=40
).filter(lambda rows: any(hit for _, _, hit in rows))  # fmt: skip


@settings(deadline=None)
@given(answers)
def test_average_precision_is_the_area_under_scikit_learns_curve(rows: list[tuple[bool, float, bool]]) -> None:
    """One box a frame, so that nothing is to be assigned: what remains is the interpolated curve, ties and misses included."""
    known = truth_of(*[("a", at, LEFT, "walk") for at, (_, _, hit) in enumerate(rows) if hit])
    asked = [(at, value, hit) for at, (found, value, hit) in enumerate(rows) if found]
    detected = found_of(*[("a", at, LEFT, "walk", value) for at, value, _ in asked])
    expected = 0.0
    if any(hit for _, _, hit in asked):
        precision, recall, _ = precision_recall_curve([hit for _, _, hit in asked], [value for _, value, _ in asked])
        # From the lowest recall up; boxes that were not found lower the recall that can be reached.
        best = np.maximum.accumulate(precision)[::-1]
        share = sum(hit for _, _, hit in asked) / len(known)
        expected = 100 * share * float(np.sum(np.diff(recall[::-1]) * best[1:]))
    result = score(detected, known, ["walk"])
    assert result.mean_ap == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(places, min_size=1, max_size=12), st.lists(st.tuples(places, st.sampled_from([0.1, 0.5, 0.9])), max_size=15))
def test_twice_the_same_detections_never_help(truth: list[Row], found: list[Any]) -> None:
    known = truth_of(*[(video, at, box, "walk") for video, at, box, _ in truth])
    detected = found_of(*[("a", *place[1:3], "walk", value) for place, value in found])
    if not set(known["video"]) & {"a"}:
        return
    once = score(detected, known, ["walk"]).mean_ap
    twice = score(pd.concat([detected, detected], ignore_index=True), known, ["walk"]).mean_ap
    assert twice <= once + 1e-9
    less = score(detected, pd.concat([known, known.assign(video="b")], ignore_index=True), ["walk"]).mean_ap
    assert less <= once + 1e-9, "more to be found, and no more found"


# --- item by item -----------------------------------------------------------------------------------------------------
IDS = {"a": "clip a", "b": "clip b"}


def ranks_of(found: pd.DataFrame, truth: pd.DataFrame, classes: list[str]) -> list[tuple[str, float, Any]]:
    evidence = action_evidence("test", found, truth, classes, IDS)
    return [(row.truth, row.value, None if pd.isna(row.answer) else row.answer) for row in evidence.itertuples()]


def test_an_action_ranks_among_those_that_its_person_does_not_do() -> None:
    truth = truth_of(
        ("a", 902, LEFT, "walk"), ("a", 902, LEFT, "wave"), ("a", 902, RIGHT, "sit"), ("b", 902, LEFT, "sit"),
        ("b", 1, LEFT, "fly"),
    )  # fmt: skip
    near = (0.05, 0.0, 0.4, 1.0)
    found = found_of(
        ("a", 902.0, near, "walk", 0.5), ("a", 902.0, near, "wave", 0.9), ("a", 902.0, near, "sit", 0.5),
        ("a", 902.0, RIGHT, "walk", 0.1), ("a", 902.0, RIGHT, "wave", 0.2), ("a", 902.0, RIGHT, "sit", 0.3),
        ("b", 902.0, RIGHT, "sit", 0.9),
    )  # fmt: skip
    # The walker waves too, which does not count against walking; that sitting scores as high does. In "b" nobody is found
    # where one sits.
    expected = [("walk", 2.0, "wave"), ("wave", 1.0, "wave"), ("sit", 1.0, "sit"), ("sit", 4.0, None)]
    assert ranks_of(found, truth, ["walk", "wave", "sit"]) == expected
    evidence = action_evidence("test", found, truth, ["walk", "wave", "sit"], IDS)
    assert evidence["item"].iloc[0] == "clip a 902.0 s 0.0,0.0,0.4,1.0 walk"
    assert evidence["video"].tolist() == ["clip a"] * 3 + ["clip b"]


def test_an_action_that_the_detector_does_not_tell_ranks_last() -> None:
    truth = truth_of(("a", 1, LEFT, "walk"), ("a", 1, LEFT, "fly"))
    found = found_of(("a", 1, LEFT, "walk", 0.5), ("a", 1, LEFT, "sit", 0.1))
    assert ranks_of(found, truth, ["walk", "sit", "fly"]) == [("walk", 1.0, "walk"), ("fly", 4.0, "walk")]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(places, min_size=1, max_size=10, unique=True),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1.0, 2.5]), boxes), max_size=8, unique=True),
    st.integers(0, 1000),
)
def test_ranks_are_what_a_plain_loop_gives(truth: list[Row], boxes_found: list[Row], seed: int) -> None:
    classes = ["walk", "sit", "run"]
    rng = np.random.default_rng(seed)
    scores = {box: rng.choice([0.1, 0.5, 0.9], size=3) for box in boxes_found}
    found = found_of(*[(*box, name, value) for box in boxes_found for name, value in zip(classes, scores[box], strict=True)])
    expected = []
    for video, at, box, label in truth:
        overlaps = [
            (float(box_iou(np.array(box), np.array(other[2]))), other) for other in boxes_found if other[:2] == (video, at)
        ]
        best = max(overlaps, key=lambda pair: pair[0], default=(0.0, ()))
        own = {name for other_video, other_at, other, name in truth if (other_video, other_at, other) == (video, at, box)}
        if best[0] < 0.5:
            expected.append((label, 4.0))
            continue
        mine = dict(zip(classes, scores[best[1]], strict=True))
        expected.append((label, 1.0 + sum(value >= mine[label] for name, value in mine.items() if name not in own)))
    assert [told[:2] for told in ranks_of(found, truth_of(*truth), classes)] == expected
