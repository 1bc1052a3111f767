"""What git says of the project."""

from __future__ import annotations

import subprocess
from pathlib import Path

from umt_pipeline.core.errors import ConfigError


def git(project: Path, *arguments: str) -> str:
    """Return what git prints, without the end of its last line.

    Raises:
        ConfigError: git is not there, or refuses.
    """
    command = ["git", "-C", str(project), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.rstrip("\n")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise ConfigError(f"`{' '.join(command[:4])}`: {said.strip()}") from error
