"""Finding readers and files, writing tables, and what the ingestion makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.raw_tables import read_tables
from tests.tables.reading import put, read, rows
from umt_pipeline.commands import main as cli
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.tables import READERS, find_reader, write_annotations

UCF101 = {
    "classInd.txt": "1 Archery\n2 Bowling\n",
    "trainlist01.txt": "Archery/a.avi 1\nArchery/b.avi 1\nBowling/c.avi 2\n",
    "testlist01.txt": "Archery/d.avi\n",
    "readme.md": "not an annotation file",
}
SPLITS = ("train", "validation", "test")
KEYS = {f"{split}/{table}" for split in SPLITS for table in ("videos", "captions", "labels", "questions", "boxes")}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_the_registry_agrees_with_itself(reader: Any) -> None:
    roles = [role.name for role in reader.roles]
    assert len(set(roles)) == len(roles)
    assert all(pattern == pattern.lower() for role in reader.roles for pattern in role.patterns)
    assert all(key in KEYS or key.startswith("classes/") for key in reader.known)
    assert {key.partition("/")[2] for key in reader.known if key in KEYS} <= set(reader.tables)
    assert reader.suffix.startswith(".")


@pytest.mark.parametrize(
    ("reader", "name", "role"),
    [
        ("kinetics400", "kinetics-400_train.csv", "train"),
        ("kinetics710", "val.csv", "validation"),
        ("ssv2", "something-something-v2-labels.json", "labels"),
        ("hmdb51", "shoot_ball_test_split3.txt", "lists"),
        ("ava", "ava_train_v2.2.csv", "train"),
        ("ava", "ava_val_excluded_timestamps_v2.2.csv", "validation_excluded"),
        ("ava", "ava_detection_train_boxes_and_labels_include_negative_v2.2.csv", "train_detections"),
        ("ava", "ava_action_list_v2.2_for_activitynet_2019.pbtxt", "labels"),
        ("webvid", "results_10M_val.csv", "validation"),
        ("cc3m", "Validation_GCC-1.1.0-Validation.tsv", "validation"),
        ("umt", "webvid_train.sqlite.db", "train"),
        ("msrvtt", "MSRVTT_train.9k.csv", "train_list"),
        ("msrvtt-umt", "msrvtt_ret_test1k.json", "test"),
        ("lsmdc", "LSMDC16_annos_val.csv", "validation"),
        ("msvd", "val_list.txt", "validation"),
        ("msrvtt-qa-umt", "msrvtt_qa_answer_list.json", "answers"),
        ("msrvtt-mc", "msrvtt_mc_test.json", "test"),
    ],
)
def test_public_names_are_known(reader: str, name: str, role: str) -> None:
    assert READERS[reader].assign([name]) == {role: [Path(name)]}


def test_names_that_are_not_known() -> None:
    with pytest.raises(TableError, match=r"x\.csv: .* found that of none\. Give it as ROLE=x\.csv with one of the roles train"):
        find_reader("kinetics400").assign(["x.csv"])
    with pytest.raises(TableError, match="found that of train and labels"):
        find_reader("kinetics400").assign(["train_labels.csv"])
    assert find_reader("kinetics400").assign(["train=a=b.csv"]) == {"train": [Path("a=b.csv")]}
    with pytest.raises(TableError, match=r"Expected the name of a reader, found 'k400'\. There are: kinetics400, "):
        find_reader("k400")


def test_files_that_are_missing_or_too_many(tmp_path: Path) -> None:
    reader = find_reader("ucf101")
    with pytest.raises(TableError, match=r"nothing\.txt: expected a file, found nothing"):
        reader.read({"train": [tmp_path / "nothing.txt"]})
    with pytest.raises(TableError, match=r"Reader ucf101: expected one file as train, found 2"):
        reader.read({"train": [tmp_path / "a", tmp_path / "b"]})
    with pytest.raises(TableError, match="expected one of the roles train, test, labels, found 'val'"):
        reader.read({"val": [tmp_path / "a"]})
    with pytest.raises(TableError, match="expected files of the roles train, test, labels; missing: all of them"):
        reader.read({})
    with pytest.raises(TableError, match=r"found that of none"):
        reader.assign([str(tmp_path)])


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, ["tables", *map(str, arguments)])


def test_the_commands_list_and_write(tmp_path: Path) -> None:
    listed = run()
    assert listed.exit_code == 0
    assert all(name in listed.output for name in READERS)
    put(tmp_path / "lists", UCF101)
    result = run("read", "ucf101", tmp_path / "lists", "--out", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "train/videos: 1\n" in result.output
    assert "warning: train/videos: the public data set has 9,537 or 9,586 or 9,624, these files have 3" in result.output
    assert "warning: only the first 1 videos of each split were kept: 2 of 4" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "annotations.json", "captions.csv", "labels.csv", "videos.csv",
    ]  # fmt: skip
    lines = (tmp_path / "out" / "videos.csv").read_text().splitlines()
    assert lines == ["video,split,corpus", "Archery/a.avi,train,ucf101", "Archery/d.avi,test,ucf101"]
    assert (tmp_path / "out" / "captions.csv").read_text() == "video,caption\n"
    summary = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert summary["counts"] == {
        "classes/ucf101": 1, "test/labels": 1, "test/videos": 1, "train/labels": 1, "train/videos": 1,
    }  # fmt: skip
    assert [source["file"] for source in summary["sources"]] == ["classInd.txt", "testlist01.txt", "trainlist01.txt"]
    assert str(tmp_path) not in json.dumps(summary)


def test_a_folder_that_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    put(tmp_path / "lists", {"train.csv": "not a list"})
    (tmp_path / "out").mkdir()
    result = run("read", "video-list", tmp_path / "lists", "--out", tmp_path / "out")
    assert isinstance(result.exception, TableError)
    assert "exists already" in str(result.exception)


def test_an_existing_folder_is_replaced_only_if_it_is_ours(tmp_path: Path) -> None:
    found = read(tmp_path / "lists", "video-list", {"train.csv": "a.mp4,0\n"})
    out = tmp_path / "out"
    write_annotations(found, out)
    with pytest.raises(TableError, match=r"exists already\. Choose another folder, or give --force"):
        write_annotations(found, out)
    write_annotations(found, out, force=True)
    (out / "a.mp4").touch()
    with pytest.raises(TableError, match=r"found one with a\.mp4 in it\. Choose another"):
        write_annotations(found, out, force=True)
    with pytest.raises(TableError, match="expected a folder to write, found a file"):
        write_annotations(found, out / "a.mp4", force=True)


def test_nothing_is_written_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(tmp_path / "lists", "video-list", {"train.csv": "a.mp4,0\n"})
    monkeypatch.setattr("umt_pipeline.tables.annotations.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_annotations(found, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]


def test_questions_boxes_and_answers_are_written(tmp_path: Path) -> None:
    asked = [{"video": "a/1.mp4", "question": "who?", "question_id": 3, "answer": "man"}]
    found = read(tmp_path, "msrvtt-qa-umt", {"msrvtt_qa_val.json": asked, "msrvtt_qa_answer_list.json": ["man"]})
    write_annotations(found, tmp_path / "out")
    line = (tmp_path / "out" / "questions.jsonl").read_text().splitlines()[0]
    assert json.loads(line) == {
        "question_id": "validation/3", "video": "a/1.mp4", "question": "who?", "answers": ["man"], "options": [], "correct": -1,
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == ["man"]
    boxes = read(tmp_path, "ava", {"ava_val_v2.2.csv": "a,0902,0.1,0.1,0.2,0.2,12,7\n"})
    write_annotations(boxes, tmp_path / "boxes")
    assert (tmp_path / "boxes" / "boxes.csv").read_text() == (
        "video,timestamp_s,x1,y1,x2,y2,label,person,score,source\na.mp4,902.0,0.1,0.1,0.2,0.2,12,7,1.0,annotated\n"
    )


def test_a_limit_keeps_what_belongs_to_the_videos(tmp_path: Path) -> None:
    items = [{"video": f"{number}.mp4", "caption": ["one", "two"]} for number in range(3)]
    found = read(tmp_path, "umt", {"train=a.json": items}).limited(2)
    assert rows(found.captions) == [("0.mp4", "one"), ("0.mp4", "two"), ("1.mp4", "one"), ("1.mp4", "two")]
    assert found.counts == {"train/captions": 4, "train/videos": 2}


def ingested(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, list[str]]]:
    tables = [TableDataset(str(folder / f"{name}.csv")).load() for name in ("videos", "captions", "labels")]
    nothing = pd.DataFrame()
    params = IngestionParams.model_validate({"dataset_id": "x", "splits": ["train", "validation", "test"]})
    return read_tables(*tables, nothing, nothing, params=params)


def test_the_ingestion_takes_what_was_written(tmp_path: Path) -> None:
    put(tmp_path / "lists", UCF101)
    assert run("read", "ucf101", tmp_path / "lists", "--out", tmp_path / "ucf").exit_code == 0
    videos, read_tables, ignored = ingested(tmp_path / "ucf")
    assert list(videos["video_id"]) == ["Archery/a", "Archery/b", "Bowling/c", "Archery/d"]
    assert read_tables["captions"].empty
    assert rows(read_tables["labels"])[0] == ("Archery/a.avi", "ucf101", "Archery")
    # Read where ingestion.columns.videos.corpus names it.
    assert ignored == {"videos": ["corpus"], "captions": [], "labels": [], "questions": [], "boxes": []}

    hard = ['say "NA", twice', "NA", "café\nau lait", "  007 "]
    items = [{"video": f"{number}.mp4", "caption": caption} for number, caption in enumerate(hard)]
    write_annotations(read(tmp_path / "umt", "umt", {"train=a.json": items}), tmp_path / "out")
    _, read_tables, _ = ingested(tmp_path / "out")
    assert list(read_tables["captions"]["caption"]) == [caption.strip().replace("\n", " ") for caption in hard]
    assert read_tables["labels"].empty
