"""What runs in a worker of Ray: first it looks whether the worker is fit for the work, then it does it.

This module travels to the workers as it is, so that it can also tell of one where the package is missing or another one. So it
imports nothing of the package at the top, and nothing that is not Python's.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Witness:
    """A path as the driver sees it.

    Attributes:
        path: absolute.
        folder: it is one; else a file.
    """

    path: str
    folder: bool

    @classmethod
    def of(cls, path: Path) -> Witness | None:
        """Look at a path; None if it is nothing that can be read here, and so says nothing about other machines."""
        try:
            found = cls(str(path.absolute()), path.is_dir())
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            return None
        return None if found.problem() else found

    def problem(self) -> str | None:
        """Return what is different about the path here."""
        path = Path(self.path)
        if self.folder:
            return None if path.is_dir() else f"expected the folder {self.path}, found none"
        try:
            if path.is_file():
                path.open("rb").close()
                return None
        except OSError as error:
            return f"expected the file {self.path}, found that it cannot be read ({error.strerror})"
        return f"expected the file {self.path}, found none"


@dataclass(frozen=True)
class Job:
    """The work, and what a worker must have for it.

    Attributes:
        start: pickled; called once, with the cores, it gives what is called with each item.
        cores: that a worker may use.
        witnesses: paths that the driver sees.
        modules: what the key of the code is of.
        code: that key.
        versions: of the package, and of others, as they are with the driver.
    """

    start: bytes
    cores: int
    witnesses: tuple[Witness, ...]
    modules: tuple[str, ...]
    code: str
    versions: dict[str, str]


UNFIT, ERROR, RESULT = "unfit", "error", "result"


class Worker:
    """Does the work for the items of tables with columns ``place`` and ``item``; gives ``place`` and ``outcome``, pickled.

    Args:
        job: what is done. What is wrong with this worker is an outcome too: the first item tells it.
    """

    def __init__(self, job: Job) -> None:
        self._host = socket.gethostname()
        self._do: Callable[[Any], Any] | None = None
        self._failed: bytes | None = None
        problem = _unfit(job)
        if problem is not None:
            self._failed = pickle.dumps((UNFIT, f"Worker on host {self._host}: {problem}"))
            return
        try:
            self._do = pickle.loads(job.start)(job.cores)
        except Exception as error:
            self._failed = _error(error, self._host)

    def __call__(self, table: Any) -> dict[str, list[Any]]:
        """Return the outcomes of a table's items."""
        places, items = table["place"].to_pylist(), table["item"].to_pylist()
        return {"place": places, "outcome": [self._outcome(item) for item in items]}

    def _outcome(self, item: bytes) -> bytes:
        if self._failed is not None or self._do is None:
            return self._failed or b""
        try:
            return pickle.dumps((RESULT, self._do(pickle.loads(item))))
        except Exception as error:
            # What failed once ends the run: the rest of the table need not be tried.
            self._failed = _error(error, self._host)
            return self._failed


def _unfit(job: Job) -> str | None:
    for witness in job.witnesses:
        if (problem := witness.problem()) is not None:
            return f"{problem}. Mount the folder there under the same path as here"
    from importlib.metadata import PackageNotFoundError, version

    install = "Install the same version there as here"
    try:
        from umt_pipeline import __version__
        from umt_pipeline.core.identity import code_key
    except ImportError as error:
        return f"expected the package umt_pipeline, found none ({error}). {install}"
    for name, expected in job.versions.items():
        try:
            found = __version__ if name == "umt_pipeline" else version(name)
        except PackageNotFoundError:
            found = "none"
        if found != expected:
            return f"expected {name} {expected}, found {found}. {install}"
    if code_key(*job.modules) != job.code:
        return f"expected the code of {', '.join(job.modules)} to be the same as here, found another. {install}"
    return None


def _error(error: Exception, host: str) -> bytes:
    """Pickle an error; one that does not survive that travels as its text."""
    try:
        pickled = pickle.dumps((ERROR, (error, host)))
        pickle.loads(pickled)
    except Exception:
        return pickle.dumps((ERROR, (RuntimeError(f"{type(error).__name__}: {error}"), host)))
    return pickled
