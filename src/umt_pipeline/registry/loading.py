"""Versions of registered models as :func:`umt_pipeline.load` takes them: fetched once, their hashes compared each time."""

from __future__ import annotations

import re
from pathlib import Path

from kedro.utils import find_kedro_project

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.caches import cache_folder
from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import read_json, sha256_file, sha256_folder
from umt_pipeline.registry.names import FOLDER, KIND, SERVING, corpus_of_name
from umt_pipeline.registry.reading import FILES, Version, connect, fetch, numbered_version, version_at
from umt_pipeline.serving.loading import load_found
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.settings import SETTINGS
from umt_pipeline.serving.sources import Found, Options

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")


def load_registered(address: str, precision: AskedPrecision, options: Options) -> Model:
    """Load a version of a registered model, asked as in its test.

    Args:
        address: ``models:/NAME@ALIAS`` or ``models:/NAME/3``.
        precision: what it runs in.
        options: none: a version brings all that is needed.

    Raises:
        ConfigError: the address is no such one, or there are options.
        RegistryError: there is no such version, its files are gone or changed, or the registry cannot be asked.
        CheckpointError: it is no complete model.
    """
    if options:
        raise ConfigError(f"{address}: option {min(options)!r} means nothing for a registered version, which brings its own")
    found = find_registered(address)
    assert found.settings is not None, "a version has them"
    return load_found(found, found.settings, precision)


def find_registered(address: str) -> Found:
    """Find a version's files, fetched into a cache if they are not there.

    In a project its registry is asked; elsewhere the one that MLFLOW_TRACKING_URI names.

    Args:
        address: as for :func:`load_registered`.

    Returns:
        The files; ``facts`` has the version's name, number and tags.

    Raises:
        ConfigError: the address is no such one.
        RegistryError: see :func:`load_registered`.
    """
    return found_version(find_version(address), address)


def found_version(version: Version, address: str) -> Found:
    """Return a version's files, fetched into a cache if they are not there whole: if they are, no registry is asked.

    Args:
        version: with its tags.
        address: what it was asked for by.

    Raises:
        RegistryError: its files are gone or changed, or the registry cannot be asked.
    """
    folder = _files(version)
    serving = read_json(folder / FILES["serving"][0])
    facts = {"name": version.name, "version": version.version, **version.tags}
    return Found(serving["kind"], folder / FILES["model"][0], address, serving["settings"], facts)


def find_version(address: str) -> Version:
    """Return which version an address means now.

    Raises:
        ConfigError: the address is no such one.
        RegistryError: there is no such version, or the registry cannot be asked.
    """
    told = _ADDRESS.fullmatch(address)
    if told is None:
        raise ConfigError(f"{address}: expected models:/NAME@ALIAS, such as models:/demo_stage2@champion, or models:/NAME/3")
    name = told["name"]
    project = find_kedro_project(Path.cwd())
    if project is not None:
        corpus = corpus_of_name(name, SETTINGS)
        connect(Path(project), corpus if corpus and (Path(project) / "conf" / corpus).is_dir() else None)
    version = version_at(name, told["alias"]) if told["alias"] else numbered_version(name, told["number"])
    if version is None:
        raise RegistryError(f"{address}: there is no such version. `umt register` makes versions, `umt promote` a champion")
    if missing := [tag for tag in (KIND, FOLDER, SERVING) if tag not in version.tags]:
        raise RegistryError(f"{address}: expected a version that `umt register` made; it has no tag {missing[0]}")
    return version


def _files(version: Version) -> Path:
    """Return a folder with a version's model and how it is asked, as they were registered."""
    folder = cache_folder("registered") / f"{version.tags[FOLDER][:32]}-{version.tags[SERVING][:8]}"
    model, serving = (folder / FILES[what][0] for what in ("model", "serving"))
    if not model.is_dir() or sha256_folder(model) != version.tags[FOLDER]:
        fetch(version, "model", folder)
    if not serving.is_file() or sha256_file(serving) != version.tags[SERVING]:
        fetch(version, "serving", folder)
    return folder
