"""The champion is served, exchanged without a restart, and remembered for the time when the registry is away."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.server.small import Small, started
from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import sha256_file, sha256_folder, write_json
from umt_pipeline.server.building import Content
from umt_pipeline.server.corpora import CorpusOffer
from umt_pipeline.server.known import write_known_clip
from umt_pipeline.server.offers import Shop
from umt_pipeline.server.watching import Watcher
from umt_pipeline.serving import loading
from umt_pipeline.serving.embedding.gathering import Asked

NAME = "demo_stage2"


class Registry:
    """A registry of this test alone."""

    def __init__(self, project: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._empty = empty
        self.database = project / "own.db"
        self.up = f"sqlite:///{self.database}"
        self._monkeypatch = monkeypatch
        self.come()

    def come(self) -> None:
        self._monkeypatch.setenv("MLFLOW_TRACKING_URI", self.up)
        mlflow.set_tracking_uri(self.up)

    def go(self) -> None:
        # A port that nobody listens at.
        self._monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        self._monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def add(self, model: Path, folder: Path) -> str:
        """Make a version the champion."""
        self.come()
        if not self.database.exists():
            shutil.copy(self._empty, self.database)
        artifacts = folder / "artifacts"
        shutil.copytree(model, artifacts / "model")
        write_json(artifacts / "serving.json", {"kind": "stage2", "settings": {}})
        tags = {
            "umt.corpus": "demo",
            "umt.kind": "stage2",
            "sha256.folder": sha256_folder(artifacts / "model"),
            "sha256.serving": sha256_file(artifacts / "serving.json"),
        }
        client = MlflowClient()
        if not client.search_registered_models(f"name = '{NAME}'"):
            client.create_registered_model(NAME)
        version = str(client.create_model_version(NAME, source=str(folder), tags=tags).version)
        client.set_registered_model_alias(NAME, "champion", version)
        return version


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a registry in which there is nothing yet; making one takes MLflow seconds."""
    database = tmp_path_factory.mktemp("registry") / "empty.db"
    MlflowClient(f"sqlite:///{database}").search_registered_models()
    return database


@pytest.fixture
def registry(project: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("UMT_CACHE", str(project / "cache"))
    return Registry(project, empty, monkeypatch)


@pytest.fixture
def offer(project: Path, small: Small, tmp_path: Path) -> CorpusOffer:
    clip = tmp_path / "known.mp4"
    write_known_clip(clip)

    known = pd.DataFrame({"path": [str(small.videos / "one.mp4")], "label": ["ring"], "split": ["test"]})
    captions = pd.DataFrame({name: [] for name in ("path", "caption", "split", "start_s", "end_s")})
    return CorpusOffer(project, None, Shop(clip), lambda: Content(Asked(small.videos, known=known), captions))


@pytest.mark.slow  # a process of its own builds the index
def test_another_champion_is_taken_over_while_requests_come(
    offer: CorpusOffer, registry: Registry, small: Small, cache: Path, tmp_path: Path
) -> None:
    registry.add(small.model, tmp_path / "first")
    served, looks = offer.served([])
    assert [one.name for one in served] == [NAME]
    with started(served, cache) as (client, serving):
        watcher = Watcher(serving, looks, 3600)
        (before,) = client.get("/api/models").json()
        assert (before["champion"], before["source"]) == (True, f"models:/{NAME}/1")
        watcher.look()
        assert client.get("/api/models").json() == [before], "nothing has changed"
        registry.add(small.other("stage2"), tmp_path / "second")
        watcher.look()
        (after,) = client.get("/api/models").json()
        assert (after["champion"], after["source"]) == (True, f"models:/{NAME}/2")
        assert after["key"] != before["key"]
        found = client.get("/api/search", params={"q": "a disc"})
        assert found.json()["hits"], "by the new model, in an index of its own"
        assert client.get("/healthz").status_code == 200
        assert f'umt_swaps_total{{model="{NAME}"}} 1.0' in client.get("/metrics").text
        registry.go()
        watcher.look()
        assert client.get("/api/models").json() == [after], "the registry is away, and what was served is"


def test_a_champion_that_cannot_be_served_is_told_of_and_not_tried_all_the_time(
    offer: CorpusOffer, registry: Registry, small: Small, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    registry.add(small.model, tmp_path / "first")
    served, looks = offer.served([])
    broken = shutil.copytree(small.model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    registry.add(broken, tmp_path / "second")
    with started(served, cache) as (client, serving):
        watcher = Watcher(serving, looks, 3600)
        for _ in range(3):
            watcher.look()
        (told,) = client.get("/api/models").json()
        assert told["source"] == f"models:/{NAME}/1"
        (why,) = told["behind"]
        assert why.startswith("version 2 is the champion, and is not served: ")
        assert "model.safetensors" in why
        assert f'umt_behind{{model="{NAME}"}} 1.0' in client.get("/metrics").text
        assert caplog.text.count("version 2 is the champion now: getting it ready") == 1
        MlflowClient().set_registered_model_alias(NAME, "champion", "1")
        watcher.look()
        assert client.get("/api/models").json()[0]["behind"] == [], "it is the champion no more"


def test_without_a_registry_the_last_champion_is_served(
    offer: CorpusOffer, registry: Registry, small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add(small.model, tmp_path / "first")
    assert offer.champion("stage2").now() is not None
    registry.go()
    served, _ = offer.served([])
    assert served[0].champion
    assert "Serving demo_stage2 version 1, the champion when the registry could last be asked" in caplog.text
    shutil.rmtree(Path(registry.database.parent / "cache"))
    with pytest.raises(RegistryError, match="9"):
        offer.champion("stage2").now()


def test_without_a_champion_stage_2_is_served(
    offer: CorpusOffer, registry: Registry, project: Path, small: Small, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="expected a model to search with, found none"):
        offer.served([])
    assert not registry.database.exists(), "nobody makes a database only to say that it is empty"
    shutil.copytree(small.model, project / "data" / "06_models" / "stage2")
    served, _ = offer.served([])
    assert [(one.name, one.champion) for one in served] == [(NAME, False)]
    assert served[0].index is not None
    assert served[0].index.folder.parent == project / "data" / "09_index"


def test_models_are_served_side_by_side_each_with_its_own_index(
    offer: CorpusOffer, registry: Registry, small: Small, cache: Path
) -> None:
    other = small.other("stage2")
    served, looks = offer.served([str(small.model), str(other), str(small.model)])
    assert not looks
    assert [one.name for one in served] == ["stage2", "stage2-1", "stage2-2"]
    with started(served[:2], cache) as (client, _):
        by = {name: client.get("/api/search", params={"q": "a disc", "model": name}).json() for name in ("stage2", "stage2-1")}
    assert by["stage2"]["model"] == "stage2"
    assert by["stage2"]["hits"] != by["stage2-1"]["hits"]


def test_a_model_is_asked_in_the_precision_of_its_index(
    offer: CorpusOffer, registry: Registry, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,), _ = offer.served([str(small.model)])
    assert first.index is not None
    built = {first.index.folder}
    measured = {"fp32": "bf16", "bf16": "fp32"}[first.embedder.encoder.precision]
    monkeypatch.setattr(loading, "resolve_precision", lambda asked, device: measured)
    (again,), _ = offer.served([str(small.model)])
    assert again.embedder.key == first.embedder.key
    assert set(first.index.folder.parent.iterdir()) == built, "no second index of the same weights"
    (other,), _ = offer.served([str(small.other("stage2"))])
    assert other.embedder.encoder.precision == measured, "of other weights there is none"
