"""Promoting: who becomes the champion, and what is left when a promotion is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from tests.commands.registry_files import GATE, T2V, V2T, evidence, hits, records, register_version
from tests.project_copies import make_dvc_project
from umt_pipeline.commands import judging, promotion
from umt_pipeline.commands.evaluate_again import EvaluationImpossibleError, Measured
from umt_pipeline.commands.judging import Asked
from umt_pipeline.commands.main import app
from umt_pipeline.commands.promotion import Promoted, promote
from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.records import Record
from umt_pipeline.registry.reading import connect

CHAMPION, BETTER, WORSE = hits(0.5), hits(0.6), hits(0.4)
LUCKY = np.roll(CHAMPION, 1) | (np.arange(len(CHAMPION)) < 4)
NAME = "demo_stage2"


class Registry:
    """Registers models in a project, and says what the registry holds."""

    def __init__(self, project: Path) -> None:
        self.project, self.folder, self.count = project, project / "artifacts", 0

    def add(self, t2v: np.ndarray, *aliases: str, v2t: np.ndarray | None = None, **protocol: Any) -> str:
        self.count += 1
        made = evidence(t2v, v2t)
        return register_version(self.folder / str(self.count), made, records(**protocol), f"{self.count:032x}.dir", aliases)

    def tags(self, version: str) -> dict[str, str]:
        return dict(MlflowClient().get_model_version(NAME, version).tags)

    @property
    def champion(self) -> str | None:
        try:
            return str(MlflowClient().get_model_version_by_alias(NAME, "champion").version)
        except MlflowException:
            return None

    @property
    def document(self) -> Path:
        return self.project / "results" / "promotion_stage2.json"

    @property
    def page(self) -> Path:
        return self.project / "data" / "08_reporting" / "promotion_stage2.html"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with its tables, which take a second or two to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    earlier = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    MlflowClient().search_registered_models()
    mlflow.set_tracking_uri(earlier)
    return path


@pytest.fixture
def registry(project: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An empty registry, and a project whose gate looks at two numbers."""
    earlier = mlflow.get_tracking_uri()
    (project / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    (project / "conf" / "base" / "parameters_gate.yml").write_text(GATE, encoding="utf-8")
    connect(project)
    yield Registry(project)
    mlflow.set_tracking_uri(earlier)


def run(registry: Registry, seeds: int = 1) -> Promoted:
    return promote(Asked(registry.project, None, "stage2", seeds), lambda found: True)


def verdict(done: Promoted) -> str:
    assert done.found is not None
    return done.found.verdict.verdict


def test_the_first_model_is_the_champion(registry: Registry) -> None:
    version = registry.add(CHAMPION, "challenger")
    done = run(registry)
    assert (verdict(done), done.moved, registry.champion) == ("promoted", True, version)
    said = json.loads(registry.document.read_text(encoding="utf-8"))
    assert (said["verdict"], said["champion"], said["metrics"]) == ("promoted", None, [])
    assert "first" in said["reason"]
    assert registry.tags(version)["gate.verdict"] == "promoted"
    assert registry.tags(version)["gate.champion"] == "none"
    assert "it is the first" in registry.page.read_text(encoding="utf-8")
    document = registry.document.read_bytes()
    for text in (None, json.dumps({"challenger": {"registered as": "another"}})):
        registry.document.unlink()
        if text is not None:
            registry.document.write_text(text, encoding="utf-8")
        assert run(registry).found is None, "the champion is the challenger already"
        assert registry.document.read_bytes() == document, "killed before it was committed, it is written again"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("challenger", "expected"),
    [(BETTER, "promoted"), (WORSE, "refused"), (LUCKY, "cannot_be_told"), (CHAMPION, "cannot_be_told")],
)
def test_only_a_better_model_is_promoted(registry: Registry, challenger: np.ndarray, expected: str) -> None:
    first = registry.add(CHAMPION, "champion")
    second = registry.add(challenger, "challenger")
    done = run(registry)
    assert verdict(done) == expected
    assert registry.champion == (second if expected == "promoted" else first)
    tags = registry.tags(second)
    assert (tags["gate.verdict"], tags["gate.champion"]) == (expected, first)
    assert {f"gate.{T2V}", f"gate.{V2T}"} <= set(tags)
    assert str(MlflowClient().get_model_version_by_alias(NAME, "challenger").version) == second
    document = registry.document.read_bytes()
    page = registry.page.read_bytes()
    again = run(registry)
    assert (registry.document.read_bytes(), registry.page.read_bytes()) == (document, page)
    assert (again.found is None) == (expected == "promoted")


def test_a_guard_refuses(registry: Registry) -> None:
    registry.add(CHAMPION, "champion")
    registry.add(BETTER, "challenger", v2t=hits(0.3))
    assert verdict(run(registry)) == "refused"


