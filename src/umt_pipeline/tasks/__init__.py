"""The downstream tasks, a folder each: parameters, model, training, testing, page; ``task`` puts them together."""

from __future__ import annotations

import pkgutil


def task_names() -> list[str]:
    """Return the names of the tasks, in alphabetical order, without importing any."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
