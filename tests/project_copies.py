"""Copies of the project with code of their own, which tests may edit, and `kedro run` in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from dvc.utils.hydra import apply_overrides

from tests.conftest import ROOT


def copy_project(folder: Path) -> Path:
    """Copy code and configuration; what runs there is the copy, not the installed package."""
    project = folder / "project"
    ignore = shutil.ignore_patterns("__pycache__", "local")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, project / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "conf" / "local").mkdir()
    return project


def kedro_run(project: Path, pipelines: str) -> str:
    """Run pipelines in the environment ``ci`` and return what was logged."""
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    command = [sys.executable, "-m", "kedro", "run", "--env", "ci", "--pipelines", pipelines]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


def edit(file: Path, old: str, new: str) -> None:
    """Replace a piece of a file that is there once."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
    file.write_text(text.replace(old, new), encoding="utf-8")


def make_dvc_project(project: Path) -> Path:
    """Make a folder a git repository and a DVC project, with this project's lists of what they ignore."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(project)], check=True)
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    return project


def set_a_parameter(file: Path) -> None:
    """Set a parameter as `dvc exp run -S` does, to what it is, to something else and back: its line changes and no other."""
    before = file.read_text(encoding="utf-8")
    name, value = _plain_values(yaml.safe_load(before), "")[0]
    apply_overrides(str(file), [f"{name}={value}"])
    assert file.read_text(encoding="utf-8") == before, f"{file.name} is not as DVC writes it: docs/experiments.md"
    apply_overrides(str(file), [f"{name}={f'{value}1' if isinstance(value, str) else value + 1}"])
    after = file.read_text(encoding="utf-8")
    assert sum(one != other for one, other in zip(before.splitlines(), after.splitlines(), strict=True)) == 1
    apply_overrides(str(file), [f"{name}={value}"])
    assert file.read_text(encoding="utf-8") == before


def _plain_values(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Return the names, with dots, and values of whole numbers and texts, numbers first."""
    found = [(f"{prefix}{key}", value) for key, value in values.items() if type(value) in (int, str)]
    for key, value in values.items():
        if isinstance(value, dict):
            found += _plain_values(value, f"{prefix}{key}.")
    return sorted(found, key=lambda pair: isinstance(pair[1], str))
