"""The champion of the registry: which version it is now, and which one it was when the registry could last be asked."""

from __future__ import annotations

import logging
from pathlib import Path

from umt_pipeline.core.errors import RegistryError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.registry.loading import found_version
from umt_pipeline.registry.names import CHAMPION, registered_name
from umt_pipeline.registry.reading import Version, connect, version_at
from umt_pipeline.serving.sources import Found

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"


class Champion:
    """The version of a corpus' model that has the alias ``champion``.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model.
        note: JSON file that keeps which version it was.
    """

    def __init__(self, project: Path, corpus: str | None, kind: str, note: Path) -> None:
        self._project, self._corpus, self._note = project, corpus, note
        self._name = registered_name(corpus, kind)

    def look(self) -> Version | None:
        """Return which version it is; None: there is none.

        Raises:
            RegistryError: the registry cannot be asked.
        """
        target = connect(self._project, self._corpus)
        # MLflow would make the database, which takes seconds, to say that it is empty.
        if target.uri.startswith(_SQLITE) and not Path(target.uri.removeprefix(_SQLITE)).exists():
            return None
        return version_at(self._name, CHAMPION)

    def files(self, version: Version) -> Found:
        """Return a version's files, as they were registered, and note that it was the champion.

        Raises:
            RegistryError: they are gone or changed, or cannot be had.
        """
        found = found_version(version, f"models:/{version.name}/{version.version}")
        write_json(self._note, {"version": version.version, "tags": dict(version.tags)})
        return found

    def now(self) -> tuple[Version, Found] | None:
        """Return the champion with its files, or the last one where the registry cannot be asked, and say so; None: none is.

        Raises:
            RegistryError: the registry cannot be asked, and the files of the last one are not here either.
        """
        try:
            version = self.look()
            return None if version is None else (version, self.files(version))
        except RegistryError as error:
            last = self._last()
            if last is None:
                raise
            title = f"{last[0].name} version {last[0].version}"
            logger.warning("%s\nServing %s, the champion when the registry could last be asked.", error, title)
            return last

    def _last(self) -> tuple[Version, Found] | None:
        try:
            known = read_json(self._note)
            version = Version(self._name, str(known["version"]), dict(known["tags"]), {})
            return version, found_version(version, f"models:/{version.name}/{version.version}")
        except (OSError, ValueError, KeyError, TypeError, RegistryError):
            return None
