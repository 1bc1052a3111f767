"""The wish that training stop soon: asked for by a signal, or because the process that started this one is gone.

A rank that was asked to stop saves a checkpoint, with all others, and ends well. ``training.torchrun``, which starts ranks on a
machine, and ranks talk through a folder of that machine (:data:`FOLDER_VARIABLE`): a file named after each rank's process,
locked while it lives, ``stop`` once stopping was asked for, ``interrupted`` once a rank has stopped before the end of its run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from umt_pipeline.core.locking import try_lock

INTERRUPTED_STATUS = 75
"""Exit status of a process that saved a checkpoint and stopped because it was asked to: start it again (EX_TEMPFAIL)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
FOLDER_VARIABLE = "UMT_RANKS"
STARTED_BY_VARIABLE = "UMT_STARTED_BY"
"""The process that started the launcher for itself and waits for it; not set where somebody else did."""
STOP, INTERRUPTED = "stop", "interrupted"


class _Wish:
    # Plain values: a lock in a signal handler may be one that the interrupted code holds.
    asked: bool = False
    listening: bool = False
    parent: int | None = None
    # Of the rank's file, open for its lock.
    handle: IO[bytes] | None = None


def listen() -> None:
    """Take SIGTERM and SIGUSR1 as the wish to stop, from now on; called once, by the main thread of a rank."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: ask())
    _Wish.listening = True
    if started_by_launcher():
        _Wish.parent = os.getppid()
    if (folder := _folder()) is not None:
        _Wish.handle = (folder / str(os.getpid())).open("ab")
        try_lock(_Wish.handle)
        if (folder / STOP).exists():
            ask()


@contextmanager
def kept_from_children() -> Iterator[None]:
    """In a rank that listens: let processes that are started in the block, and theirs, never get the signals.

    Schedulers send them to all processes of a job. Those that read for a rank would end at once, and the rank could not compute
    the steps in which all ranks agree to stop. They end when the rank tells them to.
    """
    if not _Wish.listening:
        yield
        return
    # Blocked signals stay so in a child; for this process they wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ranks_at_work(folder: Path) -> list[int]:
    """Return the processes of the ranks that are alive; a number by itself might be another process's by now."""
    found = []
    for path in folder.iterdir():
        if path.name.isdigit():
            with path.open("ab") as handle:
                if not try_lock(handle):
                    found.append(int(path.name))
    return found


def ask() -> None:
    """Wish that this process stop."""
    _Wish.asked = True


def asked() -> bool:
    """Whether to stop. A rank whose parent died would hold its device, and its place in the run, for nobody."""
    return _Wish.asked or (_Wish.parent is not None and os.getppid() != _Wish.parent)


def started_by_launcher() -> bool:
    """Whether this process is a rank of ``torch.distributed.run``, which takes any status but 0 for a failure to restart."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def tell_interrupted() -> None:
    """Tell the launcher on this machine that the run stopped before its end."""
    if (folder := _folder()) is not None:
        (folder / INTERRUPTED).touch()


def _folder() -> Path | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    return None if folder is None else Path(folder)
