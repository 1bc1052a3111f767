"""The classification nodes on a tiny world: what is written, and what is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.evaluation.tiny import make_folders, make_tables
from tests.evidenced import check_evidence
from tests.tasks.running import run_task
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.tasks.classification.model import load_classes, load_classifier
from umt_pipeline.tasks.classification.params import ClassificationParams
from umt_pipeline.tasks.classification.task import TASK, ClassificationData

SPLITS = ("train",) * 6 + ("test",) * 3


def params(**changes: Any) -> ClassificationParams:
    loop = {"steps": 2, "batch_size": 4, "lr": 1e-3, "device": "cpu", "log_every": 1}
    values = {
        "tasks": ["motion", "shape"],
        "start": "stage1",
        "fine_tuning": {"clip": {"frames": 2, "size": 32}, "train": loop},
        "test": {"clips": 2, "crops": 2, "workers": 1},
    }
    return ClassificationParams.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("classification")
    tables = make_tables(folder / "media", SPLITS)
    folders = make_folders(folder, tables, control=False)
    return {
        "videos": tables.videos,
        "labels": tables.labels,
        "raw_media": tables.media_root,
        "stage1_model": folders.stage1,
        "stage2_model": folders.stage2,
        "workspace": folder / "workspace",
    }


def finish(settings: ClassificationParams, inputs: dict[str, Any]) -> dict[str, Any]:
    tables = {name: value for name, value in inputs.items() if name != "workspace"}
    found = run_task(TASK, settings, tables, inputs["workspace"])
    assert found["history"]["part"].tolist() == [task for task in settings.tasks for _ in range(2)]
    assert len(found["control_history"]) == (len(found["history"]) if settings.control else 0)
    return found


def gather(settings: ClassificationParams, inputs: dict[str, Any]) -> ClassificationData:
    return TASK.gather(settings, inputs, inputs["workspace"])


def test_every_task_is_trained_tested_and_recorded(inputs: dict[str, Any]) -> None:
    settings = params()
    found = finish(settings, inputs)
    folder, metrics, records, table = (found[name] for name in ("model", "metrics", "records", "predictions"))
    svg, html = found["picture"], found["report"]
    assert [record["task"] for record in records] == [
        f"classification/{task}/{model}" for task in ("motion", "shape") for model in ("stage1", "control")
    ]
    protocol = records[0]["protocol"]
    assert (protocol["split"], protocol["clips"], protocol["frames"], protocol["views"]) == ("test", 3, 2, 4)
    assert protocol["resolution"] == 32
    assert protocol["checkpoint_sha256"] == weights_sha256(folder / "motion")
    assert protocol["settings"]["classes"] == 2
    assert records[0]["protocol"]["annotation_sha256"] != records[2]["protocol"]["annotation_sha256"]
    for record in records:
        _, task, model = record["task"].split("/")
        assert metrics["test"][task][model] == record["values"]
        assert set(record["values"]) == {"top1", "mean_class"}
    check_evidence(found["evidence"], records)
    assert metrics["training"]["control"]["motion"]["steps"] == 2
    assert metrics["unlabelled_training_videos"] == {"motion": 0, "shape": 0}
    assert load_classes(folder / "shape") == ("disc", "star")
    classifier = load_classifier(folder / "shape")
    assert (classifier.config.classes, classifier.config.vision.frames) == (2, 2)
    assert len(table) == 4 * 3
    assert table.columns[:5].tolist() == ["task", "model", "video_id", "label", "failure"]
    assert "motion, control" in svg
    assert html.count('<article class="card protocol">') == len(records)
    for task in ("motion", "shape"):
        assert f"The classifier of {task}, fine-tuned from stage 1, is right on" in html
    mistakes = (table[table["model"] == "stage1"].eval("label != top1")).sum()
    assert (html.count("background-image") > 0) == (mistakes > 0), "frames of mistakes are read from the videos"
    assert found["data"].start == inputs["stage1_model"]
    fresh = {model: table[table["model"] == model]["score1"].to_numpy() for model in ("stage1", "control")}
    assert not (fresh["stage1"] == fresh["control"]).all(), "the control is another model"


def test_stage_2_is_a_start_and_the_control_may_be_left_out(inputs: dict[str, Any]) -> None:
    settings = params(tasks=["motion"], start="stage2", control=False)
    found = finish(settings, inputs)
    folder, metrics, records, table = (found[name] for name in ("model", "metrics", "records", "predictions"))
    assert found["data"].start == inputs["stage2_model"]
    assert [record["task"] for record in records] == ["classification/motion/stage2"]
    assert set(table["model"]) == {"stage2"}
    assert metrics["training"]["control"] == {}
    assert "From scratch (control)" not in found["report"]
    assert not torch.equal(load_classifier(folder / "motion").head.weight, torch.zeros(2, 16))


def test_scratch_has_the_size_of_stage_1(inputs: dict[str, Any]) -> None:
    settings = params(tasks=["motion"], start="scratch", control=False)
    data = gather(settings, inputs)
    assert data.start is None
    assert data.size.dim == 16
    with pytest.raises(ValidationError, match="`control` is training from scratch"):
        params(start="scratch")
    with pytest.raises(ValidationError, match="`head_map` takes over a classifier's head"):
        params(start="scratch", control=False, head_map={})
    with pytest.raises(ValidationError, match="both 'train': a test is of other videos"):
        params(test_split="train")
    with pytest.raises(ValidationError, match="'a/b' cannot be a folder's name"):
        params(tasks=["a/b"])
    with pytest.raises(ValidationError, match="names one more than once"):
        params(tasks=["motion", "motion"])


def test_refused_before_anything_is_trained(inputs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no task 'verb', only 'motion', 'shape'"):
        gather(params(tasks=["motion", "verb"]), inputs)
    labels = inputs["labels"]
    unlabelled = labels[~((labels["video_id"] == "clip7") & (labels["task"] == "shape"))]
    with pytest.raises(EvaluationError, match="1 of 3 videos of split 'test' have no label of task 'shape'"):
        gather(params(), {**inputs, "labels": unlabelled})
    one = labels.assign(label="same")
    with pytest.raises(ConfigError, match=r"task 'motion': expected .* at least two classes, found 6 clips of 'same'"):
        gather(params(), {**inputs, "labels": one})
    fewer = labels[~((labels["video_id"] == "clip1") & (labels["task"] == "motion"))]
    assert gather(params(), {**inputs, "labels": fewer}).tasks["motion"].unlabelled == 1
