"""Other processes as tests see them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; a zombie has."""
    if not Path("/proc/self").exists():
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return the processes below one, at any depth; none where the system does not say."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):  # each thread has those that it started
        try:
            found += [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # the thread has ended
    return found + [below for child in found for below in descendants(child)]


def wait_until(what: str, is_true: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is true; fail if it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
