"""`umt search`, `umt similar`: places in videos that fit a sentence, or look like a clip."""

from __future__ import annotations

import typer

app = typer.Typer()
