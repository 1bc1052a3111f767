"""Below is a plain library, above it is wired into Kedro, MLflow and DVC; in each storey arrows run downwards only."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from kedro.framework.project import configure_project, pipelines

from umt_pipeline.core.config import Config
from umt_pipeline.core.identity import PACKAGE, PACKAGE_FOLDER, imported_modules, module_file

# From the ground up: a room may import from those before it, and those of one line not from each other.
LIBRARY = (
    ("core",),
    ("schemas", "masking", "compute"),
    ("video",),
    ("tables", "demo_world", "losses"),
    ("models",),
    ("data",),
    ("features",),
    ("training",),
    ("evaluation",),
    ("reports",),
    ("tasks",),
    ("exchange",),
    ("serving",),
)
WIRING = (
    ("project_config", "tracking", "datasets", "executors", "dvc_repo", "dvc_changes"),
    ("hooks",),
    ("pipelines",),
    ("dvc_stages",),
    ("registry",),
    ("server",),
    ("commands",),
    ("settings", "pipeline_registry", "cli"),
    ("__main__",),
)
FLOORS = {room: number for number, rooms in enumerate((*LIBRARY, *WIRING)) for room in rooms}
GROUND = {room for rooms in LIBRARY for room in rooms}
TOOLS = {"dvc", "dvclive", "fastapi", "kedro", "mlflow", "prometheus_client", "ray", "uvicorn"}
# Imported by every `kedro` command, so what these modules import at the top delays each of them.
HEAVY = {"decord", "open_clip", "sklearn", "timm", "torch", "torchvision", "transformers"}

FILES = sorted(file for file in PACKAGE_FOLDER.rglob("*.py") if file.parent != PACKAGE_FOLDER or file.stem != "__init__")


def room(file: Path) -> str:
    return file.relative_to(PACKAGE_FOLDER).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    assert {room(file) for file in FILES} == set(FLOORS)


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_arrows_run_downwards(name: str) -> None:
    wrong = [
        f"{file.relative_to(PACKAGE_FOLDER)} imports {target}"
        for file in FILES
        for target in sorted(imported_modules(file))
        if room(file) == name and module_file(target) is not None and target.partition(".")[0] in FLOORS
        and target.partition(".")[0] != name and FLOORS[target.partition(".")[0]] >= FLOORS[name]
    ]  # fmt: skip
    assert not wrong


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_library_runs_without_tools(name: str) -> None:
    for file in FILES:
        if room(file) == name:
            text = file.read_text(encoding="utf-8")
            lines = [line.strip() for line in text.splitlines()]
            found = {tool for tool in TOOLS for line in lines if line.startswith((f"import {tool}", f"from {tool}"))}
            assert not found, f"{file}: plain library code must run without {', '.join(sorted(found))}"


def test_every_pipeline_takes_typed_parameters() -> None:
    """Kedro checks parameters before anything runs, but only where it can read a node's type hints."""
    configure_project(PACKAGE)
    for name, pipeline in dict(pipelines).items():
        for node in pipeline.nodes if name != "__default__" else []:
            hints = get_type_hints(inspect.unwrap(node.func))  # fails for names that exist for type checkers only
            types = [hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, Config)]
            assert types or f"params:{name}" not in node.inputs, f"{node.name}: params:{name} is not typed"


def test_the_command_line_starts_without_heavy_imports() -> None:
    rooms = ("settings", "hooks", "tracking", "cli", "pipeline_registry", "datasets")
    modules = ", ".join(f"{PACKAGE}.{name}" for name in rooms)
    code = f"import sys, {modules}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [], "imported at the top of a module that every `kedro` command loads"
