"""`umt embed`, `umt index`: the vectors of a folder of videos, and an index of them."""

from __future__ import annotations

import typer

app = typer.Typer()
