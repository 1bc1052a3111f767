"""Other programs that a command calls: git, gh, dvc, and `umt` itself; their failures as ours."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from umt_pipeline.core.errors import ConfigError

# Of what a program said before it failed.
_LINES = 12


def _environment() -> dict[str, str]:
    # DVC's stages call `kedro`: the one beside this Python, if the terminal has no other.
    return {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])}


@dataclass(frozen=True)
class Shell:
    """Calls programs in a folder.

    Attributes:
        folder: where they work.
        environment: their variables.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=_environment)

    def has(self, program: str) -> bool:
        """Whether a program is found on the PATH."""
        return shutil.which(program, path=self.environment["PATH"]) is not None

    def read(self, *command: str) -> str:
        """Return what a program prints, without the end of its last line.

        Raises:
            ConfigError: it is not there, or fails; with its last words.
        """
        done = self._call(command, capture=True)
        if done.returncode:
            raise ConfigError(_failure(command, done))
        return done.stdout.rstrip("\n")

    def try_read(self, *command: str) -> str | None:
        """Return what a program prints, or None if it fails.

        Raises:
            ConfigError: it is not there.
        """
        done = self._call(command, capture=True)
        return None if done.returncode else done.stdout.rstrip("\n")

    def show(self, *command: str, fine: tuple[int, ...] = (0,), remedy: str = "") -> int:
        """Run a program that speaks to the terminal; return its exit status.

        Args:
            command: the program and its arguments.
            fine: exit statuses that are no failure.
            remedy: what to do after another one.

        Raises:
            ConfigError: it is not there, or ends with another status.
        """
        sys.stdout.flush()
        done = self._call(command, capture=False)
        if done.returncode not in fine:
            raise ConfigError(f"{_failure(command, done)}{f' {remedy}' if remedy else ''}")
        return done.returncode

    def _call(self, command: tuple[str, ...], capture: bool) -> subprocess.CompletedProcess[str]:
        program = shutil.which(command[0], path=self.environment["PATH"])
        if program is None:
            raise ConfigError(f"{command[0]}: expected a program of this name on the PATH, found none. Install it.")
        return subprocess.run(
            [program, *command[1:]], cwd=self.folder, env=dict(self.environment), capture_output=capture, text=True, check=False
        )


def _failure(command: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> str:
    words = "\n".join(f"{done.stdout or ''}{done.stderr or ''}".strip().splitlines()[-_LINES:])
    return f"`{shlex.join(command)}` ended with status {done.returncode}{f': {words}' if words else '; it said why above.'}"
