"""Reads `dvc status --json studies/dvc.yaml` and says what the studies' results belong to; exits with 1 if to nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

# What a study reads: it may have changed since, in code or by `dvc repro`.
READ = ("src/", "data/")


def main() -> int:
    """Print a line per change; return the exit code."""
    wrong = 0
    for stage, entries in json.load(sys.stdin).items():
        for what, path, state in changes(entries):
            if what == "changed deps" and path.startswith(READ):
                # Without the data that it read there is nothing to compare with.
                if state != "deleted":
                    print(f"{stage} was made with an earlier {path}")
                continue
            print(f"{stage}: {what}: {path} ({state}): run 'make claims', and commit what 'git status' shows", file=sys.stderr)
            wrong = 1
    return wrong


def changes(entries: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what kind of thing changed, which, and how. DVC says "changed command" without a path."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry, "dvc.yaml", "modified"
            continue
        for what, changed in entry.items():
            for path, state in changed.items():
                # Parameters stand below their file.
                yield what, path, state if isinstance(state, str) else ", ".join(state)


if __name__ == "__main__":
    sys.exit(main())
