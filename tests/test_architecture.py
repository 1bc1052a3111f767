"""Downstairs is a plain library; upstairs wires it into Kedro, MLflow and DVC; downstairs never imports upstairs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from kedro.framework.project import configure_project, pipelines

from tests.imports import PACKAGE, SOURCE, imported_names, module_name
from umt_pipeline.core.config import Config

UPSTAIRS = {
    "__main__",
    "cli",
    "cli_tables",
    "datasets",
    "hooks",
    "own_data",
    "pipeline_registry",
    "pipelines",
    "plan_tables",
    "project_config",
    "runs",
    "settings",
    "summary",
    "tracking",
}
TOOLS = {"dvc", "dvclive", "kedro", "kedro_datasets", "kedro_mlflow", "mlflow"}
# Imported by every `kedro` command, so what these modules import at the top delays each of them.
HEAVY = {"decord", "open_clip", "sklearn", "timm", "torch", "torchvision", "transformers"}

FILES = sorted((SOURCE / PACKAGE).rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(SOURCE / PACKAGE).parts[0].removesuffix(".py")


def test_upstairs_rooms_exist() -> None:
    assert {room(file) for file in FILES} >= UPSTAIRS


@pytest.mark.parametrize("file", [file for file in FILES if room(file) not in UPSTAIRS], ids=module_name)
def test_downstairs_imports_no_tools_and_nothing_upstairs(file: Path) -> None:
    names = imported_names(file)
    tools = {name for name in names if name.split(".")[0] in TOOLS}
    ours = [name.split(".") for name in names if name.startswith(f"{PACKAGE}.")]
    upstairs = {".".join(parts) for parts in ours if parts[1] in UPSTAIRS}
    assert not tools, f"{file}: plain library code must run without {', '.join(sorted(tools))}"
    assert not upstairs, f"{file}: downstairs imports upstairs: {', '.join(sorted(upstairs))}"


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
