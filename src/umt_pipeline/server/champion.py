"""The champion of the registry: which version it is, and its files, kept for the time when the registry cannot be asked."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from umt_pipeline.core.errors import RegistryError
from umt_pipeline.core.files import read_json, sha256_folder, write_json
from umt_pipeline.registry.names import CHAMPION, FOLDER, registered_name
from umt_pipeline.registry.reading import Version, connect, fetch, version_at

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_LAST_FILE = "champion.json"


@dataclass(frozen=True)
class Fetched:
    """A version whose model folder is here.

    Attributes:
        name: of the registered model.
        version: its number.
        folder: of the model.
    """

    name: str
    version: str
    folder: Path

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.name} version {self.version}"


class Champion:
    """The version of a corpus' model that has the alias ``champion``.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model.
        folder: where its files are kept; the last one stays.
    """

    def __init__(self, project: Path, corpus: str | None, kind: str, folder: Path) -> None:
        self._project, self._corpus, self._kind = project, corpus, kind
        self._name, self._folder = registered_name(corpus, kind), folder

    def look(self) -> Version | None:
        """Return the version; None: there is none.

        Raises:
            RegistryError: the registry cannot be asked.
        """
        target = connect(self._project, self._corpus)
        # MLflow would make the database, which takes seconds, to say that it is empty.
        if target.uri.startswith(_SQLITE) and not Path(target.uri.removeprefix(_SQLITE)).exists():
            return None
        return version_at(self._name, CHAMPION)

    def fetched(self, version: Version) -> Fetched:
        """Return a version with its files, which are fetched if they are not here already.

        Raises:
            RegistryError: they cannot be had, or are not what was registered.
        """
        folder = self._folder / version.version
        model = folder / "model"
        if not model.is_dir() or sha256_folder(model) != version.tags.get(FOLDER):
            model = fetch(version, "model", folder)
        write_json(self._folder / _LAST_FILE, {"version": version.version, "sha256": version.tags.get(FOLDER)})
        return Fetched(version.name, version.version, model)

    def last(self) -> Fetched | None:
        """Return the version that was fetched last, if its files are whole."""
        try:
            known = read_json(self._folder / _LAST_FILE)
            model = self._folder / str(known["version"]) / "model"
            whole = model.is_dir() and sha256_folder(model) == known["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Fetched(self._name, str(known["version"]), model) if whole else None

    def now(self) -> Fetched | None:
        """Return the champion, or the last known one where the registry cannot be asked, and say so; None: there is none.

        Raises:
            RegistryError: the registry cannot be asked, and nothing was fetched before.
        """
        try:
            version = self.look()
            return None if version is None else self.fetched(version)
        except RegistryError as error:
            last = self.last()
            if last is None:
                raise
            logger.warning("%s\nServing %s, the champion when the registry was last asked.", error, last.title)
            return last

    def keep_only(self, version: str) -> None:
        """Remove the files of all other versions."""
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name != version:
                shutil.rmtree(folder, ignore_errors=True)
