"""Bodies of requests: ended when they are too long, too slow, or too many."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.types import Message

from umt_pipeline.server.app import make_app, make_serving
from umt_pipeline.server.bodies import BoundedBodies
from umt_pipeline.server.limits import Limits
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.server.problems import add_handlers
from umt_pipeline.server.state import Serving

pytestmark = pytest.mark.anyio

# 64 KiB beside it are for boundaries and names.
LIMITS = Limits(upload_mib=1 / 16, upload_s=0.2, bodies=1)
MOST = 2 * 2**16


class Sender:
    """Sends bodies to an application that takes them in, piece by piece."""

    def __init__(self) -> None:
        app = FastAPI()
        add_handlers(app)
        self.taken = 0

        @app.post("/")
        async def take(request: Request) -> int:
            async for piece in request.stream():
                self.taken += len(piece)
            return self.taken

        self.app = BoundedBodies(app, LIMITS, Metrics())

    async def send(self, pieces: asyncio.Queue[bytes | None], method: str = "POST", **headers: str) -> int:
        """Return the status; None ends the body, which has a file unless headers say otherwise."""
        headers = {"content_type": "multipart/form-data; boundary=x", **headers}
        told: list[Message] = []

        async def receive() -> Message:
            piece = await pieces.get()
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        async def send(message: Message) -> None:
            told.append(message)

        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": "/",
            "raw_path": b"/", "root_path": "", "scheme": "http", "query_string": b"", "server": ("x", 1), "client": ("x", 2),
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        return int(told[0]["status"])


def pieces(*given: bytes | None) -> asyncio.Queue[bytes | None]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    for piece in given:
        queue.put_nowait(piece)
    return queue


async def test_a_body_of_the_size_allowed_is_taken_in() -> None:
    sender = Sender()
    assert await sender.send(pieces(b"x" * (MOST - 1), b"x", None)) == 200
    assert sender.taken == MOST


async def test_one_that_is_too_long_is_ended_when_that_is_seen() -> None:
    sender = Sender()
    assert await sender.send(pieces(b"x"), content_length=str(MOST + 1)) == 413
    assert sender.taken == 0, "it says so itself"
    assert await sender.send(pieces(b"x" * MOST, b"x", b"x" * 10**6)) == 413
    assert sender.taken == MOST, "whatever it says"


async def test_what_cannot_hold_a_file_is_short() -> None:
    sender = Sender()
    assert await sender.send(pieces(b"x" * 2**16, None), content_type="application/x-www-form-urlencoded") == 200
    assert await sender.send(pieces(b"x" * 2**16, b"x"), content_type="application/json") == 413
    assert sender.taken == 2**17, "what is allowed of each, and no more"


class Upload:
    """A form that is sent piece by piece to a server without models.

    Attributes:
        sent: bytes that it has asked for.
        peak: bytes of memory that were taken meanwhile, at most.
    """

    def __init__(self, serving: Serving) -> None:
        transport = httpx.ASGITransport(make_app(serving), raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        self.sent = self.peak = 0

    async def post(self, files: int, mib: float, **headers: str) -> httpx.Response:
        async def form() -> AsyncIterator[bytes]:
            for number in range(files):
                yield f'--x\r\nContent-Disposition: form-data; name="file"; filename="{number}"\r\n\r\n'.encode()
                for _ in range(int(mib * 16)):
                    self.sent += 2**16
                    yield bytes(2**16)
                yield b"\r\n"
            yield b"--x--\r\n"

        self.sent = 0
        tracemalloc.start()
        try:
            headers = {"Content-Type": "multipart/form-data; boundary=x", **headers}
            return await self._client.post("/api/classify", content=form(), headers=headers)
        finally:
            self.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


async def test_a_file_goes_to_the_disk_while_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    serving = make_serving([], tmp_path / "cache", Limits(upload_mib=32))
    upload = Upload(serving)
    found = await upload.post(1, 31)
    assert (found.status_code, upload.sent) == (422, 31 * 2**20), "nothing can classify it, which is asked afterwards"
    assert upload.peak < 6 * 2**20
    found = await upload.post(1, 64)
    assert found.status_code == 413
    assert upload.sent <= 33 * 2**20, "the rest is not taken in"
    assert upload.peak < 6 * 2**20
    found = await upload.post(1, 64, **{"Content-Length": str(64 * 2**20)})
    assert (found.status_code, upload.sent <= 2**16) == (413, True), "it says so itself"
    found = await upload.post(100, 0.25)
    assert (found.status_code, found.json()["detail"]) == (400, "Too many files. Maximum number of files is 1.")
    assert upload.peak < 6 * 2**20
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]
    serving.thread.close()


async def test_one_that_does_not_come_is_not_waited_for() -> None:
    assert await Sender().send(pieces(b"x")) == 408


async def test_few_are_taken_in_at_a_time() -> None:
    sender, slow = Sender(), pieces(b"x")
    first = asyncio.create_task(sender.send(slow))
    await asyncio.sleep(0.01)
    assert await sender.send(pieces(None)) == 503
    assert await sender.send(pieces(), method="GET") == 405, "what has no body is not counted"
    slow.put_nowait(None)
    assert await first == 200
    assert await sender.send(pieces(None)) == 200
