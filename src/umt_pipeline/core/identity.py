"""What a piece of work is known by: fingerprints of values, and the code key of the source files that can change its result.

A code key hashes the import closure of a piece of work: the module that does it and every module of the package that this
one imports, at any depth. Docstrings, comments and formatting are left out, and so is what only messages, progress or speed
depend on (:data:`WITHOUT_EFFECT`). Two runs with the same key therefore compute the same, and one with another key is never
taken for the other.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from umt_pipeline.core.errors import ConfigError

PACKAGE = __name__.partition(".")[0]
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]

# Modules (or whole rooms) that a result cannot depend on: messages, files written whole, progress, starting of processes,
# speed, pages. Their own imports are not followed.
WITHOUT_EFFECT = frozenset(
    {
        "core",
        "reports",
        "models.card",
        "models.flops",
        "models.flops_stage2",
        "training.launch",
        "training.metrics",
        "training.peak",
    }
)


def fingerprint(*values: Any) -> str:
    """Return 16 hex digits that change when any of the JSON-able ``values`` changes."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def code_key(*modules: str) -> str:
    """Return 16 hex digits that change when code that ``modules`` depend on changes what it does.

    Args:
        modules: names within the package, such as ``training.stage1``; a room stands for all its modules.

    Raises:
        ConfigError: there is no such module.
    """
    return fingerprint({str(file.relative_to(PACKAGE_FOLDER)): _meaning(file) for file in sorted(closure(modules))})


def closure(modules: Iterable[str]) -> frozenset[Path]:
    """Return the files of the package whose code ``modules`` depend on, themselves included.

    Raises:
        ConfigError: there is no such module.
    """
    waiting = [file for module in modules for file in _files(module)]
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in imported_modules(file):
            target = module_file(name)
            if target is not None and not _without_effect(target):
                waiting.append(target)
    return frozenset(seen)


def module_file(name: str) -> Path | None:
    """Return the file of a module, by its name within the package, or None if there is no such module."""
    path = PACKAGE_FOLDER.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Return the names, within the package, that a file imports, inside functions too.

    ``from umt_pipeline.a import b`` gives ``a`` and ``a.b``, whether ``b`` is a module or not.
    """
    names: set[str] = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def _files(module: str) -> list[Path]:
    folder = PACKAGE_FOLDER.joinpath(*module.split("."))
    if folder.is_dir():
        return sorted(folder.rglob("*.py"))
    file = module_file(module)
    if file is None:
        raise ConfigError(f"code key: there is no module {PACKAGE}.{module}; expected the name of one within the package")
    return [file]


def _without_effect(file: Path) -> bool:
    name = ".".join(file.relative_to(PACKAGE_FOLDER).with_suffix("").parts)
    return any(name == entry or name.startswith(f"{entry}.") for entry in WITHOUT_EFFECT)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _meaning(file: Path) -> str:
    """Return a hash of the file's syntax tree without docstrings; comments and formatting are not in the tree."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode("utf-8")).hexdigest()
