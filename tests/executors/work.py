"""Work that Ray's workers do in tests: in a module, since it travels to them by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path


def double(folder: Path, cores: int) -> Callable[[int], tuple[int, int]]:
    """Return what doubles numbers, tells its process, and kills that once it has number 5 for the first time."""
    return partial(_double, folder)


def _double(folder: Path, number: int) -> tuple[int, int]:
    if number == 5 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return 2 * number, os.getpid()


def poison(cores: int) -> Callable[[int], int]:
    """Return what kills its process each time that it has number 1."""
    return _die_of_one


def _die_of_one(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refusing(cores: int) -> Callable[[int], int]:
    """Return what can do number 0 alone."""
    return _refuse


def _refuse(number: int) -> int:
    if number:
        raise ValueError(f"expected 0, found {number}")
    return number


def busy(folder: Path, cores: int) -> Callable[[int], int]:
    """Return what writes down its process and then takes a minute."""
    return partial(_busy, folder)


def _busy(folder: Path, number: int) -> int:
    (folder / str(os.getpid())).touch()
    time.sleep(60)
    return number


class OddError(Exception):
    """An error that cannot be unpickled: it wants two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def unpicklable(cores: int) -> Callable[[int], int]:
    """Fail at the start, with an error that cannot travel."""
    raise OddError("cannot", "travel")
