"""What several commands share: the project that they are called in, an option, lines on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from kedro.utils import find_kedro_project
from rich.console import Console

from umt_pipeline.core.errors import ConfigError

Environment = Annotated[str | None, typer.Option("--env", help="Overlay: the folder conf/ENV that the run used.")]


def project_folder() -> Path:
    """Return the project that the current folder is in.

    Raises:
        ConfigError: it is in none.
    """
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise ConfigError(f"{Path.cwd()}: expected a folder of the project, found no Kedro pyproject.toml here or above.")
    return Path(project)


def say(lines: Iterable[str]) -> None:
    """Print lines as they are."""
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(line, markup=False)
