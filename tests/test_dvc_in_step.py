"""dvc.yaml says the same as the pipelines, the catalog, the parameter files and the imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Pipeline

from tests.conftest import ROOT
from tests.imports import PACKAGE, SOURCE, closure

CODE = f"src/{PACKAGE}"
# Code whose change does not change what a stage computes: a stage need not depend on it.
WITHOUT_EFFECT = {"__init__.py", "config.py", "errors.py", "files.py", "tracking.py"}

DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STUDIES: dict[str, Any] = yaml.safe_load((ROOT / "studies" / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = DVC["stages"] | STUDIES["stages"]


def entries(stage: str, *keys: str) -> list[str]:
    """Paths of a stage's list; an entry with options is a mapping of one key."""
    found = [entry for key in keys for entry in STAGES[stage].get(key, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in found]


@pytest.fixture(scope="module")
def kedro_pipelines() -> dict[str, Pipeline]:
    configure_project(PACKAGE)
    return {name: pipeline for name, pipeline in dict(pipelines).items() if name != "__default__"}


@pytest.fixture(scope="module")
def paths() -> dict[str, str]:
    loader = OmegaConfigLoader(conf_source=str(ROOT / "conf"), base_env="base", default_run_env="base")
    return {name: entry["filepath"] for name, entry in loader["catalog"].items() if not name.startswith("_")}


def test_one_stage_per_pipeline(kedro_pipelines: dict[str, Pipeline]) -> None:
    assert set(STAGES) == set(kedro_pipelines)
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


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_imports(stage: str) -> None:
    declared = [ROOT / path for path in entries(stage, "deps") if path.startswith(CODE)]
    assert all(path.exists() for path in declared), (
        f"no such file or folder: {[str(p) for p in declared if not p.exists()]}"
    )
    package = SOURCE / PACKAGE
    needed = {
        file
        for file in closure(sorted((package / "pipelines" / stage).glob("*.py")))
        if file.name != "__init__.py" and str(file.relative_to(package)) not in WITHOUT_EFFECT
    }
    missing = {file for file in needed if not any(file == path or path in file.parents for path in declared)}
    assert not missing, (
        f"stage {stage} imports, but does not depend on: {sorted(str(f.relative_to(ROOT)) for f in missing)}"
    )
    idle = [path for path in declared if not any(file == path or path in file.parents for file in needed)]
    assert not idle, f"stage {stage} depends on, but does not import: {[str(path.relative_to(ROOT)) for path in idle]}"


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_follow_the_data_in_alphabetical_order(stage: str) -> None:
    deps = entries(stage, "deps")
    data = [path for path in deps if not path.startswith(CODE)]
    assert deps == data + sorted(path for path in deps if path.startswith(CODE))


def test_studies_stand_apart_and_read_what_the_project_makes() -> None:
    assert all(stage["wdir"] == ".." for stage in STUDIES["stages"].values())
    made = {path for stage in DVC["stages"] for path in entries(stage, "outs", "metrics", "plots")}
    for stage in STUDIES["stages"]:
        assert {path for path in entries(stage, "deps") if not path.startswith(CODE)} <= made


def test_every_catalog_entry_is_used(kedro_pipelines: dict[str, Pipeline], paths: dict[str, str]) -> None:
    used = {name for pipeline in kedro_pipelines.values() for name in pipeline.datasets()}
    assert set(paths) <= used


def test_plots_name_files_of_stages() -> None:
    plotted = {file for plot in DVC["plots"] for options in plot.values() for file in options["y"]}
    assert plotted <= {path for stage in STAGES for path in entries(stage, "plots")}
