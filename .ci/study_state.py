"""Reads `dvc status --json studies/dvc.yaml` and says what the studies' results belong to; exits with 1 if to nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any


def main() -> int:
    """Print a line per change; return the exit code."""
    wrong = 0
    for stage, entries in json.load(sys.stdin).items():
        for what, path, state in changes(entries):
            if what == "changed deps" and isinstance(state, str):
                # Code or data, which may have changed since. Without the data that it read there is nothing to compare with.
                if state != "deleted":
                    print(f"{stage} was made with an earlier {path}")
                continue
            shown = state if isinstance(state, str) else ", ".join(state)
            print(f"{stage}: {what}: {path} ({shown}): run 'make claims', and commit what 'git status' shows", file=sys.stderr)
            wrong = 1
    return wrong


def changes(entries: list[Any]) -> Iterator[tuple[str, str, str | dict[str, str]]]:
    """Yield what kind of thing changed, which, and how: of a file of parameters, each of them.

    DVC says "changed command" without a path.
    """
    for entry in entries:
        if isinstance(entry, str):
            yield entry, "dvc.yaml", "modified"
            continue
        for what, changed in entry.items():
            for path, state in changed.items():
                yield what, path, state


if __name__ == "__main__":
    sys.exit(main())
