"""The detection nodes on a tiny world: what is written, what is rejected, and what is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from umt_pipeline.pipelines.detection.box_table import read_boxes
from umt_pipeline.pipelines.detection.nodes import DetectionData, fine_tune, gather_key_frames, train_control
from umt_pipeline.pipelines.detection.params import DetectionParams
from umt_pipeline.pipelines.detection.reporting import report_detection
from umt_pipeline.pipelines.detection.testing import evaluate_detectors

from tests.evaluation.tiny import make_folders, make_tables
from tests.tables.reading import read
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.datasets import TableDataset
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.models.folders import SKIPPED_FILE, weights_sha256
from umt_pipeline.schemas import Boxes, RawBoxes, Rejects
from umt_pipeline.tables.annotations import write_annotations
from umt_pipeline.tasks.detection.model import load_actions, load_detector

SPLITS = ("train",) * 5 + ("test",) * 3
NO_REJECTS = pd.DataFrame(columns=list(Rejects.to_schema().columns))
COLUMNS = list(RawBoxes.to_schema().columns)
LEFT, RIGHT = (0.0, 0.1, 0.5, 0.9), (0.5, 0.1, 1.0, 0.9)
Box = tuple[float, float, float, float]


def params(**changes: Any) -> DetectionParams:
    loop = {"steps": 2, "batch_size": 4, "lr": 1e-3, "device": "cpu", "log_every": 1}
    tuning = {"clip": {"frames": 2, "stride": 1, "size": 32, "short_side": 40}, "train": loop, **changes.pop("fine_tuning", {})}
    values = {"start": "stage1", "fine_tuning": tuning, "test": {"workers": 1}}
    return DetectionParams.model_validate({**values, **changes})


def drawn(video: str, at: float, box: Box, *labels: str) -> list[tuple[Any, ...]]:
    return [(video, at, *box, label, "", 1.0, "annotated") for label in labels]


def seen(video: str, at: float, box: Box, score: float) -> list[tuple[Any, ...]]:
    return [(video, at, *box, "", "", score, "detected")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("detection")
    tables = make_tables(folder / "media", SPLITS)
    folders = make_folders(folder, tables, control=False)
    return {
        "videos": tables.videos.assign(fps=10.0),
        "raw_media": tables.media_root,
        "stage1_model": folders.stage1,
        "stage2_model": folders.stage2,
        "workspace": folder / "workspace",
    }


def clips(world: dict[str, Any], split: str) -> list[str]:
    videos = world["videos"]
    return videos.loc[(videos["media"] == "video") & (videos["split"] == split), "path"].tolist()


def raw(world: dict[str, Any]) -> pd.DataFrame:
    """In each clip a person on the left walks, and in every other clip waves too; one on the right sits. In the test a detector
    finds both, and in the first test clip a third one.
    """
    rows = []
    for split in ("train", "test"):
        for number, path in enumerate(clips(world, split)):
            rows += drawn(path, 0.1, LEFT, "walk", *(["wave"] if number % 2 == 0 else [])) + drawn(path, 0.1, RIGHT, "sit")
            if split == "test":
                rows += seen(path, 0.1, (0.02, 0.1, 0.5, 0.9), 0.95) + seen(path, 0.1, RIGHT, 0.85)
                rows += seen(path, 0.1, (0.3, 0.3, 0.6, 0.6), 0.9 if number == 0 else 0.5)
    return pd.DataFrame(rows, columns=COLUMNS)


def gather(settings: DetectionParams, world: dict[str, Any], table: pd.DataFrame, **changes: Any) -> DetectionData:
    boxes = read_boxes(settings, table, world["videos"], NO_REJECTS)[0]
    return gather_key_frames(settings, boxes, **{**world, **changes})


def finish(
    settings: DetectionParams, world: dict[str, Any], table: pd.DataFrame, **changes: Any
) -> tuple[Path, Path, dict[str, Any], list[dict[str, Any]], pd.DataFrame, str]:
    report = read_boxes(settings, table, world["videos"], NO_REJECTS)[2]
    data = gather(settings, world, table, **changes)
    model, history, summary = fine_tune(settings, 0, data, world["workspace"])
    control, control_history, control_summary = train_control(settings, 0, data, world["workspace"])
    assert len(control_history) == (len(history) if settings.control else 0)
    found = evaluate_detectors(settings, 0, data, report, model, summary, control, control_summary)
    json.dumps(found[:2])
    page = report_detection(settings, data, *found, history, control_history)
    assert ("frames of " in page) == bool(len(found[2])), "key frames with boxes, where any were tested"
    return model, control, *found


def test_both_models_are_trained_tested_and_recorded(world: dict[str, Any]) -> None:
    settings = params(groups={"moving": ["walk", "wave"], "still": ["sit"]})
    model, control, metrics, records, table, svg = finish(settings, world, raw(world))
    assert [record["task"] for record in records] == [f"detection/test/{name}" for name in ("stage1", "control", "chance")]
    protocol = records[0]["protocol"]
    assert (protocol["split"], protocol["clips"], protocol["frames"], protocol["views"], protocol["resolution"]) == (
        "test", 3, 2, 1, 40,
    )  # fmt: skip
    assert protocol["checkpoint_sha256"] == weights_sha256(model) != weights_sha256(control)
    assert records[2]["protocol"]["checkpoint_sha256"] is None
    assert {record["protocol"]["annotation_sha256"] for record in records} == {protocol["annotation_sha256"]}
    assert protocol["settings"] | {"boxes": "detected", "min_iou": 0.5, "key_frames": 3} == protocol["settings"]
    for record in records:
        assert metrics["test"][record["protocol"]["model"]] == record["values"]
        assert set(record["values"]) == {"map", "map_moving", "map_still"}
    # Seven detected boxes are sure enough: three on the left (0.95), one that is nobody (0.9), three on the right (0.85).
    # Chance knows no more than this order: walkers come first, two of three tied boxes wave, and sitters come last.
    chance = {action: values["chance"] for action, values in metrics["per_action"].items()}
    assert chance == pytest.approx({"sit": 100 * 3 / 7, "walk": 100.0, "wave": 100 * 2 / 3})
    assert metrics["test"]["chance"]["map_moving"] == pytest.approx(100 * 5 / 6)
    assert metrics["actions"] == {"told": 3, "evaluated": 3, "unseen_in_training": [], "without_ground_truth": []}
    assert metrics["training"]["stage1"]["steps"] == metrics["training"]["control"]["steps"] == 2
    assert metrics["missed"]["stage1"] == {"videos": {}, "frames": 0}
    assert load_actions(model) == ("sit", "walk", "wave")
    assert load_detector(model).config.vision.frames == 2
    assert len(table) == 2 * 7
    first = table.iloc[0]
    assert (first["model"], first["video"], first["x1"]) == ("stage1", clips(world, "test")[0], 0.02)
    assert table["true"].tolist()[:3] == ["walk; wave", "sit", ""]
    assert {first["action1"], first["action2"], first["action3"]} == {"sit", "walk", "wave"}
    assert first["score1"] >= first["score2"] >= first["score3"]
    assert "chance, mean 69.8" in svg
    assert "true: walk, wave" in svg


def test_test_boxes_without_any_action_are_refused_before_training(world: dict[str, Any]) -> None:
    table = raw(world)
    table.loc[table["video"].isin(clips(world, "test")), "label"] = ""
    with pytest.raises(EvaluationError, match="expected actions in the annotated boxes of test, found boxes without any"):
        gather(params(), world, table)


def test_stage_2_is_a_start_and_the_control_may_be_left_out(world: dict[str, Any]) -> None:
    settings = params(start="stage2", control=False, test={"workers": 1, "source": "annotated"})
    _, control, metrics, records, table, _ = finish(settings, world, raw(world))
    assert [record["task"] for record in records] == ["detection/test/stage2", "detection/test/chance"]
    assert read_json(control / SKIPPED_FILE)["reason"] == "detection.control is false"
    assert metrics["training"]["control"] == {}
    assert len(table) == 2 * 3, "the boxes that people drew"
    assert metrics["test"]["chance"]["map"] == pytest.approx(100 * (3 / 6 + 3 / 6 + 2 / 6) / 3)
    data = gather(params(start="scratch", control=False), world, raw(world))
    assert (data.start, data.size.dim) == (None, 16)


def test_rejects_reconcile_and_say_why(world: dict[str, Any], tmp_path: Path) -> None:
    videos = world["videos"]
    path, still = clips(world, "train")[0], videos.loc[videos["media"] == "image", "path"].iloc[0]
    broken = pd.DataFrame([["videos", 4, "broken.mp4", "truncated", "half of it"]], columns=NO_REJECTS.columns)
    good = raw(world)
    frames = int(videos.loc[videos["path"] == path, "num_frames"].iloc[0])
    wrong = [
        ("video_rejected", drawn("broken.mp4", 0.1, LEFT, "walk")), ("image", drawn(still, 0.1, LEFT, "walk")),
        ("unknown_video", drawn("nobody.mp4", 0.1, LEFT, "walk")), ("not_a_number", drawn(path, np.nan, LEFT, "walk")),
        ("not_a_number", seen(path, 0.1, LEFT, np.nan)), ("not_a_number", drawn(path, 0.1, (0, 0, np.inf, 1), "walk")),
        ("outside_frame", drawn(path, 0.1, (0.5, 0.1, 1.2, 0.9), "walk")),
        ("outside_frame", drawn(path, 0.1, (10, 10, 20, 20), "walk")), ("no_area", drawn(path, 0.1, (0.5, 0, 0.5, 1), "walk")),
        ("wrong_score", seen(path, 0.1, LEFT, 95.0)), ("wrong_source", [(path, 0.1, *LEFT, "", "", 1.0, "guessed")]),
        ("outside_video", drawn(path, frames / 10, LEFT, "walk")), ("outside_video", drawn(path, -0.2, LEFT, "walk")),
        ("unknown_action", drawn(path, 0.1, LEFT, "fly")), ("duplicate", drawn(path, 0.1, LEFT, "walk")),
    ]  # fmt: skip
    last = seen(f"./{path}", 0.1, LEFT, 0.7)
    rows = [row for _, rows in wrong for row in rows] + last
    table = pd.concat([good, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True).assign(comment="?")
    write_json(tmp_path / "actions.json", ["sit", "walk", "wave"])
    settings = params(actions=str(tmp_path / "actions.json"))
    accepted, rejected, report = read_boxes(settings, table, videos, broken)
    Boxes.validate(accepted)
    Rejects.validate(rejected)
    assert rejected["reason"].tolist() == [reason for reason, _ in wrong]
    assert rejected["row"].tolist() == [len(good) + number for number in range(len(wrong))]
    details = dict(zip(rejected["reason"], rejected["detail"], strict=True))
    assert "truncated" in details["video_rejected"]
    assert "found x1 10.0" in details["outside_frame"]
    assert f"-0.2 s is not in its file of {frames} frames, 10 a second" in details["outside_video"]
    assert "'fly' is not in detection.actions" in details["unknown_action"]
    assert report["rows_in"] == len(table) == report["accepted"] + report["rejected"]
    assert sum(report["reasons"].values()) == len(rejected)
    assert report["ignored_columns"] == ["comment"]
    assert report["splits"]["test"] == {
        "key_frames": 3, "annotated_boxes": 6, "detected_boxes": 9, "actions": 8, "videos": 3, "videos_without_box": 0
    }  # fmt: skip
    # As a CSV file it is the same, numbers being text there.
    TableDataset(str(tmp_path / "boxes.csv")).save(table)
    again = read_boxes(settings, TableDataset(str(tmp_path / "boxes.csv")).load(), videos, broken)
    pd.testing.assert_frame_equal(again[0], accepted)
    assert again[1]["reason"].tolist() == rejected["reason"].tolist()


def test_test_videos_without_boxes_are_counted_and_those_without_detections_are_missed(world: dict[str, Any]) -> None:
    table, (one, two, _) = raw(world), clips(world, "test")
    table = table[(table["video"] != one) & ~((table["video"] == two) & (table["source"] == "detected"))]
    table = pd.concat([table, pd.DataFrame(seen(one, 0.1, LEFT, 0.99), columns=COLUMNS)], ignore_index=True)
    _, _, metrics, records, predictions, _ = finish(params(control=False), world, table)
    assert metrics["table"]["splits"]["test"]["videos_without_box"] == 1
    assert records[0]["protocol"]["clips"] == 2, "nothing is known of a video in which people drew nothing"
    assert one not in set(predictions["video"])
    assert metrics["missed"]["stage1"]["videos"] == {two: "no detection"}
    assert metrics["per_action"]["walk"]["stage1"] <= 50.0, "its boxes count as missed"


@pytest.mark.parametrize("count", [1, 3])
def test_key_frames_that_cannot_be_read_are_missed_and_listed(world: dict[str, Any], count: int) -> None:
    settings = params(control=False)
    data = gather(settings, world, raw(world))
    model, _, summary = fine_tune(settings, 0, data, world["workspace"])
    control = train_control(settings, 0, data, world["workspace"])[0]
    report = read_boxes(settings, raw(world), world["videos"], NO_REJECTS)[2]
    gone = clips(world, "test")[-count:]
    away = [world["raw_media"] / name for name in gone]
    for path in away:
        path.rename(path.with_suffix(".away"))
    try:
        metrics, records, table, svg = evaluate_detectors(settings, 0, data, report, model, summary, control, {})
    finally:
        for path in away:
            path.with_suffix(".away").rename(path)
    assert records[0]["protocol"]["failures"] == [f"{name}@0.1" for name in gone]
    assert (metrics["missed"]["stage1"]["frames"], list(metrics["missed"]["stage1"]["videos"])) == (count, gone)
    assert metrics["per_action"]["walk"]["stage1"] <= 100 * (3 - count) / 3
    failed = table[table["failure"] != ""]
    assert failed["video"].tolist() == gone
    assert set(failed["action1"]) == {""}
    assert not any(name in svg for name in gone)


def test_actions_are_told_and_counted_as_the_lists_say(world: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "told.json", ["wave", "walk", "sit", "run"])
    write_json(tmp_path / "evaluated.json", ["walk", "run"])
    lists = {"actions": str(tmp_path / "told.json"), "evaluated": str(tmp_path / "evaluated.json"), "control": False}
    model, _, metrics, _, _, _ = finish(params(**lists), world, raw(world))
    assert load_actions(model) == ("wave", "walk", "sit", "run")
    assert set(metrics["per_action"]["walk"]) == {"stage1", "chance"}
    assert metrics["per_action"]["run"] == {}
    assert metrics["actions"]["without_ground_truth"] == ["run"]
    # An action that only the test has cannot be found.
    strange = pd.concat([raw(world), pd.DataFrame(drawn(clips(world, "test")[0], 0.1, RIGHT, "fly"), columns=COLUMNS)])
    _, _, metrics, records, _, _ = finish(params(control=False), world, strange.reset_index(drop=True))
    assert metrics["per_action"]["fly"] == {"stage1": 0.0, "chance": 0.0}
    assert metrics["actions"]["unseen_in_training"] == ["fly"]
    assert records[0]["protocol"]["settings"]["actions_unseen_in_training"] == "fly"


def test_a_project_without_boxes_is_no_error(world: dict[str, Any]) -> None:
    model, control, metrics, records, table, svg = finish(params(control=False), world, pd.DataFrame())
    assert (records, metrics["test"], metrics["table"]["rows_in"], len(table)) == ([], {}, 0, 0)
    assert read_json(model / SKIPPED_FILE)["reason"] == "the project has no boxes to train on"
    assert (control / SKIPPED_FILE).is_file()
    assert "no boxes to test on" in svg


def test_refused_before_anything_is_trained(world: dict[str, Any], tmp_path: Path) -> None:
    table = raw(world)
    with pytest.raises(TableError, match=r"expected the columns video, timestamp_s, .*missing: y2"):
        gather(params(), world, table.drop(columns="y2"))
    with pytest.raises(TableError, match=r"none of 30 rows can be used: \{'unknown_video': 30\}, the first: 'x/.*train"):
        gather(params(), world, table.assign(video="x/" + table["video"] + "/train"))
    train = table["video"].isin(clips(world, "train"))
    for part, found in ((table[train], "5 videos of train and 0 of test"), (table[~train], "0 videos of train and 3 of test")):
        with pytest.raises(ConfigError, match=f"or in neither, found them in {found}"):
            gather(params(), world, part.reset_index(drop=True))
    with pytest.raises(EvaluationError, match=r"expected detected boxes with a score of at least 0\.8 in the 3"):
        gather(params(), world, table[table["source"] == "annotated"].reset_index(drop=True))
    write_json(tmp_path / "strange.json", ["walk", "swim"])
    with pytest.raises(ConfigError, match=r"detection\.evaluated: 1 of 2 actions occur neither .* such as 'swim'"):
        gather(params(evaluated=str(tmp_path / "strange.json")), world, table)
    with pytest.raises(ConfigError, match=r"detection\.groups\.sport: 'swim' is not among the 3 evaluated actions"):
        gather(params(groups={"sport": ["swim"]}), world, table)
    write_json(tmp_path / "twice.json", ["walk", "walk"])
    with pytest.raises(ConfigError, match=r"detection\.actions: expected a JSON list of different actions"):
        gather(params(actions=str(tmp_path / "twice.json")), world, table)
    with pytest.raises(ConfigError, match=r"detection\.actions: expected a JSON list of actions, found: .*No such file"):
        gather(params(actions=str(tmp_path / "none.json")), world, table)
    with pytest.raises(ValidationError, match="`control` is training from scratch"):
        params(start="scratch")
    with pytest.raises(ValidationError, match="both 'train': a test is of other videos"):
        params(test_split="train")
    with pytest.raises(ValidationError, match="expected at least one action in each, found none in 'sport'"):
        params(groups={"sport": []})


def test_tables_of_ava_go_the_whole_way(world: dict[str, Any], tmp_path: Path) -> None:
    """The files that AVA publishes, read by `umt tables read ava`; the media are cut, so that they begin at 900 s."""
    names = {"clip0": "train", "clip1": "train", "clip5": "validation", "clip6": "validation"}
    videos = world["videos"][world["videos"]["media"] == "video"]
    videos = videos[videos["video_id"].isin(names)].assign(split=lambda table: table["video_id"].map(names), fps=1.0)
    boxes = "0.002,0.118,0.514,0.977", "0.500,0.100,0.900,0.900"
    lines = {
        split: "".join(
            f"{name},0901,{boxes[0]},1,0\n{name},0901,{boxes[0]},79,0\n{name},0901,{boxes[1]},12,1\n"
            for name, own in names.items() if own == split
        )
        for split in ("train", "validation")
    }  # fmt: skip
    detected = "".join(
        f"clip{number},0901,{box},,0.9{number}\n" for number in (5, 6) for box in (*boxes, "0.1,0.1,0.2,0.2")
    )  # fmt: skip
    files = {
        "ava_train_v2.2.csv": lines["train"], "ava_val_v2.2.csv": lines["validation"], "ava_val_predicted_boxes.csv": detected,
    }  # fmt: skip
    found = read(tmp_path, "ava", files)
    write_annotations(found, tmp_path / "tables")
    table = TableDataset(str(tmp_path / "tables" / "boxes.csv")).load()
    settings = params(test_split="validation", control=False, fine_tuning={"start_s": 900})
    _, _, metrics, records, predictions, _ = finish(settings, {**world, "videos": videos}, table)
    assert metrics["table"]["rejected"] == 0
    assert list(metrics["per_action"]) == ["1", "12", "79"]
    assert metrics["test"]["chance"]["map"] == pytest.approx(100 / 3), "each box is one of three"
    assert records[0]["protocol"]["clips"] == 2
    assert set(predictions["timestamp_s"]) == {901.0}
