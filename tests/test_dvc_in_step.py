"""dvc.yaml says the same as the pipelines, the catalog, the parameter files and the imports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Pipeline

from tests.conftest import ROOT
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.identity import PACKAGE, PACKAGE_FOLDER, closure
from umt_pipeline.pipeline_registry import OPTIONAL
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.tasks import task_names

CODE = f"src/{PACKAGE}"
# Rooms whose change does not change what a stage computes: a stage need not depend on them.
WITHOUT_EFFECT = {"core", "datasets", "exchange", "tracking.py", "pipelines/runs.py"}

DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STUDIES: dict[str, Any] = yaml.safe_load((ROOT / "studies" / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = DVC["stages"]


def entries(stage: str, *keys: str) -> list[str]:
    """Paths of a stage's list; an entry with options is a mapping of one key."""
    found = [entry for key in keys for entry in STAGES[stage].get(key, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in found]


@pytest.fixture(scope="module")
def kedro_pipelines() -> dict[str, Pipeline]:
    configure_project(PACKAGE)
    return {name: pipeline for name, pipeline in dict(pipelines).items() if name != "__default__"}


@pytest.fixture(scope="module")
def paths(kedro_pipelines: dict[str, Pipeline]) -> dict[str, str]:
    """Where the catalog keeps what pipelines read and write, and not in memory."""
    loader, found = config_loader(ROOT, "base"), {}
    for name in {name for pipeline in kedro_pipelines.values() for name in pipeline.datasets()}:
        with contextlib.suppress(ConfigError):
            found[name] = str(catalog_path(ROOT, loader, name).relative_to(ROOT))
    return found


def test_one_stage_per_pipeline(kedro_pipelines: dict[str, Pipeline]) -> None:
    assert set(STAGES) == set(kedro_pipelines) - OPTIONAL
    assert {name: stage["cmd"] for name, stage in STAGES.items()} == {
        name: f"kedro run --pipelines {name}" for name in STAGES
    }


@pytest.mark.parametrize("stage", STAGES)
def test_data_dependencies_are_the_inputs(
    stage: str, kedro_pipelines: dict[str, Pipeline], paths: dict[str, str]
) -> None:
    inputs = {
        name
        for name in kedro_pipelines[stage].inputs()
        if not name.startswith("params:") and name not in ("parameters", "workspace")
    }
    data = sorted(path for path in entries(stage, "deps") if not path.startswith(CODE))
    assert data == sorted(paths[name] for name in inputs)


@pytest.mark.parametrize("stage", STAGES)
def test_outs_are_the_outputs(stage: str, kedro_pipelines: dict[str, Pipeline], paths: dict[str, str]) -> None:
    outputs = {paths[name] for name in kedro_pipelines[stage].all_outputs() if name in paths}
    assert sorted(entries(stage, "outs", "metrics", "plots")) == sorted(outputs)


@pytest.mark.parametrize("stage", STAGES)
def test_results_are_kept_by_git(stage: str) -> None:
    for entry in (entry for key in ("outs", "metrics", "plots") for entry in STAGES[stage].get(key, [])):
        path, options = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        assert (options.get("cache") is False) == path.startswith(("results/", "docs/")), path


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_the_ones_read(stage: str, kedro_pipelines: dict[str, Pipeline]) -> None:
    read = {
        name.removeprefix("params:").split(".")[0]
        for name in kedro_pipelines[stage].inputs()
        if name.startswith("params:")
    }
    if "parameters" in kedro_pipelines[stage].inputs():
        read = set(DVC["stages"]) | {"seed"}
    declared = {file: keys for entry in STAGES[stage]["params"] for file, keys in entry.items()}
    expected = {f"conf/base/parameters{'' if name == 'seed' else '_' + name}.yml": [name] for name in read}
    assert declared == expected


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "base").glob("parameters*.yml")), ids=lambda file: file.name)
def test_parameter_files_hold_plain_values(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    values = "\n".join(line.split("#")[0] for line in text.splitlines())
    assert "${" not in values, "DVC cannot read Kedro's interpolation"
    name = file.stem.removeprefix("parameters").removeprefix("_") or "seed"
    assert list(yaml.safe_load(text)) == [name]


def rooms(files: Iterable[Path]) -> set[str]:
    """Return what a stage depends on: whole rooms, of pipelines and tasks its own folder, else the file."""
    found = set()
    for file in files:
        parts = file.relative_to(PACKAGE_FOLDER).parts
        found.add("/".join(parts[:2]) if parts[0] in ("pipelines", "tasks") else parts[0])
    return {room for room in found if room not in WITHOUT_EFFECT and not room.endswith("__init__.py")}


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_rooms_of_the_imports(stage: str) -> None:
    declared = {path.removeprefix(f"{CODE}/") for path in entries(stage, "deps") if path.startswith(CODE)}
    assert all((PACKAGE_FOLDER / path).exists() for path in declared)
    if stage in task_names():
        needed = rooms(closure([f"tasks.{stage}"])) | {"pipelines/tasks.py", "reports"}
    else:
        needed = rooms(closure([f"pipelines.{stage}"]))
    # The corpus uses one module of a room that is not about drawing.
    needed = {"video/media.py" if (stage, room) == ("demo_corpus", "video") else room for room in needed}
    assert declared - {"reports"} == needed - {"reports"}


def test_studies_stand_apart_and_read_what_the_project_makes() -> None:
    assert all(stage["wdir"] == ".." for stage in STUDIES["stages"].values())
    made = {path for stage in STAGES for path in entries(stage, "outs", "metrics", "plots")}
    for stage in STUDIES["stages"].values():
        assert {path for path in stage["deps"] if not path.startswith((CODE, "studies"))} <= made


def test_no_stage_depends_on_a_folder_with_a_lock() -> None:
    # The lock is written after the stage has run, so that such a stage would be out of step at once.
    for stage in [*STAGES.values(), *STUDIES["stages"].values()]:
        folders = [ROOT / path for path in stage["deps"] if path.startswith((CODE, "studies"))]
        assert not [lock for folder in folders for lock in folder.glob("**/dvc.lock")]


def test_every_catalog_entry_is_used(kedro_pipelines: dict[str, Pipeline]) -> None:
    used = {name for pipeline in kedro_pipelines.values() for name in pipeline.datasets()}
    listed = {name for name in config_loader(ROOT, "base")["catalog"] if "{" not in name and not name.startswith("_")}
    assert listed <= used


def test_plots_name_files_of_stages() -> None:
    plotted = {file for plot in DVC["plots"] for options in plot.values() for file in options["y"]}
    assert plotted <= {path for stage in STAGES for path in entries(stage, "plots")}
