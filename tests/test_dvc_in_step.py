"""dvc.yaml is what the code makes of the pipelines, the catalog, the parameter files and the imports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.project_copies import edit, set_a_parameter
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.identity import PACKAGE_FOLDER
from umt_pipeline.dvc_stages import CODE, describe_stages, project_pipelines, render_stages
from umt_pipeline.pipelines import OPTIONAL
from umt_pipeline.project_config import config_loader

DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STUDIES: dict[str, Any] = yaml.safe_load((ROOT / "studies" / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = DVC["stages"]


def paths(stage: dict[str, Any], *keys: str) -> list[str]:
    """Paths of a stage's lists; an entry with options is a mapping of one key."""
    found = [entry for key in keys for entry in stage.get(key, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in found]


@pytest.mark.slow
def test_the_committed_file_is_the_generated_one() -> None:
    expected = render_stages(describe_stages(ROOT, None), None)
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == expected, "write it anew: umt stages"


def test_one_stage_per_pipeline_after_what_it_reads() -> None:
    assert list(STAGES) == [name for name in project_pipelines() if name not in OPTIONAL]
    made: set[str] = set()
    for stage in STAGES.values():
        assert {path for path in paths(stage, "deps") if not path.startswith(CODE)} <= made
        made |= set(paths(stage, "outs", "metrics", "plots"))


@pytest.mark.parametrize("stage", STAGES)
def test_results_are_kept_by_git(stage: str) -> None:
    for entry in (entry for key in ("outs", "metrics", "plots") for entry in STAGES[stage].get(key, [])):
        path, options = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        assert (options.get("cache") is False) == path.startswith("results/"), path


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_takes_every_stage(stage: str) -> None:
    """DVC remembers no run with an out that it does not keep, unless that is a metric or a plot; nor one with `persist`.

    Of the studies it takes none: they write documents that git keeps. Their runs are known by content and found again.
    """
    assert all(isinstance(entry, str) for entry in STAGES[stage]["outs"]), "an out with an option"
    assert not STAGES[stage].get("always_changed")


def test_few_numbers_are_metrics() -> None:
    metrics = [path for stage in [*STAGES.values(), *STUDIES["stages"].values()] for path in paths(stage, "metrics")]
    assert metrics
    assert all(Path(path).name.startswith("headline") for path in metrics)
    assert sum(len(json.loads((ROOT / path).read_text(encoding="utf-8"))) for path in metrics) <= 15


def test_no_stage_depends_on_what_a_run_took() -> None:
    times = {path for stage in STAGES.values() for path in paths(stage, "outs") if path.endswith("_times.json")}
    assert len(times) == len(STAGES) - 2, "drawing the corpus and ingestion tell none"
    assert not times & {path for stage in STAGES.values() for path in paths(stage, "deps")}


def test_a_result_that_the_run_cache_would_refuse_is_no_result(project: Path) -> None:
    edit(project / "conf/base/catalog.yml", "    dvc: {metrics: true}\n", "")
    with pytest.raises(ConfigError, match=r"catalog entry '\w*headline': expected metadata.dvc to say `plot` or `metrics`"):
        describe_stages(project, None)


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_exist(stage: str) -> None:
    rooms = [path.removeprefix(f"{CODE}/") for path in paths(STAGES[stage], "deps") if path.startswith(CODE)]
    assert rooms
    assert all((PACKAGE_FOLDER / room).exists() for room in rooms)


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "base").glob("parameters*.yml")), ids=lambda file: file.name)
def test_parameter_files_hold_plain_values(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    values = "\n".join(line.split("#")[0] for line in text.splitlines())
    assert "${" not in values, "DVC cannot read Kedro's interpolation"
    name = file.stem.removeprefix("parameters").removeprefix("_") or "seed"
    assert list(yaml.safe_load(text)) == [name]


@pytest.mark.parametrize("file", sorted((ROOT / "conf" / "base").glob("parameters*.yml")), ids=lambda file: file.name)
def test_setting_a_parameter_changes_its_line_and_no_other(file: Path, tmp_path: Path) -> None:
    """`dvc exp run -S` reads and writes a whole file: it must be written as DVC writes it, and no comment may follow a list."""
    written = tmp_path / file.name
    shutil.copy(file, written)
    set_a_parameter(written)


def test_studies_stand_apart_and_read_what_the_project_makes() -> None:
    assert all(stage["wdir"] == ".." for stage in STUDIES["stages"].values())
    made = {path for stage in STAGES.values() for path in paths(stage, "outs", "metrics", "plots")}
    for stage in STUDIES["stages"].values():
        assert {path for path in stage["deps"] if not path.startswith((CODE, "studies"))} <= made


def test_no_stage_depends_on_a_folder_with_a_lock() -> None:
    # The lock is written after the stage has run, so that such a stage would be out of step at once.
    for stage in [*STAGES.values(), *STUDIES["stages"].values()]:
        folders = [ROOT / path for path in stage["deps"] if path.startswith((CODE, "studies"))]
        assert not [lock for folder in folders for lock in folder.glob("**/dvc.lock")]


def test_every_catalog_entry_is_used() -> None:
    used = {name for pipeline in project_pipelines().values() for name in pipeline.datasets()}
    listed = {name for name in config_loader(ROOT, "base")["catalog"] if "{" not in name and not name.startswith("_")}
    assert listed <= used


def test_all_declared_plots_are_drawn_and_name_files_of_stages() -> None:
    catalog = yaml.safe_load((ROOT / "conf" / "base" / "catalog.yml").read_text(encoding="utf-8"))
    assert [next(iter(plot)) for plot in DVC["plots"]] == list(catalog["_plots"])
    plotted = {file for plot in DVC["plots"] for options in plot.values() for file in options["y"]}
    assert plotted <= {path for stage in STAGES.values() for path in paths(stage, "plots")}


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected pipelines of .*stage1.*; found 'stage3'"):
        describe_stages(ROOT, None, ["ingestion", "stage3"])


def test_the_run_cache_sees_every_parameter() -> None:
    # It leaves these keys out, so that a run with another value would be taken for the same: they are named in full.
    for stage in STAGES.values():
        for entry in stage["params"]:
            for file, names in entry.items():
                text = (ROOT / file).read_text(encoding="utf-8")
                block = yaml.safe_load(text)[names[0]]
                assert sorted(names[1:]) == sorted(overlooked(block, names[0]))


def overlooked(values: Any, name: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    return [f"{name}.{key}" for key in values if key in ("size", "nfiles")] + [
        inner for key, value in values.items() for inner in overlooked(value, f"{name}.{key}")
    ]
