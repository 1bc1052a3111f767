"""`umt register`: finished models become versions in MLflow's registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from umt_pipeline.registry.names import CHALLENGER
from umt_pipeline.registry.register import planned, register


def registered_lines(project: Path, name: str | None, kinds: Sequence[str] | None, dry_run: bool) -> list[str]:
    """Register, or with ``dry_run`` only look, and return what to print; see :mod:`umt_pipeline.registry.register`."""
    done = (planned if dry_run else register)(project, name, kinds)
    if not done:
        return ["nothing to register: no model has been trained and judged. Run `dvc repro`"]
    lines = []
    for item in done:
        if item.version is None:
            lines.append(f"{item.name}: a new version would be registered")
        else:
            word = "registered" if item.fresh else "there already" if dry_run else "was there already"
            lines.append(f"{item.name} version {item.version}: {word}, {'would be ' if dry_run else ''}{CHALLENGER}")
    return lines
