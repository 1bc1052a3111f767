"""What a reader is: a function, the files it wants, and the counts that the public data set has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.annotations import Annotations
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.sources import Files

ReadFunction = Callable[[Files, Collector, str], None]


@dataclass(frozen=True)
class Role:
    """A kind of file that a reader takes.

    Attributes:
        name: what the file is read as.
        patterns: public names of such files, in lower case, with ``*``; none: always given as ROLE=FILE.
        required: the reader cannot do without it.
        many: there may be several.
    """

    name: str
    patterns: tuple[str, ...]
    required: bool = False
    many: bool = False

    def fits(self, path: Path) -> bool:
        """Return whether a file is called as this kind of file is."""
        return any(fnmatchcase(path.name.lower(), pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Reader:
    """What turns a data set's own annotation files into our tables.

    Attributes:
        name: by which it is asked for.
        what: the data set and the form of its files.
        function: reads the files.
        roles: the files that it takes.
        tables: the tables that it can give.
        suffix: of media files, where the annotations do not name it.
        known: for keys of :attr:`Annotations.counts` the counts of the public data set, or of its versions, where they
            are certain.
    """

    name: str
    what: str
    function: ReadFunction
    roles: tuple[Role, ...]
    tables: tuple[str, ...]
    suffix: str = ".mp4"
    known: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def read(self, given: Mapping[str, Sequence[Path]], media_suffix: str | None = None) -> Annotations:
        """Read files.

        Args:
            given: files by role.
            media_suffix: of media files; None: :attr:`suffix`.

        Returns:
            The tables, with a hash of every file, counts, and warnings.

        Raises:
            TableError: a role is unknown or missing, a file is not there, or its content is not what it should be.
        """
        self._check(given)
        files = Files(given)
        collector = Collector(self.name, files)
        self.function(files, collector, self.suffix if media_suffix is None else media_suffix)
        return collector.finish(self.known)

    def assign(self, arguments: Sequence[str]) -> dict[str, list[Path]]:
        """Find out what each file is.

        Args:
            arguments: files called as the public ones are, folders of such files, or ``ROLE=FILE``.

        Returns:
            Files by role.

        Raises:
            TableError: a file fits no role, or several.
        """
        given: dict[str, list[Path]] = {}
        for argument in arguments:
            name, separator, path = argument.partition("=")
            if separator and any(role.name == name for role in self.roles):
                given.setdefault(name, []).append(Path(path))
                continue
            for role, file in self._found(Path(argument)):
                given.setdefault(role.name, []).append(file)
        return given

    def _found(self, path: Path) -> list[tuple[Role, Path]]:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        fitting = [(file, [role for role in self.roles if role.fits(file)]) for file in files]
        if path.is_dir():
            fitting = [(file, roles) for file, roles in fitting if roles]
        for file, roles in fitting or [(path, [])]:
            if len(roles) != 1:
                fits = " and ".join(role.name for role in roles) or "none"
                raise TableError(
                    f"{file}: expected a name that fits one kind of file of reader {self.name}, found that of {fits}. "
                    f"Give it as ROLE={file} with one of the roles {', '.join(role.name for role in self.roles)}."
                )
        return [(roles[0], file) for file, roles in fitting]

    def _check(self, given: Mapping[str, Sequence[Path]]) -> None:
        roles = {role.name: role for role in self.roles}
        for name, paths in given.items():
            if name not in roles:
                raise TableError(f"Reader {self.name}: expected one of the roles {', '.join(roles)}, found '{name}'.")
            if len(paths) > 1 and not roles[name].many:
                raise TableError(
                    f"Reader {self.name}: expected one file as {name}, found {len(paths)}: {', '.join(map(str, paths))}."
                )
            for path in paths:
                if not path.is_file():
                    found = "a folder" if path.is_dir() else "nothing"
                    raise TableError(f"{path}: expected a file, found {found}.")
        missing = [role.name for role in self.roles if role.required and not given.get(role.name)]
        if missing or not any(given.values()):
            raise TableError(
                f"Reader {self.name}: expected files of the roles {', '.join(roles)}; "
                f"missing: {', '.join(missing) or 'all of them'}."
            )
