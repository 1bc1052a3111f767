"""All pipelines, one after the other, on a tiny demo world."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from mlflow import MlflowClient

from tests.conftest import ROOT
from tests.evidenced import check_evidence
from umt_pipeline.commands.track import track_corpus
from umt_pipeline.exchange.convert import export_checkpoint, import_checkpoint
from umt_pipeline.exchange.sizes import Asked
from umt_pipeline.models.student import load_student
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.tasks.classification.model import load_classifier
from umt_pipeline.tasks.detection.model import load_detector
from umt_pipeline.tasks.question_answering.model import load_question_answering

PIPELINES = (
    "demo_corpus", "ingestion", "teacher_features", "stage1", "stage2", "classification", "retrieval", "question_answering",
    "detection", "evaluation",
)  # fmt: skip


@pytest.fixture
def finished(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project after all pipelines have run in the environment ``ci``, tracked in a database of its own."""
    # Other tests of this process send runs of the same names to the database of all tests.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    MlflowClient(f"sqlite:///{project}/mlflow.db").search_experiments()  # makes it, which takes long on a busy machine
    # Kedro wants the source folder inside the project; the package itself is the installed one.
    (project / "src").unlink()
    (project / "src").mkdir()
    bootstrap_project(project)
    for name in PIPELINES:
        with KedroSession.create(project_path=project, env="ci") as session:
            session.run(pipeline_names=[name])
    return project