def test_a_verdict_replaces_an_earlier_one(registry: Registry) -> None:
    registry.add(CHAMPION, "champion")
    second = registry.add(WORSE, "challenger")
    run(registry)
    gate = GATE.replace(f"{{{V2T}: 5.0}}", "{}")
    (registry.project / "conf" / "base" / "parameters_gate.yml").write_text(gate, encoding="utf-8")
    run(registry)
    assert f"gate.{V2T}" not in registry.tags(second)


def test_without_a_challenger_nothing_can_be_promoted(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"demo_stage2: .* alias challenger, found none.* umt register --kind stage2"):
        run(registry)
    with pytest.raises(ConfigError, match=r"expected a block 'stage3'.* found stage2"):
        promote(Asked(registry.project, None, "stage3"), lambda found: True)
    registry.add(CHAMPION, "challenger")
    gate = GATE.replace("t2v_r1: 0.0", "t2v_r1/x: 0.0")
    (registry.project / "conf" / "base" / "parameters_gate.yml").write_text(gate, encoding="utf-8")
    with pytest.raises(EvaluationError):
        run(registry)
    assert registry.champion is None, "a first model too must have the numbers that the gate names"


@pytest.mark.parametrize("step", ["_write_page", "write_verdict", "make_champion"])
def test_a_killed_promotion_is_finished_by_the_next(registry: Registry, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    first, second = registry.add(CHAMPION, "champion"), registry.add(BETTER, "challenger")

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion, step, killed)
        with pytest.raises(KeyboardInterrupt):
            run(registry)
    assert registry.champion == first, "the alias moves last"
    assert run(registry).moved
    assert registry.champion == second
    assert registry.tags(second)["gate.verdict"] == "promoted"


def test_who_says_no_moves_nothing(registry: Registry) -> None:
    first, second = registry.add(CHAMPION, "champion"), registry.add(BETTER, "challenger")
    asked = Asked(registry.project, None, "stage2")
    done = promote(asked, lambda found: False)
    assert (done.moved, registry.champion) == (False, first)
    assert registry.tags(second)["gate.verdict"] == "promoted"
    assert promote(asked, lambda found: True).moved


def test_another_champion_in_between_is_judged_too(registry: Registry) -> None:
    registry.add(CHAMPION, "champion")
    registry.add(BETTER, "challenger")
    best = registry.add(hits(0.9))

    def meanwhile(found: object) -> bool:
        MlflowClient().set_registered_model_alias(NAME, "champion", best)
        return True

    done = promote(Asked(registry.project, None, "stage2"), meanwhile)
    assert (verdict(done), registry.champion) == ("refused", best)


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("challenger", "status"), [(BETTER, 0), (WORSE, 3), (CHAMPION, 4)])
def test_exit_status_says_what_came_of_it_and_yes_does_not_skip_the_gate(
    registry: Registry, challenger: np.ndarray, status: int
) -> None:
    first, second = registry.add(CHAMPION, "champion"), registry.add(challenger, "challenger")
    result = CliRunner().invoke(app, ["promote", "demo", "--yes"])
    assert result.exit_code == status, result.output
    assert f"{NAME} version {second}" in result.output
    assert str(registry.page) in result.output
    assert registry.champion == (first if status else second)
    assert CliRunner().invoke(app, ["promote", "--yes"]).exit_code == status


def test_json_is_all_that_is_printed(registry: Registry) -> None:
    registry.add(CHAMPION, "champion")
    registry.add(WORSE, "challenger")
    result = CliRunner().invoke(app, ["promote", "--json"])
    said = json.loads(result.stdout)
    assert (result.exit_code, said["verdict"], said["moved"]) == (3, "refused", False)
    assert [metric["name"] for metric in said["metrics"]] == [T2V, V2T]


# --- damage -----------------------------------------------------------------------------------------------------------
def test_damaged_evidence_promotes_nobody(registry: Registry) -> None:
    first, second = registry.add(CHAMPION, "champion"), registry.add(BETTER, "challenger")
    file = registry.folder / "2" / "artifacts" / "evidence.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RegistryError, match=r"version 2: evidence\.parquet is not what was registered"):
        run(registry)
    assert registry.champion == first
    assert not registry.document.exists()
    assert not any(name.startswith("gate.") for name in registry.tags(second))


def test_a_champion_with_damaged_evidence_is_measured_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(CHAMPION, "champion")
    registry.add(BETTER, "challenger")
    (registry.folder / "1" / "artifacts" / "records.json").unlink()
    monkeypatch.setattr(judging, "measure_again", measured(CHAMPION))
    done = run(registry)
    assert done.found is not None
    assert (verdict(done), done.moved) == ("promoted", True)
    assert "its registered evidence cannot be used" in done.found.again


# --- protocols --------------------------------------------------------------------------------------------------------
def measured(t2v: np.ndarray, **protocol: Any) -> Any:
    """Return a stand-in for an evaluation."""

    def measure(project: Path, env: str | None, kind: str, what: object) -> Measured:
        if isinstance(what, Path):
            assert (what / "config.json").is_file(), "the champion's model folder, out of the registry"
        return Measured(evidence(t2v), [Record.model_validate(one) for one in records(**protocol)])

    return measure


