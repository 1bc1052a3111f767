"""Files and folders that are whole or not there: staged writing, hashes, fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from umt_pipeline.core.errors import ConfigError


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(_staged_name(path))
    try:
        yield staged
        with staged.open("rb") as handle:
            os.fsync(handle.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _staged_name(path: Path) -> str:
    # Processes of several machines may write into one folder, and their numbers may be equal.
    return f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; put it in ``path``'s place if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(_staged_name(path))
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield staged
        move_folder(staged, path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def move_folder(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, replacing a folder that is there.

    A folder cannot be replaced in one system call, so the old one is renamed away first: at no moment does ``target``
    hold a mixture of both.
    """
    if source.resolve() == target.resolve():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    shutil.move(str(source), str(target))
    shutil.rmtree(old, ignore_errors=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name: a hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def linked_copy(source: Path, target: Path) -> None:
    """Fill an empty folder with the files of ``source``; see :func:`link_or_copy`."""
    shutil.copytree(source, target, copy_function=link_or_copy, dirs_exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    with staged_file(path) as staged:
        staged.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_text_list(path: Path, parameter: str) -> tuple[str, ...]:
    """Read a JSON list of texts.

    Args:
        path: the file.
        parameter: that names it, for messages.

    Raises:
        ConfigError: the file is missing, no JSON, or no list of texts, of which none is blank.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{parameter}: expected a JSON list of texts, found: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise ConfigError(f"{parameter}: expected a JSON list of texts in {path}, found other things")
    return tuple(found)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as a hex string."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_folder(folder: Path, pattern: str = "*") -> str:
    """Return a SHA-256 of the names and bytes of all files in a folder, at any depth, whose names fit the pattern."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob(pattern) if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()
