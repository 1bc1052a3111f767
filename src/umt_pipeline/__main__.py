"""`python -m umt_pipeline` is `kedro run`, for an installed package with no project folder around it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Call Kedro's run command of this package with command-line arguments."""
    package_name = Path(__file__).parent.name
    configure_project(package_name)
    # An interactive session must survive the command's sys.exit.
    kwargs["standalone_mode"] = not hasattr(sys, "ps1")
    return find_run_command(package_name)(*args, **kwargs)


if __name__ == "__main__":
    main()
