"""The configuration as Kedro reads it: recipes under an overlay, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from kedro.framework.startup import bootstrap_project

from umt_pipeline.commands import main as cli
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.project_config import config_loader


def write(project: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (project / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "conf" / name).write_text(text, encoding="utf-8")
    return project


LAYERS = {
    "recipes/size.yml": "parameters: {stage1: {train: {lr: 1.0, epochs: 1, warmup: 1}}}",
    "recipes/data.yml": "parents: [size]\ncatalog: {raw_media: {type: x, filepath: '${globals:data}/${_part}'}, _part: films}",
    "recipes/mine.yml": "parents: [size, data]\nparameters: {stage1: {train: {lr: 2.0, epochs: 2}}}\nglobals: {results: r}",
    "own/globals.yml": "recipes: [mine]\ndata: data/own\n",
    "own/parameters.yml": "stage1: {train: {epochs: 3}}",
}


def test_later_layers_go_over_earlier_ones(project: Path) -> None:
    loader = config_loader(write(project, LAYERS), "own", "stage1.train.weight_decay=0.5")
    assert [file.stem for file in loader.recipes] == ["size", "data", "mine"]
    train = loader["parameters"]["stage1"]["train"]
    values = {name: train[name] for name in ("warmup", "lr", "epochs", "weight_decay")}
    assert values == {"warmup": 1, "lr": 2.0, "epochs": 3, "weight_decay": 0.5}
    assert train["betas"] == [0.9, 0.95], "base is below"
    assert loader["catalog"]["raw_media"] == {"type": "x", "filepath": "data/own/films"}
    assert loader["globals"] == {"data": "data/own", "results": "r", "recipes": ["mine"]}
    assert loader.own_parameters() == {"stage1": {"train"}}


def test_a_gate_of_an_overlay_is_all_of_its_gate(project: Path) -> None:
    """Its numbers are keys: the demo's are none that another corpus has."""
    files = {**LAYERS, "own/parameters_gate.yml": "gate: {stage2: {metrics: {mine: 0.0}}}"}
    parameters = config_loader(write(project, files), "own")["parameters"]
    assert parameters["gate"] == {"stage2": {"metrics": {"mine": 0.0}}}
    assert parameters["stage1"]["train"]["betas"] == [0.9, 0.95], "all other blocks are merged"
    assert "stage1" in config_loader(project, None)["parameters"]["gate"]


def test_each_loader_answers_from_its_own_globals(project: Path) -> None:
    own, base = config_loader(write(project, LAYERS), "own"), config_loader(project, None)
    assert base["catalog"]["raw_media"]["filepath"].startswith("data/01_raw")
    assert own["catalog"]["raw_media"]["filepath"].startswith("data/own"), "and not from those of the loader made last"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"own/globals.yml": "recipes: [mien]"}, r"own/globals\.yml: expected names of recipes, of .*, mine, .*; found 'mien'"),
        ({"own/globals.yml": "recipes: mine"}, r"globals\.yml: recipes: expected a list of names of recipes, found 'mine'"),
        ({"recipes/mine.yml": "parents: [up]"}, r"recipes/mine\.yml: expected names of recipes, .*; found 'up'"),
        ({"recipes/mine.yml": "params: {}"}, r"mine\.yml: expected sections of parents, .*, globals; found 'params'"),
    ],
)
def test_what_recipes_are_refused(project: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_loader(write(project, LAYERS | files), "own")


def test_recipes_that_name_each_other_are_read_once(project: Path) -> None:
    files = {"recipes/size.yml": "parents: [mine]"}
    assert [file.stem for file in config_loader(write(project, LAYERS | files), "own").recipes] == ["size", "data", "mine"]


@pytest.mark.parametrize("env", ["nosuch", "recipes"])
def test_kedro_run_in_an_environment_that_is_not_there(project: Path, env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Kedro wants the source folder inside the project.
    (project / "src").unlink()
    (project / "src").mkdir()
    bootstrap_project(project)
    for options, variable in ((["--env", env], ""), ([], env)):
        monkeypatch.setenv("KEDRO_ENV", variable)
        result = CliRunner().invoke(cli.run, options)
        assert result.exit_code == 1
        message = f"Error: --env: expected a folder of {project / 'conf'}, one of base, ci, local, umt_b16, "
        assert message in result.output
        assert f"; found '{env}'." in result.output
        assert len(result.output.splitlines()) < 5
        assert not list(project.glob("mlflow*")), "nothing was begun"