def test_the_whole_job_runs(finished: Path) -> None:
    results = finished / "data/ci/08_reporting/results"
    reports = finished / "data/ci/08_reporting"
    ingestion = json.loads((reports / "ingestion_report.json").read_text(encoding="utf-8"))
    for table in ingestion["tables"].values():
        assert table["rows_in"] == table["accepted"] + table["rejected"]
    rejects = pd.read_parquet(finished / "data/ci/03_primary/rejects.parquet")
    assert {"missing_file", "empty_file", "not_a_video", "truncated"} <= set(rejects["reason"])

    assert ingestion["corpora"]["stills"]["images"] == 8
    tables = {name: (table["rows_in"], table["rejected"]) for name, table in ingestion["tables"].items()}
    assert tables["questions"] == (3 * (24 + 6 + 6 + 6 + 9) + 6 + 6 + 6 + 9, 0)
    assert tables["boxes"] == (3 * (24 + 6 + 6 + 6 + 9) + 2 * (6 + 6 + 6 + 9), 0)
    features = json.loads((reports / "feature_report.json").read_text(encoding="utf-8"))
    assert (features["rows"], features["images"]["rows"]) == (48, 16)

    metrics = json.loads((reports / "evaluation_metrics.json").read_text(encoding="utf-8"))
    for encoder in ("teacher_cls", "teacher_patch", "untrained", "stage1", "stage2"):
        assert 0.0 <= metrics[f"probe/linear/shape/{encoder}"] <= 100.0
    for system in ("teacher/dual", "stage2/dual", "stage2/reranked", "control/dual", "control/reranked"):
        for split in ("test", "test_rare", "test_motion"):
            assert 0.0 <= metrics[f"retrieval/{split}/{system}/t2v_r1"] <= 100.0
    records = json.loads((finished / "data/ci/07_model_output/evaluation_records.json").read_text(encoding="utf-8"))
    assert all(record.get("note") or record["protocol"]["annotation_sha256"] for record in records)

    classification = json.loads((reports / "classification_metrics.json").read_text(encoding="utf-8"))
    for model in ("stage2", "control"):
        assert 0.0 <= classification["test"]["motion"][model]["top1"] <= 100.0
    assert load_classifier(finished / "data/ci/06_models/classification/motion").config.pool == "attention"
    predictions = pd.read_csv(finished / "data/ci/07_model_output/classification_predictions.csv")
    assert len(predictions) == 2 * 6, "six test clips, two models"
    assert (results / "plots/classification.svg").read_text(encoding="utf-8").startswith("<?xml")

    retrieval = json.loads((reports / "retrieval_metrics.json").read_text(encoding="utf-8"))
    for split in ("test", "test_rare", "test_motion"):
        assert set(retrieval["test"][split]) == {"zero_shot", "fine_tuned"}
        for score, values in retrieval["test"][split]["zero_shot"].items():
            measured = {name: metrics[f"retrieval/{split}/stage2/{score}/{name}"] for name in ("t2v_r1", "v2t_meanr")}
            assert measured.items() <= values.items(), "before fine-tuning it is what the evaluation measures"
    assert load_video_text(finished / "data/ci/06_models/retrieval")[0].heads is None

    answering = json.loads((reports / "question_answering_metrics.json").read_text(encoding="utf-8"))
    for split in ("test", "test_rare", "test_motion"):
        assert set(answering["test"][split]) == {"majority", "stage2", "control"}
        assert set(answering["choice"][split]) == {"chance", "stage2", "control"}
    assert load_question_answering(finished / "data/ci/06_models/question_answering")[0].config.text.dim == 32
    answers = pd.read_csv(finished / "data/ci/07_model_output/question_answering_predictions.csv")
    assert len(answers) == 3 * 3 * (6 + 6 + 9) + 2 * (6 + 6 + 9)

    for name in ("report", "classification", "retrieval", "question_answering", "detection"):
        page = (finished / f"data/ci/08_reporting/{name}.html").read_text(encoding="utf-8")
        without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
        assert re.search(r"https?:|//[a-z]", without_pictures) is None, f"{name}.html must open without a network"
        assert "Where this page comes from" in page

    detection = json.loads((reports / "detection_metrics.json").read_text(encoding="utf-8"))
    assert set(detection["test"]) == {"stage2", "control", "chance"}
    assert load_detector(finished / "data/ci/06_models/detection").config.vision.dim == 32
    found = pd.read_csv(finished / "data/ci/07_model_output/detection_predictions.csv")
    assert 2 * 6 <= len(found) <= 2 * 12, "six test clips, the object and maybe a false alarm"
    assert (results / "plots/detection.svg").read_text(encoding="utf-8").startswith("<?xml")

    outputs = finished / "data/ci/07_model_output"
    for name in ("evaluation", "classification", "retrieval", "question_answering", "detection"):
        records = json.loads((outputs / f"{name}_records.json").read_text(encoding="utf-8"))
        check_evidence(pd.read_parquet(outputs / f"{name}_evidence.parquet"), records)

    headlines = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in results.glob("headline*.json")}
    assert headlines["headline.json"]["r1_test"] == pytest.approx(metrics["retrieval/test/stage2/dual/t2v_r1"], abs=1e-3)
    assert len(headlines) == 5
    assert sum(map(len, headlines.values())) <= 15
    for name in PIPELINES[1:]:
        numbers = pd.read_csv(results / f"{name}.csv")
        assert list(numbers) == ["name", "value"]
        told = numbers["name"].str.contains(r"seconds|per_s|mfu|wait|memory|found")
        assert not told.any(), numbers["name"][told]

    student = load_student(finished / "data/ci/06_models/stage1")
    assert student.config.vision.dim == 32
    card = (finished / "data/ci/06_models/stage1/README.md").read_text(encoding="utf-8")
    assert "| Optimiser steps | 3 |" in card
    assert "| Teacher | train_small@" in card
    export_checkpoint(finished / "data/ci/06_models/stage1", finished / "stage1.pth")
    vision = student.config.vision
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.partition("```python\n")[2].partition("```")[0]
    found_here: dict[str, Any] = {}
    exec(block.replace('"data/', f'"{finished}/data/ci/'), found_here)
    assert tuple(found_here["cosines"].shape) == (2, 1)
    assert found_here["encoder"].config.dim == 32

    asked = Asked(image_size=vision.image_size, frames=vision.frames, heads=vision.heads)
    import_checkpoint(finished / "stage1.pth", "student", finished / "imported", asked)
    again = load_student(finished / "imported")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in student.state_dict().items())
    model, tokenizer = load_video_text(finished / "data/ci/06_models/stage2")
    assert len(tokenizer) <= model.config.text.vocab_size

    history = pd.read_csv(results / "plots/stage2_history.csv")
    assert history["step"].is_monotonic_increasing
    assert history["alignment"].iloc[0] > 0.0
    assert history["alignment"].iloc[-1] == 0.0, "the unmasked phase is not aligned"

    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    experiment = client.get_experiment_by_name("umt_pipeline")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(PIPELINES)
    by_name = {run.info.run_name: run for run in runs}
    steps = [metric.step for metric in client.get_metric_history(by_name["stage1"].info.run_id, "stage1/loss")]
    assert steps == [1, 2, 3], "24 clips in batches of 8"
    # A model joins the run that made it and those that read it.
    tag = "dvc.md5.data/ci/06_models/stage2"
    assert by_name["stage2"].data.tags[tag] == by_name["evaluation"].data.tags[tag]
    told = track_corpus(finished, "ci")
    assert len(told) == len(PIPELINES) - 1, "the corpus has no numbers"
    assert all(line.endswith("has everything") for line in told), "finished files say nothing that the run did not say"

    # What is trained already is not trained again, and the pipeline gives the same result.
    history = pd.read_csv(results / "plots/stage1_history.csv")
    trained = weight_times(finished / "data/ci/.checkpoints/stage1")
    with KedroSession.create(project_path=finished, env="ci") as session:
        session.run(pipeline_names=["stage1"])
    assert trained
    assert weight_times(finished / "data/ci/.checkpoints/stage1") == trained
    pd.testing.assert_frame_equal(pd.read_csv(results / "plots/stage1_history.csv"), history)


def weight_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
