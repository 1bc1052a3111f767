"""What a piece of work is known by: fingerprints of values, the code key of what can change its result, and identities.

A code key hashes the import closure of a piece of work: the module that does it and every module of the package that this
one imports, at any depth. Docstrings, comments, formatting and log messages are left out, and so are modules that only
messages, progress or speed depend on (:data:`WITHOUT_EFFECT`). The fields of settings that have a default are left out too:
their values are part of an identity by themselves.

An :class:`Identity` is a document, not only a hash, so that a new setting restarts nothing: of a setting that only one of two
identities knows, it is enough that it stands at its default there.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, write_json

PACKAGE = __name__.partition(".")[0]
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
IDENTITY_FILE = "identity.json"

# Modules (or whole rooms) that a result cannot depend on: messages, files written whole, pages, progress, starting of
# processes, speed. Their own imports are not followed.
WITHOUT_EFFECT = frozenset(
    {
        "compute.gain",
        "compute.peak",
        "core",
        "reports",
        "tasks.*.page",
        "models.card",
        "models.flops",
        "models.flops_stage2",
        "training.launch",
        "training.metrics",
        "training.peers",
        "training.stopping",
        "training.torchrun",
        "video.guarded",
        "video.probe_cache",
    }
)
# The class that all settings derive from (core.config), by name: a file is read, not imported.
SETTINGS_BASE = "Config"


class Operational:
    """Marks a setting that no result depends on: ``workers: Annotated[int, OPERATIONAL] = 0``. It is in no identity."""


OPERATIONAL = Operational()


def fingerprint(*values: Any) -> str:
    """Return 16 hex digits that change when any of the JSON-able ``values`` changes."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


# --- code -------------------------------------------------------------------------------------------------------------
def code_key(*sources: str | Path) -> str:
    """Return 16 hex digits that change when code that ``sources`` depend on changes what it does.

    Args:
        sources: modules by their names within the package, such as ``training.stage1`` (a room stands for all its modules),
            or files, which may lie outside the package.

    Raises:
        ConfigError: there is no such module.
    """
    return fingerprint(code_parts(*sources))


def code_parts(*sources: str | Path) -> dict[str, str]:
    """Return what :func:`code_key` is made of: a hash for each file, to say which one differs."""
    return {_name(file): _meaning(file, settings_classes()) for file in closure(sources)}


def closure(sources: Iterable[str | Path]) -> frozenset[Path]:
    """Return the files whose code ``sources`` depend on, themselves included.

    Raises:
        ConfigError: there is no such module.
    """
    waiting = [file for source in sources for file in ([source] if isinstance(source, Path) else _files(source))]
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


@cache
def settings_classes() -> frozenset[str]:
    """Return the names of the package's settings: the classes that derive, at any depth, from ``core.config.Config``."""
    texts = {file: file.read_text(encoding="utf-8") for file in PACKAGE_FOLDER.rglob("*.py")}
    known, new = {SETTINGS_BASE}, {SETTINGS_BASE}
    while new:
        # Most files define none: only those are parsed in whose text a class seems to derive from what is known by now.
        derives = re.compile(rf"^\s*class\s+\w+[^:]*\b(?:{'|'.join(new)})\b", re.MULTILINE)
        classes = [
            node
            for file, text in texts.items()
            if derives.search(text)
            for node in ast.walk(_tree(file))
            if isinstance(node, ast.ClassDef)
        ]
        new = {node.name for node in classes if known & {ast.unparse(base).rpartition(".")[2] for base in node.bases}} - known
        known |= new
    return frozenset(known)


def _files(module: str) -> list[Path]:
    folder = PACKAGE_FOLDER.joinpath(*module.split("."))
    if folder.is_dir():
        return sorted(folder.rglob("*.py"))
    file = module_file(module)
    if file is None:
        raise ConfigError(f"code key: there is no module {PACKAGE}.{module}; expected the name of one within the package")
    return [file]


def _name(file: Path) -> str:
    return file.relative_to(PACKAGE_FOLDER).as_posix() if file.is_relative_to(PACKAGE_FOLDER) else file.name


def _without_effect(file: Path) -> bool:
    name = _name(file).removesuffix(".py").replace("/", ".")
    return any(fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*") for entry in WITHOUT_EFFECT)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _meaning(file: Path, settings: frozenset[str]) -> str:
    """Return a hash of what a file's code does; see :class:`_Meaning`."""
    tree = _Meaning(settings).visit(ast.parse(file.read_text(encoding="utf-8")))
    for node in ast.walk(tree):
        if getattr(node, "body", None) == []:
            setattr(node, "body", [ast.Pass()])  # noqa: B010  # not every node has one
    # As text and not as a dump of the tree, which looks different in each version of Python.
    return hashlib.sha256(ast.unparse(ast.fix_missing_locations(tree)).encode("utf-8")).hexdigest()


class _Meaning(ast.NodeTransformer):
    """Takes out of code what no result depends on: docstrings, log messages, the fields of settings that have a default.

    Comments and formatting are not in the tree. F-strings are made calls, because versions of Python quote them differently.
    """

    def __init__(self, settings: frozenset[str]) -> None:
        self._settings = settings

    def _visit_block(self, node: Any) -> Any:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)

    visit_Module = visit_FunctionDef = visit_AsyncFunctionDef = _visit_block

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        if node.name in self._settings:
            node.body = [entry for entry in node.body if not (isinstance(entry, ast.AnnAssign) and _has_default(entry))]
        return self._visit_block(node)

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith("logger."):
            return None
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        self.generic_visit(node)
        return ast.Call(ast.Name("f"), node.values, [])

    def visit_FormattedValue(self, node: ast.FormattedValue) -> Any:
        self.generic_visit(node)
        return ast.Tuple([node.value, ast.Constant(node.conversion), *filter(None, [node.format_spec])], ast.Load())


