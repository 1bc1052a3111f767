"""The downstream tasks, a folder each: parameters, model, training, testing, page; ``task`` puts them together."""

from __future__ import annotations

from pathlib import Path


def task_names() -> list[str]:
    """Return the names of the tasks, in alphabetical order, without importing any: the folders that hold a ``task.py``."""
    return sorted(file.parent.name for folder in __path__ for file in Path(folder).glob("*/task.py"))
