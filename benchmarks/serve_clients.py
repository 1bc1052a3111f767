"""A real server under many clients at once, each of which asks again as soon as it is answered."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import numpy as np

# A server loads a model and opens an index before it answers.
STARTS_WITHIN_S = 300.0


@dataclass
class Answers:
    """What the clients got.

    Args:
        seconds: from the first question to the last answer.
        client_cpu_s: processor time of the clients, which share the machine with the server.
        took_ms: of each answer that was right, as its client saw it.
        errors: how often what else came back, by status or by kind of error.
        found: the windows of the last answer to each question, the best first.
    """

    seconds: float = 0.0
    client_cpu_s: float = 0.0
    took_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    found: dict[str, list[int]] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        return len(self.took_ms) / self.seconds

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.took_ms, share)) if self.took_ms else float("nan")


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run `umt serve` on a free port; yield its address and its process' number once it is healthy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from umt_pipeline.commands.main import main; main()"
    command = [sys.executable, "-c", start, "serve", *options, "--port", str(port)]
    with TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}", process.pid
        except RuntimeError:
            said.seek(0)
            print(said.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(30)


def wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"umt serve ended with status {process.returncode}")
        try:
            if httpx.get(f"{address}/healthz", timeout=60).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise RuntimeError(f"umt serve was not healthy within {STARTS_WITHIN_S:.0f} s")


def ask(address: str, texts: Sequence[str], clients: int, seconds: float) -> Answers:
    """Let clients ask for so long."""
    answers = Answers()
    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(ask_all(address, texts, clients, began + seconds, answers))
    answers.seconds = time.perf_counter() - began
    answers.client_cpu_s = time.process_time() - cpu
    return answers


async def ask_all(address: str, texts: Sequence[str], clients: int, until: float, answers: Answers) -> None:
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as session:
        # Each client in an order of its own.
        orders = [random.Random(number).sample(list(texts), len(texts)) for number in range(clients)]
        await asyncio.gather(*(ask_again(session, order, until, answers) for order in orders))


async def ask_again(session: httpx.AsyncClient, texts: Sequence[str], until: float, answers: Answers) -> None:
    number = 0
    while (began := time.perf_counter()) < until:
        text = texts[number % len(texts)]
        number += 1
        try:
            answer = await session.get("/api/search", params={"q": text, "k": 10})
        except httpx.HTTPError as error:
            answers.errors[type(error).__name__] += 1
            continue
        if answer.status_code != 200:
            answers.errors[str(answer.status_code)] += 1
            continue
        answers.took_ms.append(1000 * (time.perf_counter() - began))
        answers.found[text] = [hit["window"] for hit in answer.json()["hits"]]


def memory_mib(process: int | str = "self") -> dict[str, float]:
    """Return a process' own memory and what it has of files, in MiB: `RssAnon`, `RssFile`."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    parts = dict(line.split(":", 1) for line in lines)
    return {key: float(parts[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile")}
