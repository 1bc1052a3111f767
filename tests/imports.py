"""Which modules of the package import which, read from the source: imports inside functions count."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = "umt_pipeline"
SOURCE = Path(__file__).resolve().parents[1] / "src"


def module_name(file: Path) -> str:
    """``src/umt_pipeline/models/vit.py`` → ``umt_pipeline.models.vit``."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_file(name: str) -> Path | None:
    """Return the file of one of our modules, ``None`` if there is no such module."""
    path = SOURCE.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def imported_names(file: Path) -> frozenset[str]:
    """Return the absolute names that a file imports; ``from a import b`` gives ``a`` and ``a.b``.

    A training task is imported by its name, as in ``"umt_pipeline.training.stage1:make_task"``: that counts too.
    """
    names: set[str] = set()
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            reference = re.fullmatch(rf"({PACKAGE}(?:\.\w+)+):\w+", node.value)
            names.update([reference[1]] if reference else [])
    return frozenset(names)


def closure(files: list[Path]) -> set[Path]:
    """Return the files of the package that ``files`` need, at any depth, and themselves."""
    seen: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in imported_names(file):
            target = module_file(name) if name.split(".")[0] == PACKAGE else None
            if target is not None:
                waiting.append(target)
    return seen
