"""`umt export`: models for other runtimes."""

from __future__ import annotations

import typer

app = typer.Typer()
