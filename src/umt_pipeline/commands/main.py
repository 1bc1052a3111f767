"""The commands of `umt`, and a `kedro run` whose errors are short.

Kedro imports this module for every `kedro` command, so torch and mlflow are imported by the commands that need them.
"""

from __future__ import annotations

import copy
import functools
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.validation.exceptions import ParameterValidationError
from rich.console import Console

from umt_pipeline.commands import asking, checkpoints, corpora, exporting, indexing, planning, searching, serve, versions
from umt_pipeline.commands import tables as cli_tables
from umt_pipeline.commands.terminal import Environment, project_folder
from umt_pipeline.core.errors import UmtError

app = typer.Typer(
    name="umt",
    help="Training of video foundation models after Unmasked Teacher. Pipelines run by `dvc repro` or `kedro run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_tables.app, name="tables")
for part in (corpora, versions, planning, indexing, searching, asking, serve, exporting, checkpoints):
    app.add_typer(part.app)

# Errors whose message says all that a user needs. Anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (UmtError, DatasetError, ParameterValidationError)


class UserError(click.ClickException):
    """A message for the terminal, and exit status 1."""

    def show(self, file: Any = None) -> None:
        """Print the message to standard error."""
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"\nError: {self.message}", style="red", markup=False)


def _with_short_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except _USER_ERRORS as error:
            if os.environ.get("UMT_TRACEBACK"):
                raise
            raise UserError(f"{error}\n(UMT_TRACEBACK=1 shows where it was raised.)") from error

    return wrapped


# Kedro takes `cli` and `run` of this module in place of its own (its documentation: "add or modify CLI commands").
run = copy.copy(kedro_run)
assert kedro_run.callback is not None
run.callback = _with_short_errors(kedro_run.callback)
cli = click.Group("umt_pipeline", commands={"run": run})


@app.command()
def summary(
    env: Environment = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every number that was measured and what each training took, not the headlines alone.")
    ] = False,
) -> None:
    """Print the headline numbers of the last evaluation and tasks, where the pages are, and how to open MLflow."""
    from umt_pipeline.commands.summary import print_summary

    # Without a terminal rich assumes 80 columns, too few for the names of the metrics.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    print_summary(console, project_folder(), env, everything)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Records of one run: data/07_model_output/*_records.json.")],
    second: Annotated[Path, typer.Argument(help="Records of the other run.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if the protocols differ.")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Points that numbers may differ by between kinds of machines, unmarked; 6.5 if not given."),
    ] = None,
) -> None:
    """Print the numbers of two evaluations side by side, and warn where they were not measured in the same way."""
    from umt_pipeline.commands.compare import TOLERANCE, print_comparison

    console = Console() if sys.stdout.isatty() else Console(width=160)
    if not print_comparison(console, first, second, TOLERANCE if tolerance is None else tolerance) and strict:
        raise typer.Exit(1)


@app.command()
def experiments(
    corpus: Annotated[str | None, typer.Argument(help="The corpus: the name given to `umt init`. Without: the demo.")] = None,
) -> None:
    """Print the experiments of `dvc exp run` as a table: what was changed in each, and the headline numbers."""
    from umt_pipeline.commands.experiments import print_experiments
    from umt_pipeline.registry.names import own_corpus

    console = Console() if sys.stdout.isatty() else Console(width=160)
    print_experiments(console, project_folder(), own_corpus(corpus))


@app.command()
def recipes() -> None:
    """Write docs/recipes.md: the published recipes with their data, costs, differences and scores."""
    from umt_pipeline.commands.recipes import write_page

    Console().print(str(write_page(project_folder())), soft_wrap=True, highlight=False)


@app.command()
def doctor() -> None:
    """Print versions, devices and paths: what a report of a problem should contain."""
    import torch

    console = Console(soft_wrap=True, highlight=False)
    packages = "umt_pipeline", "torch", "torchvision", "kedro", "dvc", "mlflow", "pandera", "open_clip_torch", "decord2"
    console.print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    console.print(", ".join(f"{package} {version(package)}" for package in packages))
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    console.print(f"CUDA devices: {', '.join(devices) or 'none'}")
    console.print(f"project: {project_folder()}")
    console.print(f"MLflow: {os.environ.get('MLFLOW_TRACKING_URI') or 'sqlite:///mlflow.db (in the project folder)'}")


def main() -> None:
    """Run `umt`; errors that a user can act on end in one message."""
    try:
        app()
    except _USER_ERRORS as error:
        UserError(str(error)).show()
        sys.exit(1)


if __name__ == "__main__":
    main()
