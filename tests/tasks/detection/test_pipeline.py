"""The detection nodes on a tiny world: what is written, what is rejected, and what is refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from tests.evaluation.tiny import make_folders, make_tables
from tests.evidenced import check_evidence
from tests.pipelines.clean import clean
from tests.tables.reading import read
from tests.tasks.running import run_task
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.datasets import TableDataset
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.models.folders import SKIPPED_FILE, weights_sha256
from umt_pipeline.schemas import RawBoxes
from umt_pipeline.tables.annotations import write_annotations
from umt_pipeline.tasks.detection.data import DetectionData
from umt_pipeline.tasks.detection.model import load_actions, load_detector
from umt_pipeline.tasks.detection.params import DetectionParams
from umt_pipeline.tasks.detection.task import TASK

SPLITS = ("train",) * 5 + ("test",) * 3
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


def tables_of(world: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    boxes = clean("boxes", table, world["videos"])[0]
    return {**{name: value for name, value in world.items() if name != "workspace"}, "boxes": boxes}


def gather(settings: DetectionParams, world: dict[str, Any], table: pd.DataFrame) -> DetectionData:
    return TASK.gather(settings, tables_of(world, table), world["workspace"])


def finish(settings: DetectionParams, world: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    found = run_task(TASK, settings, tables_of(world, table), world["workspace"])
    assert len(found["control_history"]) == (len(found["history"]) if settings.control else 0)
    json.dumps([found["metrics"], found["records"]])
    tested = len(found["predictions"]) > 0
    assert ("frames of " in found["report"]) == tested, "key frames with boxes, where any were tested"
    return found


def test_both_models_are_trained_tested_and_recorded(world: dict[str, Any]) -> None:
    settings = params(groups={"moving": ["walk", "wave"], "still": ["sit"]})
    found = finish(settings, world, raw(world))
    model, control, metrics, records = (found[name] for name in ("model", "control_model", "metrics", "records"))
    table, svg = found["predictions"], found["picture"]
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
        assert set(record["values"]) == {"map", "map_moving", "map_still", "top1"}
    check_evidence(found["evidence"], records)
    chances = found["evidence"].query("task == 'detection/test/chance'")
    # All actions tie. Of two walkers who wave one action is wrong, of one who only walks and of three sitters two are.
    assert sorted(chances["value"]) == [2.0] * 4 + [3.0] * 4
    assert set(chances["video"]) == set(world["videos"].set_index("path").loc[clips(world, "test"), "video_id"])
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
    assert (first["model"], first["video"], first["x1"]) == ("stage1", clips(world, "test")[0], "0.02")
    assert table["true"].tolist()[:3] == ["walk; wave", "sit", ""]
    assert {first["action1"], first["action2"], first["action3"]} == {"sit", "walk", "wave"}
    assert float(first["score1"]) >= float(first["score2"]) >= float(first["score3"])
    assert "chance, mean 69.8" in svg
    assert "true: walk, wave" in svg


def test_test_boxes_without_any_action_are_refused_before_training(world: dict[str, Any]) -> None:
    table = raw(world)
    table.loc[table["video"].isin(clips(world, "test")), "label"] = ""
    with pytest.raises(EvaluationError, match="expected actions in the annotated boxes of test, found boxes without any"):
        gather(params(), world, table)


def test_stage_2_is_a_start_and_the_control_may_be_left_out(world: dict[str, Any]) -> None:
    settings = params(start="stage2", control=False, test={"workers": 1, "source": "annotated"})
    found = finish(settings, world, raw(world))
    control, metrics, records, table = (found[name] for name in ("control_model", "metrics", "records", "predictions"))
    assert [record["task"] for record in records] == ["detection/test/stage2", "detection/test/chance"]
    assert read_json(control / SKIPPED_FILE)["reason"] == "detection.control is false"
    assert metrics["training"]["control"] == {}
    assert len(table) == 2 * 3, "the boxes that people drew"
    assert metrics["test"]["chance"]["map"] == pytest.approx(100 * (3 / 6 + 3 / 6 + 2 / 6) / 3)
    data = gather(params(start="scratch", control=False), world, raw(world))
    assert (data.start, data.size.dim) == (None, 16)


def test_boxes_outside_their_file_and_of_unknown_actions_are_left_out(
    world: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = clips(world, "train")[0]
    frames = int(world["videos"].set_index("path").loc[path, "num_frames"])
    strange = drawn(path, frames / 10, LEFT, "walk") + drawn(path, 0.1, LEFT, "fly")
    table = pd.concat([raw(world), pd.DataFrame(strange, columns=COLUMNS)], ignore_index=True)
    write_json(tmp_path / "actions.json", ["sit", "walk", "wave"])
    data = gather(params(actions=str(tmp_path / "actions.json")), world, table)
    assert data.left_out == {"outside_video": 1, "unknown_action": 1}
    assert f"1 of {len(table)} boxes are left out: unknown_action, the first at 0.1 s of {path} with label 'fly'" in caplog.text
    pd.testing.assert_frame_equal(data.train, gather(params(), world, raw(world)).train)
    with pytest.raises(ConfigError, match=r"none of 30 boxes can be used.*start_s, which is 900\.0"):
        gather(params(fine_tuning={"start_s": 900}), world, raw(world))


def test_test_videos_without_boxes_are_counted_and_those_without_detections_are_missed(world: dict[str, Any]) -> None:
    table, (one, two, _) = raw(world), clips(world, "test")
    table = table[(table["video"] != one) & ~((table["video"] == two) & (table["source"] == "detected"))]
    table = pd.concat([table, pd.DataFrame(seen(one, 0.1, LEFT, 0.99), columns=COLUMNS)], ignore_index=True)
    found = finish(params(control=False), world, table)
    metrics, records, predictions = (found[name] for name in ("metrics", "records", "predictions"))
    assert found["data"].test_videos_without_box == 1
    assert "1 videos of test were left out, since people drew no box in them" in found["report"]
    assert records[0]["protocol"]["clips"] == 2, "nothing is known of a video in which people drew nothing"
    assert one not in set(predictions["video"])
    assert metrics["missed"]["stage1"]["videos"] == {two: "no detection"}
    assert metrics["per_action"]["walk"]["stage1"] <= 50.0, "its boxes count as missed"


@pytest.mark.parametrize("count", [1, 3])
def test_key_frames_that_cannot_be_read_are_missed_and_listed(world: dict[str, Any], count: int) -> None:
    settings = params(control=False)
    data = gather(settings, world, raw(world))
    model = finish(settings, world, raw(world))["model"]
    gone = clips(world, "test")[-count:]
    away = [world["raw_media"] / name for name in gone]
    for path in away:
        path.rename(path.with_suffix(".away"))
    try:
        found = TASK.test(settings, 0, data, {TASK.model_name(settings): model}, world["workspace"])
    finally:
        for path in away:
            path.with_suffix(".away").rename(path)
    metrics, table, svg = found.metrics, found.predictions, found.picture
    check_evidence(found.evidence, found.records)
    unread = found.evidence[found.evidence["answer"].isna()]
    assert unread["video"].nunique() == count
    assert set(unread["value"]) == {4.0}, "behind all three actions"
    assert found.records[0].protocol is not None
    assert found.records[0].protocol.failures == tuple(f"{name}@0.1" for name in gone)
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
    found = finish(params(**lists), world, raw(world))
    model, metrics = found["model"], found["metrics"]
    assert load_actions(model) == ("wave", "walk", "sit", "run")
    assert set(metrics["per_action"]["walk"]) == {"stage1", "chance"}
    assert metrics["per_action"]["run"] == {}
    assert metrics["actions"]["without_ground_truth"] == ["run"]
    # An action that only the test has cannot be found.
    strange = pd.concat([raw(world), pd.DataFrame(drawn(clips(world, "test")[0], 0.1, RIGHT, "fly"), columns=COLUMNS)])
    found = finish(params(control=False), world, strange.reset_index(drop=True))
    metrics, records = found["metrics"], found["records"]
    assert metrics["per_action"]["fly"] == {"stage1": 0.0, "chance": 0.0}
    assert metrics["actions"]["unseen_in_training"] == ["fly"]
    assert records[0]["protocol"]["settings"]["actions_unseen_in_training"] == "fly"


def test_a_project_without_boxes_is_no_error(world: dict[str, Any]) -> None:
    found = finish(params(control=False), world, pd.DataFrame())
    model, control, svg = found["model"], found["control_model"], found["picture"]
    assert (found["records"], found["metrics"]["test"], len(found["predictions"])) == ([], {}, 0)
    assert read_json(model / SKIPPED_FILE)["reason"] == "the project has no boxes to train on"
    assert (control / SKIPPED_FILE).is_file()
    assert "no boxes to test on" in svg


def test_refused_before_anything_is_trained(world: dict[str, Any], tmp_path: Path) -> None:
    table = raw(world)
    with pytest.raises(TableError, match=r"Table raw_boxes: expected a column 'y2', found: video, timestamp_s"):
        gather(params(), world, table.drop(columns="y2"))
    with pytest.raises(TableError, match=r"none of 30 rows can be used: \{'unknown_video': 30\}, the first, of 'x/.*train"):
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
    with pytest.raises(ConfigError, match=r"detection\.actions: expected different actions in .*twice\.json, found one twice"):
        gather(params(actions=str(tmp_path / "twice.json")), world, table)
    with pytest.raises(ConfigError, match=r"detection\.actions: expected a JSON list of texts, found: .*No such file"):
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
    found = finish(settings, {**world, "videos": videos}, table)
    metrics, records, predictions = (found[name] for name in ("metrics", "records", "predictions"))
    assert not any(found["data"].left_out.values())
    assert list(metrics["per_action"]) == ["1", "12", "79"]
    assert metrics["test"]["chance"]["map"] == pytest.approx(100 / 3), "each box is one of three"
    assert records[0]["protocol"]["clips"] == 2
    assert set(predictions["timestamp_s"]) == {"901.0"}
