"""The md5 of everything that a stage depends on: of `dvc.lock` where it has it, else as DVC would find it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from umt_pipeline.core.identity import fingerprint
from umt_pipeline.tracking.target import DEMO

# What of a run's files joins runs: the one that made a file and those that read it have an equal tag.
MD5_TAG = "dvc.md5"
_CODE = "src/"
_MODELS = "/06_models/"
# As in .dvcignore, of which a folder of code holds no more.
_NO_CODE = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
_MAX_TAG_NAME = 250


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C it is ten times as fast
    """Reads numbers as DVC and Kedro do, for which 1e-05 is one."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Stages:
    """A `dvc.yaml` and its lock.

    Attributes:
        project: folder that the paths in them are relative to.
        file: the `dvc.yaml`.
        under_dvc: DVC runs the stages, so that the lock knows what those before made as it is. Else it may be older.
    """

    project: Path
    file: Path
    under_dvc: bool = False

    @classmethod
    def of(cls, project: Path, corpus: str, under_dvc: bool = False) -> Stages:
        """Return the stages of a corpus."""
        folder = project if corpus == DEMO else project / "corpora" / corpus
        return cls(project, folder / "dvc.yaml", under_dvc)

    @cached_property
    def declared(self) -> Mapping[str, Any]:
        """The stages of `dvc.yaml`, by name; empty without one."""
        return self._stages(self.file)

    @cached_property
    def locked(self) -> Mapping[str, Any]:
        """The stages of `dvc.lock`, by name; empty without one."""
        return self._stages(self.file.with_suffix(".lock"))

    @cached_property
    def made(self) -> Mapping[str, str]:
        """The md5 of what stages made, by path."""
        return {path: md5 for stage in self.locked.values() for path, md5 in _md5s(stage.get("outs", ()))}

    def address(self, stage: str) -> str:
        """Return what DVC calls a stage, from the project's folder."""
        return stage if self.file.parent == self.project else f"{self.file.relative_to(self.project).as_posix()}:{stage}"

    def dependencies(self, stage: str) -> dict[str, str]:
        """Return what a stage that is about to run depends on: md5 by path, without parameters.

        A folder has no entry that is neither known to DVC as it is now, nor code, nor a model: it may be large.
        """
        paths = self.declared[stage].get("deps", ()) if stage in self.declared else ()
        found = {path: self.md5_of(path) for path in paths}
        return {path: md5 for path, md5 in found.items() if md5 is not None}

    def locked_dependencies(self, stage: str) -> dict[str, str]:
        """Return what a finished stage depended on: md5 by path."""
        return dict(_md5s(self.locked.get(stage, {}).get("deps", ())))

    def locked_params(self, stage: str) -> dict[str, Any]:
        """Return the parameters of a finished stage: blocks by name."""
        files = self.locked.get(stage, {}).get("params", {}).values()
        return {name: block for blocks in files for name, block in blocks.items()}

    def is_locked(self, stage: str, files: Iterable[str]) -> bool:
        """Whether the lock knows these files, which a stage made, as they are.

        Args:
            stage: name.
            files: paths.
        """
        made = dict(_md5s(self.locked.get(stage, {}).get("outs", ())))
        return all(made.get(path) == dvc_md5(self.project / path) for path in files)

    def join(self) -> str | None:
        """Return what the runs of one reproduction have in common: a hash of what the stages start from, as it is now.

        That is what they depend on and none of them makes: code, raw data, parameters. None without stages.
        """
        if not self.declared:
            return None
        stages, kinds = self.declared.values(), ("outs", "metrics", "plots")
        outs = {_path(out) for stage in stages for kind in kinds for out in stage.get(kind, ())}
        sources = {path for stage in stages for path in stage.get("deps", ())} - outs
        params = {
            f"{file}:{key}": value
            for stage in stages
            for entry in stage.get("params", ())
            if isinstance(entry, dict)
            for file, keys in entry.items()
            for key, value in self._params(file, keys)
        }
        return fingerprint({path: self.md5_of(path) for path in sorted(sources)}, params)

    def locked_join(self) -> str | None:
        """Return the same of the lock: what the finished stages started from. None without a lock."""
        if not self.locked:
            return None
        stages = self.locked.values()
        deps = {path: md5 for stage in stages for path, md5 in _md5s(stage.get("deps", ())) if path not in self.made}
        params = {
            f"{file}:{key}": value
            for stage in stages
            for file, block in stage.get("params", {}).items()
            for key, value in block.items()
        }
        return fingerprint(dict(sorted(deps.items())), params)

    def md5_of(self, path: str) -> str | None:
        """Return the md5 of something that a stage depends on, as it is now; None: see :meth:`dependencies`."""
        if self.under_dvc and path in self.made:
            return self.made[path]
        place = self.project / path
        kept = place.with_name(f"{place.name}.dvc")
        if kept.is_file():
            (found,) = _read(kept)["outs"]
            return str(found["md5"]) if "md5" in found else None
        is_small = path.startswith(_CODE) or _MODELS in path
        return dvc_md5(place) if place.is_file() or (is_small and place.is_dir()) else None

    def _params(self, file: str, keys: list[str]) -> Iterator[tuple[str, Any]]:
        place = self.project / file
        values = _read(place) if place.is_file() else {}
        for key in keys:
            value: Any = values
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            yield key, value

    @staticmethod
    def _stages(file: Path) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (_read(file) or {}).get("stages", {}) if file.is_file() else {}
        return found


def joining_tags(md5s: Mapping[str, str]) -> dict[str, str]:
    """Return tags of data and models, by which runs are found that made or read them; code has none."""
    named = {f"{MD5_TAG}.{path}": md5 for path, md5 in md5s.items() if not path.startswith(_CODE)}
    return {name: md5 for name, md5 in named.items() if len(name) <= _MAX_TAG_NAME and re.fullmatch(r"[\w.\-/ ]+", name)}


def dvc_md5(path: Path) -> str:
    """Return what DVC calls the md5 of a file, or of a folder of code or of a model: 32 hex digits, of a folder with ``.dir``.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_file():
        return _file_md5(path)
    files = [file for file in path.rglob("*") if file.is_file() and not _is_ignored(file.relative_to(path))]
    entries = [{"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _is_ignored(file: Path) -> bool:
    return file.suffix in (".pyc", ".pyo", ".pyd") or any(part in _NO_CODE for part in file.parts)


def _file_md5(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5s(entries: Any) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if "md5" in entry:
            yield str(entry["path"]), str(entry["md5"])


def _path(entry: Any) -> str:
    return str(next(iter(entry)) if isinstance(entry, dict) else entry)


def _read(file: Path) -> Any:
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
