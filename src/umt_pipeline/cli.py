"""Where Kedro looks for a project's commands; they are in :mod:`umt_pipeline.commands.main`."""

from umt_pipeline.commands.main import cli, run

__all__ = ["cli", "run"]
