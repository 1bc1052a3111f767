"""A registered version, loaded by the same call as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner, Result

import umt_pipeline as umt
from tests.registry.finished import FinishedProject
from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import CheckpointError, ConfigError, RegistryError
from umt_pipeline.core.files import read_json
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.registry.loading import find_registered
from umt_pipeline.registry.reading import connect
from umt_pipeline.registry.register import register
from umt_pipeline.serving.describing import describe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> FinishedProject:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        finished = FinishedProject(
            tmp_path_factory.mktemp("finished") / "project", ("stage2", "classification", "question_answering")
        )
        patch.chdir(finished.folder)
        connect(finished.folder)
        register(finished.folder, None)
        MlflowClient().set_registered_model_alias("demo_stage2", "champion", "1")
    return finished


@pytest.fixture
def inside(made: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedProject:
    """The project as the current folder, and a cache of one's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("UMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(made.folder)
    return made


def videos(made: FinishedProject) -> list[Path]:
    clips = made.tables.videos[made.tables.videos["media"] == "video"]
    return [made.tables.media_root / path for path in clips["path"]]


def test_a_version_is_the_model_that_was_registered(inside: FinishedProject) -> None:
    known = umt.load(inside.model("stage2"), "fp32").embed_videos(videos(inside)).all()
    for address in ("models:/demo_stage2@champion", "models:/demo_stage2/1"):
        found = umt.load(address, "fp32")
        assert (found.kind, found.source) == ("stage2", address)
        torch.testing.assert_close(found.embed_videos(videos(inside)).all(), known)
    told = describe(find_registered("models:/demo_stage2@champion"))
    assert (told.facts["name"], told.facts["version"], told.facts["umt.corpus"]) == ("demo_stage2", "1", "demo")
    assert told.parts[""].sha256 == told.facts["sha256.model"]


def test_a_version_brings_how_it_is_asked(inside: FinishedProject) -> None:
    said = umt.load("models:/demo_classification@challenger", "fp32").classify(videos(inside))
    assert set(said.classes) == {"motion", "shape"}
    answers = umt.load("models:/demo_question_answering@challenger", "fp32").ask(videos(inside)[0], "what is it")
    assert {answer.text for answer in answers} == {"disc", "a star", "left"}
    with pytest.raises(ConfigError, match="option 'answers' means nothing for a registered version"):
        umt.load("models:/demo_question_answering/1", answers=["left"])


def test_files_are_fetched_once_and_again_if_they_changed(inside: FinishedProject, tmp_path: Path) -> None:
    folder = find_registered("models:/demo_stage2/1").folder
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert find_registered("models:/demo_stage2@champion").folder == folder
    assert weights.stat().st_mtime_ns == before
    weights.write_bytes(b"damaged")
    assert find_registered("models:/demo_stage2/1").folder == folder
    assert weights.stat().st_size > 1000


def test_a_registry_is_asked_from_outside_of_the_project(
    inside: FinishedProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    connect(inside.folder)
    assert umt.load("models:/demo_stage2@champion", "fp32").kind == "stage2"


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("models:/demo_stage2", ConfigError, r"expected models:/NAME@ALIAS, such as models:/demo_stage2@champion"),
        ("models:/demo_stage2@nobody", RegistryError, r"demo_stage2@nobody: there is no such version"),
        ("models:/demo_stage2/7", RegistryError, r"demo_stage2/7: there is no such version"),
        ("models:/of_nobody@champion", RegistryError, r"of_nobody@champion: there is no such version"),
    ],
)
def test_what_is_not_registered_is_said(inside: FinishedProject, address: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        umt.load(address)


def test_versions_of_others_are_refused(inside: FinishedProject) -> None:
    connect(inside.folder)
    client = MlflowClient()
    client.create_registered_model("of_others")
    client.create_model_version("of_others", "file:///nowhere")
    with pytest.raises(RegistryError, match=r"of_others/1: .* it has no tag umt\.kind"):
        umt.load("models:/of_others/1")


@pytest.mark.slow
def test_a_version_is_exported(inside: FinishedProject, tmp_path: Path) -> None:
    def export(address: str) -> Result:
        given = ["export", address, "--format", "transformers", "--out", str(tmp_path / "exported"), "--force"]
        return CliRunner().invoke(app, given)

    done = export("models:/demo_stage2@champion")
    assert done.exit_code == 0, done.output
    model = read_json(tmp_path / "exported" / "manifest.json")["model"]
    assert model["source"] == "models:/demo_stage2/1", "what the alias meant then"
    assert model["weights_sha256"] == weights_sha256(inside.model("stage2"))
    several = export("models:/demo_classification/1")
    assert isinstance(several.exception, CheckpointError)
    assert "holds 2 models, motion, shape: export one of these folders" in str(several.exception)
    assert isinstance(export("models:/demo_stage2@nobody").exception, RegistryError)