def _has_default(field: ast.AnnAssign) -> bool:
    """Whether ``field`` is one of settings and has a default.

    ``Field(ge=1)``, with no positional argument and no default, is none. Constants of the class are no fields.
    """
    value = field.value
    if "ClassVar" in ast.unparse(field.annotation) or ast.unparse(field.target).startswith("_"):
        return False
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "Field"):
        return value is not None
    given = [ast.unparse(argument) for argument in value.args[:1]]
    given += [ast.unparse(word.value) for word in value.keywords if word.arg in ("default", "default_factory")]
    return bool(given) and given[0] != "..."


# --- settings ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Setting:
    """A value as JSON, and whether it is the default."""

    value: Any
    default: bool


def settings_of(config: BaseModel) -> dict[str, Setting]:
    """Return the settings of a configuration that a result depends on, by their paths, such as ``student.depth``.

    Left out are operational ones (:data:`OPERATIONAL`) and paths of files: what a path leads to counts, not where it lies.
    """
    return dict(_fields(config, "", False))


def _fields(config: BaseModel, prefix: str, inherited: bool) -> Iterator[tuple[str, Setting]]:
    for name, field in type(config).model_fields.items():
        if OPERATIONAL in field.metadata:
            continue
        value = getattr(config, name)
        default = inherited or (not field.is_required() and value == field.get_default(call_default_factory=True))
        yield from _setting(f"{prefix}{name}", value, default)


def _setting(path: str, value: Any, default: bool) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Path):
        return
    if isinstance(value, BaseModel):
        yield path, Setting("settings", default)
        yield from _fields(value, f"{path}.", default)
    elif isinstance(value, Mapping):
        yield path, Setting(sorted(map(str, value)), default)
        for key, item in value.items():
            yield from _setting(f"{path}.{key}", item, default)
    elif isinstance(value, tuple | list) and any(isinstance(item, BaseModel | Path) for item in value):
        yield path, Setting(len(value), default)
        for index, item in enumerate(value):
            yield from _setting(f"{path}.{index}", item, default)
    else:
        yield path, Setting(json.loads(json.dumps(value, default=str)), default)


# --- identities -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Identity:
    """What a result depends on.

    Attributes:
        settings: by path, from :func:`settings_of`.
        inputs: hashes of the contents that are read, by name.
        code: the code key.
    """

    settings: Mapping[str, Setting]
    inputs: Mapping[str, str]
    code: str

    @property
    def key(self) -> str:
        """16 hex digits: where a result of this identity is kept if none that agrees is there."""
        return fingerprint({path: setting.value for path, setting in self.settings.items()}, dict(self.inputs), self.code)

    def agrees_with(self, other: Identity) -> bool:
        """Whether the same result comes out: everything is equal but settings that only one knows, at their defaults."""
        if (dict(self.inputs), self.code) != (dict(other.inputs), other.code):
            return False
        for path in self.settings.keys() | other.settings.keys():
            own, its = self.settings.get(path), other.settings.get(path)
            if own is not None and its is not None:
                if own.value != its.value:
                    return False
            elif not (own or its or Setting(None, False)).default:
                return False
        return True

    def differences(self, other: Identity) -> list[str]:
        """Return what differs from ``other``, for people: settings, inputs, code."""
        paths = sorted(self.settings.keys() & other.settings.keys())
        found = [
            f"{path}: {other.settings[path].value!r} became {self.settings[path].value!r}"
            for path in paths
            if self.settings[path].value != other.settings[path].value
        ]
        names = sorted(self.inputs.keys() | other.inputs.keys())
        found += [f"{name} has other content" for name in names if self.inputs.get(name) != other.inputs.get(name)]
        return found + ([] if self.code == other.code else ["the code that it depends on changed"])

    def as_json(self) -> dict[str, Any]:
        """Return the document."""
        settings = {path: [setting.value, setting.default] for path, setting in self.settings.items()}
        return {"key": self.key, "settings": settings, "inputs": dict(self.inputs), "code": self.code}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Identity:
        """Read a document of :meth:`as_json`."""
        settings = {path: Setting(value, default) for path, (value, default) in document["settings"].items()}
        return cls(settings, document["inputs"], document["code"])


def work_folder(parent: Path, identity: Identity) -> Path:
    """Return the folder of work of this identity: one that is there and agrees, else a new one with the identity in it.

    Args:
        parent: holds a folder for each identity.
        identity: of the work.
    """
    exact = parent / identity.key
    for file in [exact / IDENTITY_FILE, *sorted(parent.glob(f"*/{IDENTITY_FILE}"))]:
        if file.is_file() and identity.agrees_with(Identity.from_json(read_json(file))):
            return file.parent
    write_json(exact / IDENTITY_FILE, identity.as_json())
    return exact
