"""`umt serve`: the search page."""

from __future__ import annotations

import typer

app = typer.Typer()