def test_a_champion_of_another_protocol_is_measured_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(hits(0.9), "champion", annotation_sha256="00" * 32)
    second = registry.add(BETTER, "challenger")
    monkeypatch.setattr(judging, "measure_again", measured(CHAMPION))
    done = run(registry)
    assert done.found is not None
    assert (verdict(done), registry.champion) == ("promoted", second)
    assert "annotation rows differ" in done.found.differences[0]
    assert "measured again under today" in done.found.again
    assert done.found.verdict.metrics[0].champion == 50.0, "not of what had been registered"


def test_what_cannot_be_measured_again_cannot_be_told(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    first = registry.add(CHAMPION, "champion", frames=8)
    registry.add(BETTER, "challenger")

    def impossible(*arguments: object) -> Measured:
        raise EvaluationImpossibleError("raw_media (data/01_raw/demo/videos): expected before the first step, found nothing")

    monkeypatch.setattr(judging, "measure_again", impossible)
    done = run(registry)
    assert done.found is not None
    assert (verdict(done), registry.champion) == ("cannot_be_told", first)
    assert "raw_media" in done.found.verdict.reason
    monkeypatch.setattr(judging, "measure_again", measured(CHAMPION, frames=8))
    done = run(registry)
    assert done.found is not None
    assert verdict(done) == "cannot_be_told"
    assert "frames is 8 in the first run, 4 in the second" in done.found.verdict.reason


def test_the_version_of_the_package_is_no_protocol(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(CHAMPION, "champion", version="0.0.1", chosen={"c": 1.0})
    registry.add(BETTER, "challenger")
    monkeypatch.setattr(judging, "measure_again", None)
    done = run(registry)
    assert done.found is not None
    assert (verdict(done), list(done.found.differences)) == ("promoted", [])


# --- seeds ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_other_seeds_are_trained_once_and_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(CHAMPION, "champion")
    second = registry.add(hits(0.6, seed=0), "challenger")
    trained: list[int] = []

    def measure(project: Path, env: str | None, kind: str, seed: int) -> Measured:
        trained.append(seed)
        found = hits(0.6) if seed == 1 else hits(0.62)
        return Measured(evidence(found), [Record.model_validate(one) for one in records(seed=seed)])

    monkeypatch.setattr(judging, "measure_seed", measure)
    monkeypatch.setattr(judging, "require_checked_out", lambda asked, challenger: None)
    done = promote(Asked(registry.project, None, "stage2", 3), lambda found: False)
    assert done.found is not None
    assert (done.found.verdict.champions, done.found.verdict.challengers) == (1, 3)
    assert trained == [1, 2]
    assert run(registry, 3).moved
    assert trained == [1, 2], "kept from the first time"

    third = registry.add(hits(0.7), "challenger")
    done = run(registry, 3)
    assert done.found is not None
    assert (done.found.verdict.champions, done.found.verdict.challengers) == (3, 3), f"the seeds of version {second} are kept"
    assert third == "3"


def test_other_seeds_are_measured_as_the_challenger_was(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(CHAMPION, "champion")
    registry.add(CHAMPION, "challenger")
    measure, asked = measured(CHAMPION, frames=8), Asked(registry.project, None, "stage2", 2)
    monkeypatch.setattr(judging, "measure_seed", lambda *arguments: measure(*arguments))
    monkeypatch.setattr(judging, "require_checked_out", lambda asked, challenger: None)
    with pytest.raises(ConfigError, match=r"--seeds: .* version 2 .* frames is 8 in the first run, 4 in the second"):
        promote(asked, lambda found: True)
    measure = measured(CHAMPION)  # as it was: what was kept of the other protocol is not taken
    done = promote(asked, lambda found: True)
    assert done.found is not None
    assert done.found.verdict.challengers == 2


def test_other_seeds_need_the_code_and_parameters_of_the_challenger(registry: Registry) -> None:
    make_dvc_project(registry.project)
    stage = {"cmd": "true", "outs": ["data/06_models/stage2"]}
    (registry.project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage2": stage}}), encoding="utf-8")
    lock = {
        "schema": "2.0",
        "stages": {"stage2": {"cmd": "true", "outs": [{"path": "data/06_models/stage2", "md5": "0" * 32}]}},
    }
    (registry.project / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    registry.add(CHAMPION, "champion")
    registry.add(BETTER, "challenger")
    with pytest.raises(ConfigError, match=r"--seeds: .* version 2 .* dvc\.lock has another data/06_models/stage2"):
        run(registry, 3)


def test_evidence_is_read_as_it_was_written(registry: Registry) -> None:
    registry.add(BETTER, "challenger")
    found = judging.fetched(promotion.version_at(NAME, "challenger"))  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(found.evidence, evidence(BETTER))
