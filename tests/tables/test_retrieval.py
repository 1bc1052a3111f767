from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tables.reading import read, rows, splits
from umt_pipeline.core.errors import TableError

MSRVTT = {
    "info": {"year": "2016"},
    "videos": [
        {"category": 9, "url": "u", "video_id": "video0", "start time": 1.0, "end time": 2.0, "split": "train", "id": 0},
        {"category": 9, "url": "u", "video_id": "video6513", "start time": 1.0, "end time": 2.0, "split": "validate", "id": 1},
        {"category": 9, "url": "u", "video_id": "video7010", "start time": 1.0, "end time": 2.0, "split": "test", "id": 2},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 1},
        {"caption": "a dog runs", "video_id": "video6513", "sen_id": 2},
        {"caption": "a girl sings", "video_id": "video7010", "sen_id": 3},
    ],
}
DATA = {"train_val_videodatainfo.json": MSRVTT}


def test_msrvtt_by_its_own_splits(tmp_path: Path) -> None:
    found = read(tmp_path, "msrvtt", DATA)
    assert splits(found) == [("video0.mp4", "train"), ("video6513.mp4", "validation"), ("video7010.mp4", "test")]
    # The same sentence twice is two captions, as in the benchmark.
    assert [caption for _, caption in rows(found.captions)] == ["a car is shown"] * 2 + ["a dog runs", "a girl sings"]


def test_msrvtt_9k_and_1k_a(tmp_path: Path) -> None:
    lists = {
        "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo6513\n",
        "MSRVTT_JSFUSION_test.csv": 'key,vid_key,video_id,sentence\nret0,msr7010,video7010,"a woman, singing"\n',
    }
    found = read(tmp_path, "msrvtt", {**DATA, **lists})
    assert splits(found) == [("video0.mp4", "train"), ("video6513.mp4", "train"), ("video7010.mp4", "test")]
    assert rows(found.captions)[-1] == ("video7010.mp4", "a woman, singing")
    only_test = read(tmp_path, "msrvtt", {**DATA, "MSRVTT_JSFUSION_test.csv": lists["MSRVTT_JSFUSION_test.csv"]})
    left_out = "2 videos in none of the lists were left out (first: train_val_videodatainfo.json, video 0)"
    assert only_test.warnings[0] == left_out
    assert found.counts == {"test/captions": 1, "test/videos": 1, "train/captions": 3, "train/videos": 2}
    assert "test/videos: the public data set has 1,000 or 2,990, these files have 1" in found.warnings
    with pytest.raises(TableError, match=r"MSRVTT_train\.9k\.csv, line 2: expected a video of the JSON files, found 'video9'"):
        read(tmp_path, "msrvtt", {**DATA, "MSRVTT_train.9k.csv": "video_id\nvideo9\n"})
    overlap = "key,vid_key,video_id,sentence\nret0,msr0,video0,x\n"
    with pytest.raises(TableError, match=r"test\.csv, line 2: .*'video0\.mp4' in test and before in train"):
        read(tmp_path, "msrvtt", {**DATA, **lists, "MSRVTT_JSFUSION_test.csv": overlap})


def test_wrong_msrvtt(tmp_path: Path) -> None:
    videos = [MSRVTT["videos"][0] | {"split": "val"}]  # type: ignore[index]
    with pytest.raises(TableError, match=r"video 0, key 'split': expected one of train, validate, test, found 'val'"):
        read(tmp_path, "msrvtt", {"videodatainfo.json": MSRVTT | {"videos": videos}})
    with pytest.raises(TableError, match="missing: data"):
        read(tmp_path, "msrvtt", {"MSRVTT_train.9k.csv": "video_id\n"})


