"""Processes: who this one is, whether another one lives, how many cores there are, and that none outlives its parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOKS_EVERY_S = 1.0


@dataclass(frozen=True)
class ProcessName:
    """Names a process among those of all machines.

    Attributes:
        place: the machine since it was started, and of its containers the one that shares process numbers.
        pid: number of the process there.
        started: tells it from a later process of the same number; "" where the system does not say.
    """

    place: str
    pid: int
    started: str

    def is_known_dead(self) -> bool:
        """Whether it is of this place and has ended; False if that cannot be known from here."""
        if self.place != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it is somebody else's, and lives
        # "": the system does not say, as of other users' processes where /proc hides them.
        return _started(self.pid) not in ("", self.started)


def this_process() -> ProcessName:
    """Return the name of the calling process."""
    return ProcessName(_place(), os.getpid(), _started(os.getpid()))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def follow_parent(parent: int | None = None) -> None:
    """Let this process end with the one that started it, whatever ends that; called first thing in its main thread.

    An interrupt goes to both, and is that one's to answer: here it is ignored.

    Args:
        parent: number of the process that started this one, in a thread that lives as long; where the system can (Linux), it
            then ends even what hangs. None: multiprocessing started it, and says which process wanted it: between the two a
            fork server may stand, which lives as long as those that it forked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wanted_by = multiprocessing.parent_process()
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        if parent is None:
            assert wanted_by is not None, "expected a process that multiprocessing has started"
            wanted_by.join()
        else:
            # For other systems, and for a parent that ended before the line above.
            while os.getppid() == parent:
                time.sleep(_LOOKS_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="follow parent", daemon=True).start()


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    try:
        # The name in brackets may hold blanks; of what follows it, the state is the first and the time of the start the 20th.
        found = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "ended" if found[0] in "ZX" else found[19]
    except (OSError, IndexError):
        return ""
