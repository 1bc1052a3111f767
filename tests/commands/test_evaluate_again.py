"""A model measured again, or trained with another seed, beside the data and without touching them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.project import configure_project
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from tests.project_copies import copy_project, kedro_run
from umt_pipeline.commands.evaluate_again import (
    EvaluationImpossibleError,
    Request,
    chosen_nodes,
    measure_again,
    measure_seed,
    model_dataset,
    require_beside,
)
from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.identity import PACKAGE
from umt_pipeline.datasets import FolderDataset


@pytest.mark.parametrize(
    "kind", ["teacher", "stage1", "stage2", "classification", "retrieval", "question_answering", "detection"]
)
def test_measuring_trains_nothing_and_training_nothing_else(kind: str) -> None:
    configure_project(PACKAGE)
    measuring, evidence, records = chosen_nodes(kind, trained=False)
    assert {evidence, records} <= measuring.all_outputs()
    assert model_dataset(kind) in measuring.inputs()
    assert not any(name.endswith(("_model", "_history")) for name in measuring.all_outputs())
    training, *_ = chosen_nodes(kind, trained=True)
    made = {name for name in training.all_outputs() if name.endswith("_model") or name == "teacher"}
    assert made == {model_dataset(kind)}, "controls and other models are those of today"


def test_it_ends_with_the_promotion_that_asked(tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    os.mkfifo(request)  # nobody writes into it, so that reading the request takes for ever
    command = [sys.executable, "-m", "umt_pipeline.commands.evaluate_again", str(request), "0"]  # not this process' number
    assert subprocess.run(command, capture_output=True, check=False, timeout=100).returncode == 1


def test_nothing_is_written_outside_the_place(tmp_path: Path) -> None:
    model = Node(lambda: tmp_path, inputs=None, outputs="stage2_model", name="train")
    request = Request(
        project=tmp_path, env="mine", kind="stage2", place=tmp_path / "place", workspace=tmp_path, model=None, seed=1
    )  # fmt: skip
    beside = DataCatalog({"stage2_model": FolderDataset(str(tmp_path / "place/data/06_models/stage2"))})
    require_beside(request, Pipeline([model]), beside)
    fixed = DataCatalog({"stage2_model": FolderDataset(str(tmp_path / "data/06_models/stage2"))})
    with pytest.raises(EvaluationImpossibleError, match=r"'stage2_model': .*; found .*/data/06_models/stage2\. .*conf/mine/"):
        require_beside(request, Pipeline([model]), fixed)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "promotion" not in path.parts)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose tiny models were trained and measured."""
    project = copy_project(tmp_path_factory.mktemp("again"))
    kedro_run(project, "demo_corpus,ingestion,teacher_features,stage1,stage2,evaluation,classification")
    earlier = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(project / "src")
    yield project
    os.environ.pop("PYTHONPATH") if earlier is None else os.environ.update(PYTHONPATH=earlier)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stage2", "classification"])
def test_the_same_model_has_the_same_evidence(evaluated: Path, kind: str) -> None:
    data = evaluated / "data" / "ci"
    before = contents(data)
    found = measure_again(evaluated, "ci", kind, data / "06_models" / kind)
    name = "evaluation" if kind == "stage2" else kind
    there = pd.read_parquet(data / "07_model_output" / f"{name}_evidence.parquet")
    pd.testing.assert_frame_equal(found.evidence, there)
    assert contents(data) == before, "nothing but the workspace was written to"
    assert not (data / ".checkpoints" / "promotion" / kind / "again" / "place").exists()


@pytest.mark.slow
def test_another_seed_is_another_model(evaluated: Path) -> None:
    data = evaluated / "data" / "ci"
    before = contents(data)
    found = measure_seed(evaluated, "ci", "stage2", 7)
    weights = {
        record.protocol.checkpoint_sha256 for record in found.records if record.protocol and record.protocol.model == "stage2"
    }
    assert len(weights) == 1
    assert weights != {sha256_file(data / "06_models" / "stage2" / "model.safetensors")}
    assert contents(data) == before
    again = measure_seed(evaluated, "ci", "stage2", 7)
    pd.testing.assert_frame_equal(again.evidence, found.evidence)


@pytest.mark.slow
def test_what_is_missing_is_named(evaluated: Path) -> None:
    videos = evaluated / "data" / "ci" / "03_primary" / "videos.parquet"
    videos.rename(videos.with_suffix(".away"))
    try:
        with pytest.raises(EvaluationImpossibleError, match=r"videos \(.*/03_primary/videos\.parquet\).*dvc pull"):
            measure_again(evaluated, "ci", "stage2", evaluated / "data" / "ci" / "06_models" / "stage2")
    finally:
        videos.with_suffix(".away").rename(videos)
