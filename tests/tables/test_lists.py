"""Data sets that come as lists of videos with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tables.reading import read, rows, splits
from umt_pipeline.core.errors import TableError

KINETICS = "label,youtube_id,time_start,time_end,split\n"
SSV2 = {
    "id": "78687",
    "label": "holding potato next to vicks vaporub bottle",
    "template": "Holding [something] next to [something]",
    "placeholders": ["potato", "vicks vaporub bottle"],
}


def test_official_kinetics(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "kinetics400",
        {
            "kinetics-400_train.csv": KINETICS + "clay pottery making,---0dWlqevI,19,29,train\n",
            "kinetics-400_val.csv": KINETICS + '"massaging person\'s head",--1bmFGrk4,1200,1210,validate\n',
            "kinetics-400_test.csv": "youtube_id,time_start,time_end,split\n--3ouPhoy2A,20,30,test\n",
        },
    )
    assert splits(found) == [
        ("---0dWlqevI_000019_000029.mp4", "train"),
        ("--1bmFGrk4_001200_001210.mp4", "validation"),
        ("--3ouPhoy2A_000020_000030.mp4", "test"),
    ]
    assert rows(found.labels) == [
        ("---0dWlqevI_000019_000029.mp4", "kinetics400", "clay pottery making"),
        ("--1bmFGrk4_001200_001210.mp4", "kinetics400", "massaging person's head"),
    ]
    assert found.warnings == ("classes/kinetics400: the public data set has 400, these files have 2",)


def test_kinetics_is_tested_on_its_validation_list(tmp_path: Path) -> None:
    found = read(tmp_path, "kinetics400", {"test=val.csv": KINETICS + "abseiling,a,1,11,val\n"})
    assert splits(found) == [("a_000001_000011.mp4", "test")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",a,1,11,train", "k_train.csv, line 2: expected a label of 'a_000001_000011.mp4', found ''"),
        ("x,a,one,11,train", "k_train.csv, line 2: expected the time_start in seconds, a whole number; found 'one'"),
        ("x,a,1,11,val", "k_train.csv, line 2, column 'split': expected a row of train, found 'val'"),
        ("x,a,1,11", "k_train.csv, line 2: expected 5 cells .*, found 4"),
    ],
)
def test_wrong_rows_of_kinetics(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, "kinetics400", {"k_train.csv": KINETICS + line})


def test_missing_column_of_kinetics(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"k_train\.csv, line 1: .*columns youtube_id, .*; missing: time_end"):
        read(tmp_path, "kinetics400", {"k_train.csv": "label,youtube_id,time_start\nx,a,1\n"})


def test_umt_lists_with_and_without_a_label_map(tmp_path: Path) -> None:
    lists = {"train.csv": "k400/a b.mp4,0\nk400/c,1\n", "val.csv": "/abs/d.webm 1\n"}
    found = read(tmp_path, "kinetics710", lists)
    assert [video for video, _ in splits(found)] == ["k400/a b.mp4", "k400/c.mp4", "/abs/d.webm"]
    assert [label for _, _, label in rows(found.labels)] == ["0", "1", "1"]
    for name, labels in {
        "kinetics_label.csv": "id,name\n0,abseiling\n1,air drumming\n",
        "label_map.txt": "abseiling\nair drumming\n",
        "labels.json": {"air drumming": 1, "abseiling": 0},
        "label.json": {"0": "abseiling", "1": "air drumming"},
        "label_list.json": ["abseiling", "air drumming"],
        "numbered_label.txt": "0 abseiling\n1 air drumming\n",
    }.items():
        found = read(tmp_path, "video-list", {**lists, name: labels})
        assert [label for _, _, label in rows(found.labels)] == ["abseiling", "air drumming", "air drumming"], name
        assert not found.warnings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4,400", "train.csv, line 2: expected a label from 0 to 399 that the label map has, found 400"),
        ("a.mp4,x", "train.csv, line 2: expected a label, a whole number; found 'x'"),
        ("a.mp4 1", "train.csv, line 2: expected a path and a label with a comma between, found 'a.mp4 1'"),
        ("frames/a,120,3", "train.csv, line 2: expected a path and a label.*frame folders"),
    ],
)
def test_wrong_lines_of_lists(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, "kinetics400", {"train.csv": f"first.mp4,0\n{line}\n"})


def test_a_video_in_two_splits_or_with_two_labels(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"val\.csv, line 1: .*'a\.mp4' in validation and before in train"):
        read(tmp_path, "video-list", {"train.csv": "a.mp4,0\n", "val.csv": "a.mp4,0\n"})
    with pytest.raises(TableError, match=r"train\.csv, line 2: .*'a\.mp4' as '1' and before as '0'"):
        read(tmp_path, "video-list", {"train.csv": "a.mp4,0\na.mp4,1\n"})
    assert len(read(tmp_path, "video-list", {"train.csv": "a.mp4,0\na.mp4,0\n"}).labels) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", r"x_label\.txt: expected at least one label, found none"),
        ("0,a\n0,b\n", r"x_label\.txt, line 2: expected each number once, found 0 for 'a' and 'b'"),
        ("id,name\n0,\n", r"x_label\.txt, line 2: expected the name of label 0, found ''"),
    ],
)
def test_wrong_label_maps(tmp_path: Path, labels: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, "video-list", {"train.csv": "a.mp4,0\n", "x_label.txt": labels})


def ssv2(folder: Path, train: Any, **more: Any) -> Any:
    files = {"something-something-v2-train.json": train, **{f"something-something-v2-{k}.json": v for k, v in more.items()}}
    return read(folder, "ssv2", files)


def test_something_something(tmp_path: Path) -> None:
    found = ssv2(tmp_path, [SSV2], test=[{"id": "1"}], labels={"Holding something next to something": "0"})
    assert splits(found) == [("78687.webm", "train"), ("1.webm", "test")]
    assert rows(found.labels) == [("78687.webm", "ssv2", "Holding something next to something")]
    assert rows(found.captions) == [("78687.webm", "holding potato next to vicks vaporub bottle")]
    assert "train/videos: the public data set has 168,913, these files have 1" in found.warnings


def test_wrong_something_something(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"train\.json, item 0: expected the key 'template', found id, label"):
        ssv2(tmp_path, [{"id": "1", "label": "x"}])
    with pytest.raises(TableError, match=r"item 0, key 'template': expected one of the 1 labels, found 'Holding"):
        ssv2(tmp_path, [SSV2], labels={"Poking something": "0"})
    with pytest.raises(TableError, match=r"train\.json: expected a list, found dict"):
        ssv2(tmp_path, {"id": "1"})
    with pytest.raises(TableError, match=r"item 1: expected an object, found str"):
        ssv2(tmp_path, [SSV2, "x"])


UCF101 = {"classInd.txt": "1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n"}


def test_ucf101(tmp_path: Path) -> None:
    lists = {
        "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nApplyLipstick/v_ApplyLipstick_g08_c01.avi 2\r\n",
        "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n",
    }
    found = read(tmp_path, "ucf101", {**lists, **UCF101})
    assert splits(found) == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "train"),
        ("ApplyLipstick/v_ApplyLipstick_g08_c01.avi", "train"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "test"),
    ]
    assert [label for _, _, label in rows(found.labels)] == ["ApplyEyeMakeup", "ApplyLipstick", "ApplyEyeMakeup"]
    assert found.counts == {
        "classes/ucf101": 2, "test/labels": 1, "test/videos": 1, "train/labels": 2, "train/videos": 2,
    }  # fmt: skip
    assert "train/videos: the public data set has 9,537 or 9,586 or 9,624, these files have 2" in found.warnings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ApplyLipstick/v.avi 1", "expected the number of 'ApplyLipstick', found that of 'ApplyEyeMakeup'"),
        ("ApplyLipstick/v.avi 3", "expected a label from 1 to 2"),
        ("Archery/v.avi 1", "expected a class of the label map, found 'Archery'"),
        ("v.avi 1", "expected 'Class/clip.avi'"),
    ],
)
def test_wrong_ucf101(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(TableError, match=rf"trainlist01\.txt, line 1: {message}"):
        read(tmp_path, "ucf101", {"trainlist01.txt": line, **UCF101})


def test_hmdb51(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "hmdb51",
        {
            "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nb.avi 2 \nc.avi 0 \n",
            "sit_test_split1.txt": "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 2 \n",
        },
    )
    assert splits(found) == [
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "train"),
        ("brush_hair/b.avi", "test"),
        ("sit/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "test"),
    ]
    assert [label for _, _, label in rows(found.labels)] == ["brush_hair", "brush_hair", "sit"]
    left_out = "1 clips of neither training nor test were left out (first: brush_hair_test_split1.txt, line 3)"
    assert found.warnings[0] == left_out


def test_wrong_hmdb51(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"sit_test_split2\.txt: expected the files of one of the three splits, .* 1, 2"):
        read(tmp_path, "hmdb51", {"run_test_split1.txt": "a.avi 1 \n", "sit_test_split2.txt": "b.avi 1 \n"})
    with pytest.raises(TableError, match=r"run_test_split1\.txt, line 1: expected a clip and 0, 1 or 2, found 'a\.avi 3 '"):
        read(tmp_path, "hmdb51", {"run_test_split1.txt": "a.avi 3 \n"})


def test_moments_in_time(tmp_path: Path) -> None:
    files = {
        "trainingSet.csv": "bulldozing/getty-bulldozing-1.mp4,bulldozing,3,0\n",
        "validationSet.csv": "bulldozing/getty-bulldozing-1.mp4,bulldozing,3,1\n",
        "moments_categories.txt": "bulldozing,0\nclapping,1\n",
    }
    found = read(tmp_path, "moments", files)
    assert splits(found) == [
        ("training/bulldozing/getty-bulldozing-1.mp4", "train"),
        ("validation/bulldozing/getty-bulldozing-1.mp4", "validation"),
    ]
    with pytest.raises(TableError, match=r"trainingSet\.csv, line 1: expected one of the 2 labels of the map, found 'x'"):
        read(tmp_path, "moments", {**files, "trainingSet.csv": "a.mp4,x,1,0\n"})
    with pytest.raises(TableError, match=r"trainingSet\.csv, line 1: expected at least two cells"):
        read(tmp_path, "moments", {"trainingSet.csv": "a.mp4\n"})
