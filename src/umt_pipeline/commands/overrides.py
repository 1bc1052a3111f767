"""Parameters that are changed from the command line: one value of a file, and not a byte beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import staged_file


@dataclass(frozen=True)
class Override:
    """``FILE:key.inner=value``, as `dvc exp run -S` takes it.

    Attributes:
        file: relative to the project.
        keys: from the outermost one.
        value: YAML of one line.
    """

    file: str
    keys: tuple[str, ...]
    value: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read one.

        Raises:
            ConfigError: it is none.
        """
        place, equals, value = text.partition("=")
        file, colon, key = place.partition(":")
        keys = tuple(key.split("."))
        if not (equals and colon and file and all(keys) and value.strip()) or "\n" in value:
            raise ConfigError(f"--set {text}: expected FILE:key.inner=value, such as {_EXAMPLE}.")
        try:
            yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {text}: expected a YAML value behind the =, found: {error}") from error
        return cls(file, keys, value.strip())


_EXAMPLE = "conf/base/parameters_stage1.yml:stage1.train.lr=1e-3"


def apply_overrides(project: Path, overrides: Sequence[Override]) -> list[str]:
    """Write values into parameter files; return what changed. Those that stand there already change nothing.

    All are read before one file is written.

    Raises:
        ConfigError: a file or a key is not there, or a key holds more than one value.
    """
    texts: dict[Path, str] = {}
    told = []
    for override in overrides:
        path = project / override.file
        if path not in texts:
            if not path.is_file() or not path.resolve().is_relative_to((project / "conf").resolve()):
                raise ConfigError(
                    f"--set {override.file}: expected a parameter file in {project / 'conf'}, found none. {_EXAMPLE}"
                )
            texts[path] = path.read_text(encoding="utf-8")
        texts[path], before = _replaced(texts[path], override)
        if before != override.value:
            told.append(f"{override.file}: {'.'.join(override.keys)}: {before} became {override.value}")
    for path, text in texts.items():
        if text != path.read_text(encoding="utf-8"):
            with staged_file(path) as staged:
                staged.write_text(text, encoding="utf-8")
    return told


def _replaced(text: str, override: Override) -> tuple[str, str]:
    """Return a file's text with another value at a key, and the text of the old value."""
    place = f"{override.file}:{'.'.join(override.keys)}"
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in override.keys:
        inner = {name.value: value for name, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        if key not in inner:
            raise ConfigError(f"--set {place}: expected one of {', '.join(inner) or 'no keys at all'}; found '{key}'.")
        node = inner[key]
    if isinstance(node, yaml.MappingNode) or "\n" in text[node.start_mark.index : node.end_mark.index].rstrip():
        raise ConfigError(f"--set {place}: expected a key with a value of one line, found several. Edit the file.")
    start, end = node.start_mark.index, node.end_mark.index
    before = text[start:end].rstrip()
    changed = f"{text[:start]}{override.value if before else f' {override.value}'}{text[start + len(before) :]}"
    try:
        loaded: Any = yaml.safe_load(changed)
        for key in override.keys:
            loaded = loaded[key]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"--set {place}={override.value}: expected a value that fits in its place, found: {error}") from error
    if loaded != yaml.safe_load(override.value):
        raise ConfigError(f"--set {place}={override.value}: expected a value that fits in its place; put it in quotes.")
    return changed, before