def test_didemo(tmp_path: Path) -> None:
    moments = [
        {
            "annotation_id": 1,
            "video": "12090392@N02_13482799053_87ef417396.mov",
            "description": "a dog runs ",
            "times": [[0, 0]],
        },
        {"annotation_id": 2, "video": "b", "description": "snow"},
        {"annotation_id": 3, "video": "12090392@N02_13482799053_87ef417396.mov", "description": "It's  gone."},
    ]
    found = read(tmp_path, "didemo", {"test_data.json": moments})
    # Cleaning comes later: sentences are joined as they are.
    assert rows(found.captions) == [
        ("12090392@N02_13482799053_87ef417396.mov", "a dog runs It's  gone."),
        ("b.mp4", "snow"),
    ]
    assert found.warnings == ("test/videos: the public data set has 1,004, these files have 2",)
    with pytest.raises(TableError, match=r"test_data\.json, item 0: expected the key 'description'"):
        read(tmp_path, "didemo", {"test_data.json": [{"video": "a"}]})


def test_activitynet(tmp_path: Path) -> None:
    video = {"duration": 55.15, "timestamps": [[0.28, 55.15], [13.79, 54.32]], "sentences": ["We see her.", " She throws."]}
    found = read(tmp_path, "activitynet", {"train.json": {"v_a": video}, "val_1.json": {"v_b": video}})
    assert splits(found) == [("v_a.mp4", "train"), ("v_b.mp4", "validation")]
    assert rows(found.captions)[0] == ("v_a.mp4", "We see her. She throws.")
    found = read(tmp_path, "activitynet", {"test=val_1.json": {"v_b": video}}, suffix=".mkv")
    assert splits(found) == [("v_b.mkv", "test")]
    with pytest.raises(TableError, match=r"train\.json, key v_a: expected the key 'sentences', found duration"):
        read(tmp_path, "activitynet", {"train.json": {"v_a": {"duration": 3}}})
    with pytest.raises(TableError, match=r"train\.json: expected an object, found list"):
        read(tmp_path, "activitynet", {"train.json": []})


CLIP = "0001_American_Beauty_00.00.51.926-00.00.54.129"


def test_lsmdc_in_latin1_with_quotes(tmp_path: Path) -> None:
    times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
    line = f'{CLIP}\t{times}\tSOMEONE says "caf\xe9.\r\n'
    found = read(tmp_path, "lsmdc", {"LSMDC16_challenge_1000_publictect.csv": line.encode("latin-1")})
    assert rows(found.captions) == [(f"0001_American_Beauty/{CLIP}.avi", 'SOMEONE says "café.')]
    assert found.warnings[0] == (
        "1 lines with bytes that are not UTF-8 were read as Latin-1 (first: LSMDC16_challenge_1000_publictect.csv, line 1)"
    )
    with pytest.raises(TableError, match=r"training\.csv, line 1: expected 6 cells with tabs between, found 2"):
        read(tmp_path, "lsmdc", {"LSMDC16_annos_training.csv": f"{CLIP}\ttext\n"})
    with pytest.raises(TableError, match=r"training\.csv, line 1: expected a clip such as .*found 'clip'"):
        read(tmp_path, "lsmdc", {"LSMDC16_annos_training.csv": f"clip\t{times}\ttext\n"})


MSVD: dict[str, Any] = {
    "AllVideoDescriptions.txt": "# Descriptions\n\nmv89psg6zh4_33_46 A bird bathes.\nmv89psg6zh4_33_46 A bird.\nx_1_2 A cat.\n",
    "train_list.txt": "mv89psg6zh4_33_46\n",
}


def test_msvd(tmp_path: Path) -> None:
    found = read(tmp_path, "msvd", MSVD)
    assert splits(found) == [("mv89psg6zh4_33_46.avi", "train")]
    assert rows(found.captions) == [("mv89psg6zh4_33_46.avi", "A bird bathes."), ("mv89psg6zh4_33_46.avi", "A bird.")]
    assert found.warnings[0] == "1 captions of clips in no list were left out (first: AllVideoDescriptions.txt, line 5)"
    with pytest.raises(TableError, match=r"AllVideoDescriptions\.txt, line 1: expected a clip and a sentence"):
        read(tmp_path, "msvd", MSVD | {"AllVideoDescriptions.txt": "mv89psg6zh4_33_46\n"})
