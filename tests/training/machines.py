"""Machines of a cluster: network namespaces on this one where root may make them, else processes that share its loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from umt_pipeline.training.stopping import FOLDER_VARIABLE


@dataclass
class Machine:
    """One machine: its address, network interface and namespace, and the launcher that runs there."""

    address: str
    interface: str
    namespace: str | None
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, spec: Path, arguments: list[str]) -> None:
        """Start its two ranks."""
        command = [sys.executable, "-m", "umt_pipeline.training.torchrun", "--local-addr", self.address, *arguments]
        command += ["-m", "umt_pipeline.training.launch", str(spec)]
        if self.namespace is not None:
            command = ["ip", "netns", "exec", self.namespace, *command]
        paths = (ROOT / "src", ROOT / "tests" / "training", ROOT)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        environment |= {"GLOO_SOCKET_IFNAME": self.interface, "PYTHONUNBUFFERED": "1"}
        environment.pop(FOLDER_VARIABLE, None)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def ranks(self) -> list[int]:
        """Process ids of its ranks."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children if b"training.launch" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def kill(self) -> None:
        """End it as a power cut does: launcher and ranks."""
        assert self.process is not None
        for process in (self.process.pid, *self.ranks()):
            os.kill(process, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float) -> int:
        """Wait for its end and return the status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def cut(self, cut: bool) -> None:
        """Pull the network cable, or put it back."""
        assert self.namespace is not None
        _ip("-n", self.namespace, "link", "set", self.interface, "down" if cut else "up")

    def clear(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for process in (*self.ranks(), self.process.pid):
                os.kill(process, signal.SIGKILL)
            self.process.wait()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a network between them, for as long as the block runs."""
    names = [f"umt{os.getpid()}{letter}" for letter in "ab"]
    isolated = _isolate(names)
    machines = tuple(
        Machine(f"10.77.0.{number}", f"v{name}", name, folder / f"machine{number}.log")
        if isolated
        else Machine("127.0.0.1", "lo", None, folder / f"machine{number}.log")
        for number, name in enumerate(names, start=1)
    )
    try:
        yield machines[0], machines[1]
    finally:
        for machine in machines:
            machine.clear()
        for name in names if isolated else []:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _isolate(names: list[str]) -> bool:
    """Make two network namespaces with a cable between them; return whether that is allowed here."""
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", f"v{names[0]}", "netns", names[0], "type", "veth", "peer", "name", f"v{names[1]}", "netns", names[1])
        for number, name in enumerate(names, start=1):
            _ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", f"v{name}")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", f"v{name}", "up")
    except (OSError, subprocess.CalledProcessError):
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        return False
    return True


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(happened: Callable[[], bool], machines: tuple[Machine, ...], seconds: float = 120.0) -> None:
    """Wait for something; fail with the machines' logs if it does not happen."""
    deadline = time.monotonic() + seconds
    while not happened():
        logs = "\n".join(machine.said()[-3000:] for machine in machines)
        assert time.monotonic() < deadline, f"did not happen within {seconds} s:\n{logs}"
        time.sleep(0.05)
