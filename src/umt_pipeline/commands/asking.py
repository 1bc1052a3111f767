"""`umt describe`, `umt classify`, `umt ask`: what a model is, and what it says of videos."""

from __future__ import annotations

import typer

app = typer.Typer()
