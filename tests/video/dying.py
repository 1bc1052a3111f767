"""Stand-ins for decoders that crash, hang or eat memory; by themselves, so that the processes of the tests start quickly."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from umt_pipeline.video.guarded import Extend, ReadLimits, run_guarded


def behave(path: Path, extend: Extend) -> str:
    """Do what the file's name says, and write down in the file that it was done."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(f"{os.getpid()}\n")
    kind = path.stem.partition("-")[0]
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "abort":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    elif kind == "raise":
        raise ValueError("of no kind that is expected")
    elif kind == "hang":
        time.sleep(3600.0)
    elif kind == "hog":
        return str(len(bytearray(2**31)))
    elif kind == "slow":  # longer than the limit, as it says beforehand
        extend(10.0)
        time.sleep(2.5)
    elif kind == "liar":
        extend(1e9)
        time.sleep(3600.0)
    elif kind == "exit":
        sys.exit(3)
    return path.name


def hang(folder: str) -> None:
    """The main function of a process that is to be killed: two workers hang."""
    list(run_guarded(behave, [Path(folder, "hang-0"), Path(folder, "hang-1")], ReadLimits(), workers=2))
