"""Code of the package, put together into one file that runs without it.

The file holds the definitions of the package that some classes need, at any depth, word for word and nothing else: it is made
anew from the modules for each export, so it cannot say anything that they do not. Methods that nothing in the file mentions are
left out, and with them what only they would have needed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from umt_pipeline.core.identity import PACKAGE, module_file

# Methods that others call by these decorators or names, which no code of the file mentions.
_HOOKS = frozenset({"model_validator", "field_validator"})
_CALLED_BY_LIBRARIES = frozenset({"forward", "_init_weights"})
_FUTURE = "from __future__ import annotations"


@dataclass(frozen=True)
class _Import:
    """``from module import name as alias``, or, without a name, ``import module as alias``."""

    module: str
    name: str | None
    alias: str | None

    @property
    def of_package(self) -> bool:
        return self.module.partition(".")[0] == PACKAGE


@dataclass(frozen=True)
class _Definition:
    """A class, function or constant at the top of a module."""

    module: str
    name: str


class _Module:
    """One file of the package."""

    def __init__(self, file: Path) -> None:
        self.file = file
        text = file.read_text(encoding="utf-8")
        self.lines, self.tree = text.splitlines(), ast.parse(text)
        self.statements: dict[str, ast.stmt] = {}
        self.imports: dict[str, _Import] = {}
        for statement in self.tree.body:
            for name in _defined(statement):
                self.statements[name] = statement
            for node in ast.walk(statement) if isinstance(statement, ast.If) else [statement]:
                self.imports |= dict(_imported(node))

    def source(self, statement: ast.stmt, dead: Iterable[ast.stmt] = ()) -> list[str]:
        """Return the lines of a statement, with the comment right above it, without those of ``dead`` parts of it."""
        left_out = {number for part in dead for number in range(*self._extent(part))}
        kept = [self.lines[number] for number in range(*self._extent(statement)) if number not in left_out]
        return _single_blanks(kept)

    def _extent(self, statement: ast.stmt) -> tuple[int, int]:
        first = min([statement.lineno, *(item.lineno for item in getattr(statement, "decorator_list", ()))]) - 1
        while first and self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        assert statement.end_lineno is not None, "every parsed statement has an end"
        return first, statement.end_lineno


def bundle(module: str, roots: Sequence[str], title: str) -> str:
    """Return the text of a Python file that holds some classes of the package and all of it that they need.

    Args:
        module: in the package, such as ``exchange.runtimes.hugging_face``.
        roots: classes of that module, taken whole.
        title: first line of the file's docstring.

    Raises:
        ValueError: the code uses the package in a way that cannot be taken apart: a module as a whole, a definition under
            another name or imported within a function, two definitions of one name.
    """
    wanted = {_Definition(f"{PACKAGE}.{module}", root) for root in roots}
    mentioned: set[str] = set()
    external: set[_Import] = set()
    while True:
        found, attributes = set(wanted), set(mentioned)
        for definition in wanted:
            names, used = _used(definition, definition.name in roots, mentioned)
            attributes |= used
            for name in names:
                target = _resolve(definition.module, name)
                if isinstance(target, _Import):
                    external.add(target)
                elif target is not None:
                    found.add(target)
        if (found, attributes) == (wanted, mentioned):
            break
        wanted, mentioned = found, attributes
    _require_different_names(wanted)
    lines = [f'"""{title}"""', "", _FUTURE, "", *_import_lines(external)]
    for name in _in_order(f"{PACKAGE}.{module}", {definition.module for definition in wanted}):
        lines += _section(name, {item.name for item in wanted if item.module == name}, roots, mentioned)
    return "\n".join(lines) + "\n"


@cache
def _module(name: str) -> _Module:
    file = module_file(name.removeprefix(f"{PACKAGE}."))
    if file is None:
        raise ValueError(f"there is no module {name}")
    return _Module(file)


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))


def _imported(node: ast.AST) -> Iterator[tuple[str, _Import]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], _Import(alias.name, None, alias.asname)
    elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
        for alias in node.names:
            yield alias.asname or alias.name, _Import(node.module, alias.name, alias.asname)


def _used(definition: _Definition, is_root: bool, mentioned: set[str]) -> tuple[set[str], set[str]]:
    """Return the names that a definition reads, and the attributes that it mentions."""
    module = _module(definition.module)
    statement = module.statements[definition.name]
    dead = set(_dead(statement, is_root, mentioned))
    parts: list[ast.AST] = [statement]
    if isinstance(statement, ast.ClassDef):
        parts = [*statement.decorator_list, *statement.bases, *statement.keywords]
        parts += [part for part in statement.body if part not in dead]
    names: set[str] = set()
    attributes: set[str] = set()
    for node in (node for part in parts for node in ast.walk(part)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif any(found.of_package for _, found in _imported(node)):
            raise ValueError(f"{module.file}: {definition.name} imports {ast.unparse(node)} where it runs, not at the top")
    return names, attributes


def _dead(statement: ast.stmt, is_root: bool, mentioned: set[str]) -> Iterator[ast.stmt]:
    """Yield the methods of a class that nothing calls."""
    for part in statement.body if isinstance(statement, ast.ClassDef) and not is_root else ():
        if isinstance(part, ast.FunctionDef):
            decorators = {ast.unparse(item).partition("(")[0] for item in part.decorator_list}
            special = part.name.startswith("__") or part.name in _CALLED_BY_LIBRARIES or decorators & _HOOKS
            if not special and part.name not in mentioned:
                yield part


def _resolve(module: str, name: str) -> _Definition | _Import | None:
    """Return what a name means in a module; None: it is a local or built-in one."""
    own = _module(module)
    if name in own.statements:
        return _Definition(module, name)
    found = own.imports.get(name)
    if found is None or not found.of_package:
        return found
    if found.name is None or found.alias is not None or module_file(f"{found.module}.{found.name}".partition(".")[2]):
        raise ValueError(f"{own.file}: {name} is a module or another's other name; import what is needed of it by its own name")
    target = _resolve(found.module, found.name)
    if target is None:
        raise ValueError(f"{own.file}: {found.module} defines no {found.name}")
    return target


def _require_different_names(wanted: Iterable[_Definition]) -> None:
    seen: dict[str, str] = {}
    for definition in sorted(wanted, key=lambda item: (item.name, item.module)):
        if other := seen.get(definition.name):
            raise ValueError(f"{definition.name} is defined in {other} and in {definition.module}: one file cannot hold both")
        seen[definition.name] = definition.module


def _import_lines(external: set[_Import]) -> list[str]:
    plain: dict[bool, list[str]] = {True: [], False: []}
    names: dict[str, set[str]] = {}
    for item in external:
        alias = "" if item.alias is None else f" as {item.alias}"
        if item.name is None:
            plain[_is_standard(item.module)].append(f"import {item.module}{alias}")
        else:
            names.setdefault(item.module, set()).add(f"{item.name}{alias}")
    for module, listed in names.items():
        plain[_is_standard(module)].append(f"from {module} import {', '.join(sorted(listed))}")
    # `import x` before `from x import y`, as usual.
    groups = [sorted(plain[standard], key=lambda line: (line.startswith("from"), line)) for standard in (True, False)]
    return [*groups[0], *([""] if groups[0] else []), *groups[1]]


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _in_order(module: str, wanted: set[str]) -> list[str]:
    """Return the wanted modules, each after those that it imports."""
    order: dict[str, None] = {}
    begun: set[str] = set()

    def visit(name: str) -> None:
        if name not in begun:
            begun.add(name)
            for item in _module(name).imports.values():
                if item.module in wanted:
                    visit(item.module)
            order[name] = None

    for name in (module, *sorted(wanted)):
        visit(name)
    return list(order)


def _section(name: str, wanted: set[str], roots: Sequence[str], mentioned: set[str]) -> list[str]:
    module = _module(name)
    about = (ast.get_docstring(module.tree) or "").splitlines()
    lines = ["", "", f"# --- {name} ---", *(f"# {line}".rstrip() for line in about)]
    for statement in module.tree.body:
        if defined := wanted.intersection(_defined(statement)):
            dead = list(_dead(statement, bool(defined.intersection(roots)), mentioned))
            lines += ["", "", *module.source(statement, dead)]
    return lines


def _single_blanks(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if line.strip() or (kept and kept[-1].strip()):
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept
