"""A process that is killed leaves none behind, however the others were started."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import is_running, wait_until

PARENT = """
import multiprocessing, os, subprocess, sys, time
from tests.core.test_processes import CHILD, rest

if __name__ == "__main__":
    if sys.argv[1] == "subprocess":
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(os.getpid())])
        print(child.pid, flush=True)
    else:
        context = multiprocessing.get_context(sys.argv[1])
        children = [context.Process(target=rest) for _ in range(2)]
        for child in children:
            child.start()
        print(*(child.pid for child in children), flush=True)
    time.sleep(60)
"""
CHILD = """
import sys, time
from umt_pipeline.core.processes import follow_parent
follow_parent(int(sys.argv[1]))
time.sleep(60)
"""


def rest() -> None:
    from umt_pipeline.core.processes import follow_parent

    follow_parent()
    time.sleep(60)


@pytest.mark.parametrize("how", ["subprocess", "spawn", "forkserver"])
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path, root: Path, how: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), how]
    environment = {"PYTHONPATH": f"{root / 'src'}:{root}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert children
        time.sleep(0.5)  # they may be at their imports, and end then too
        assert all(map(is_running, children))
        parent.kill()
    wait_until("no child runs", lambda: not any(map(is_running, children)), 10)
