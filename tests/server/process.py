"""`umt serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.processes import wait_until

_ADDRESS = re.compile(r"The search page: (http://\S+)")


@dataclass
class ServeProcess:
    """The process.

    Attributes:
        process: of the operating system.
        said: on standard output and error.
    """

    process: subprocess.Popen[str]
    said: list[str]

    @property
    def url(self) -> str:
        """The address that it says."""
        found = _ADDRESS.search("".join(self.said))
        assert found is not None, "".join(self.said)
        return found[1]

    @property
    def base(self) -> str:
        """The address without what follows the port."""
        return self.url.partition("?")[0].rstrip("/")

    def is_up(self) -> bool:
        """Whether it answers; fails where it has ended."""
        assert self.process.poll() is None, "".join(self.said)
        return _ADDRESS.search("".join(self.said)) is not None

    def end(self) -> int:
        """Tell it to end, and return its exit status."""
        self.process.terminate()
        return self.process.wait(30)


def serve_command(*arguments: str | Path) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "umt_pipeline.commands.main", "serve", *map(str, arguments)]


@contextmanager
def serving(
    arguments: Sequence[str | Path], folder: Path, command: Sequence[str | Path] = (), **environment: str
) -> Iterator[ServeProcess]:
    """Yield a server that answers; it is ended with the block.

    Args:
        arguments: of `umt serve`.
        folder: that it is started in.
        command: that takes them, in place of `umt serve`.
        environment: variables.
    """
    variables = {**os.environ, "UMT_CACHE": str(folder / "cache"), "COLUMNS": "200", **environment}
    line = [*map(str, command), *map(str, arguments)] if command else serve_command(*arguments)
    process = subprocess.Popen(
        line, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    found = ServeProcess(process, [])

    def read() -> None:
        assert process.stdout is not None
        found.said.extend(process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_until("the server answers", found.is_up)
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()
