from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tables.reading import read, rows, splits
from umt_pipeline.core.errors import TableError

MAP = """item {
  name: "bend/bow (at the waist)"
  id: 1
}
item {
  name: "talk to (e.g., self, a person, a group)"
  id: 79
}
"""
VAL = """1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,1,0
1j20qq1JyX4,0902,0.002,0.118,0.714,0.977,79,0
1j20qq1JyX4,0903,0.010,0.120,0.700,0.970,80,0
1j20qq1JyX4,0904,0.010,0.120,0.700,0.970,1,0
5BDj0ow5hnA,0905,,,,,,
"""
DETECTED = "1j20qq1JyX4,0902,0.005,0.1,0.7,0.95,,0.995518\n1j20qq1JyX4,0904,0.1,0.1,0.2,0.2,,0.9\n"


def ava(folder: Path, **changes: Any) -> Any:
    return read(folder, "ava", {"ava_val_v2.2.csv": VAL, **changes})


def test_actions_without_any_other_file(tmp_path: Path) -> None:
    found = ava(tmp_path)
    assert splits(found) == [("1j20qq1JyX4.mp4", "validation"), ("5BDj0ow5hnA.mp4", "validation")]
    assert rows(found.boxes)[0] == (
        "1j20qq1JyX4.mp4", 902.0, 0.002, 0.118, 0.714, 0.977, "1", "0", 1.0, "annotated",
    )  # fmt: skip
    assert found.counts["validation/boxes"] == 4
    assert found.counts["classes/boxes"] == 3
    assert found.warnings == (
        "1 frames have no box (first: ava_val_v2.2.csv, line 5)",
        "validation/videos: the public data set has 64, these files have 2",
    )


def test_everything_together(tmp_path: Path) -> None:
    found = ava(
        tmp_path,
        **{
            "ava_val_excluded_timestamps_v2.2.csv": "1j20qq1JyX4,0904\n",
            "ava_included_timestamps_v2.2.txt": "0902\n0903\n0904\n",
            "ava_action_list_v2.2_for_activitynet_2019.pbtxt": MAP,
            "ava_val_predicted_boxes.csv": DETECTED,
            "ava_file_names_trainval_v2.1.txt": "1j20qq1JyX4.mkv\n",
            "ava_test_v2.2.txt": "--ZwVBrw-0M\n",
        },
    )
    assert splits(found) == [
        ("1j20qq1JyX4.mkv", "validation"),
        ("5BDj0ow5hnA.mp4", "validation"),
        ("--ZwVBrw-0M.mp4", "test"),
    ]
    assert [(row[1], *row[6:]) for row in rows(found.boxes)] == [
        (902.0, "bend/bow (at the waist)", "0", 1.0, "annotated"),
        (902.0, "talk to (e.g., self, a person, a group)", "0", 1.0, "annotated"),
        (902.0, "", "", 0.995518, "detected"),
    ]
    assert found.warnings[:3] == (
        "1 label map of 2 actions, where the public ones have 60 or 80 "
        "(first: ava_action_list_v2.2_for_activitynet_2019.pbtxt, entry 0)",
        "1 boxes of actions that the label map does not have were left out (first: ava_val_v2.2.csv, line 3)",
        "3 boxes at timestamps that are excluded or not included were left out (first: ava_val_v2.2.csv, line 4)",
    )
    assert {source.role for source in found.sources} >= {"validation_excluded", "included", "names"}


def test_the_list_of_all_eighty_has_other_keys(tmp_path: Path) -> None:
    full = 'label {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
    found = read(
        tmp_path,
        "ava",
        {"ava_train_v2.2.csv": "a,0902,0.1,0.1,0.2,0.2,12,7\n", "ava_action_list_v2.2.pbtxt": full},
    )
    assert [row[6:8] for row in rows(found.boxes)] == [("stand", "7")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,0902,0.1,0.1,0.2,0.2,81,0", "expected an action from 1 to 80, found 81"),
        ("a,0902,10,10,20,20,1,0", r"expected box edges from 0 to 1, found 10\.0"),
        ("a,0902,x,0.1,0.2,0.2,1,0", "expected a box edge, a number; found 'x'"),
        ("a,0902,0.1,0.1,0.2,0.2,1", "expected 8 cells .*, found 7"),
        ("a,t,0.1,0.1,0.2,0.2,1,0", "expected a timestamp in seconds, a number; found 't'"),
    ],
)
def test_wrong_rows(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(TableError, match=rf"ava_val_v2\.2\.csv, line 1: {message}"):
        read(tmp_path, "ava", {"ava_val_v2.2.csv": line})


def test_wrong_detections_and_boxes_without_area(tmp_path: Path) -> None:
    detected = "ava_val_predicted_boxes.csv"
    with pytest.raises(TableError, match=r"line 1: expected a score from 0 to 1, found 95\.0"):
        read(tmp_path, "ava", {detected: "a,0902,0.1,0.1,0.2,0.2,,95\n"})
    found = read(tmp_path, "ava", {detected: "a,0902,0.1,0.1,0.1,0.2,,0.9\n"})
    assert found.boxes.empty
    assert found.warnings[0] == f"1 boxes without area were left out (first: {detected}, line 1)"
